"""Augmentation steps on tensors by torchvision: used for image folders."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from eca_lightning.data.transforms.augmentation import PixelOp


def apply_steps(image: Tensor, steps: NDArray[np.float64]) -> Tensor:
    """Apply steps, see `augmentation`, to a copy of an image, uint8, of shape ``(3, H, W)``."""
    for code, *parameters in steps.tolist():
        image = _apply(PixelOp(int(code)), image, *parameters)
    return image


def _apply(operation: PixelOp, image: Tensor, value: float, *rest: float) -> Tensor:
    match operation:
        case PixelOp.SHEAR_X | PixelOp.SHEAR_Y:
            degrees = float(np.degrees(np.arctan(value)))
            shear = [degrees, 0.0] if operation is PixelOp.SHEAR_X else [0.0, degrees]
            # The policies shear about the top left corner.
            return F.affine(image, 0.0, [0, 0], 1.0, shear, center=[0.0, 0.0])
        case PixelOp.TRANSLATE_X:
            return F.affine(image, 0.0, [value, 0.0], 1.0, [0.0, 0.0])
        case PixelOp.TRANSLATE_Y:
            return F.affine(image, 0.0, [0.0, value], 1.0, [0.0, 0.0])
        case PixelOp.ROTATE:
            return F.rotate(image, value)
        case PixelOp.BRIGHTNESS:
            return F.adjust_brightness(image, value)
        case PixelOp.SATURATION:
            return F.adjust_saturation(image, value)
        case PixelOp.CONTRAST:
            return F.adjust_contrast(image, value)
        case PixelOp.SHARPNESS:
            return F.adjust_sharpness(image, value)
        case PixelOp.POSTERIZE:
            return F.posterize(image, int(value))
        case PixelOp.SOLARIZE:
            return F.solarize(image, value)
        case PixelOp.AUTO_CONTRAST:
            return F.autocontrast(image)
        case PixelOp.EQUALIZE:
            return F.equalize(image)
        case PixelOp.HUE:
            return F.adjust_hue(image, value)
        case PixelOp.ERASE:
            left, height, width = (int(number) for number in rest[:3])
            color = torch.tensor(rest[3:])[:, None, None]
            return F.erase(image, int(value), left, height, width, color)
    return image
