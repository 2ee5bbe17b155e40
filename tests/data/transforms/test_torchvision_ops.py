"""Steps on tensors: what torchvision's own transforms make of the same parameters."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from eca_lightning.data.transforms.augmentation import PixelOp
from eca_lightning.data.transforms.torchvision_ops import apply_steps


@pytest.fixture(scope="module")
def picture(image_folder):
    with Image.open(image_folder / "cat" / "0.jpg") as image:
        return v2.functional.pil_to_tensor(image)


def step(operation, *parameters):
    return np.array([[operation, *parameters, *[0] * (7 - len(parameters))]], float)


@pytest.mark.parametrize(
    ("operation", "name", "parameter", "magnitude"),
    [
        (PixelOp.IDENTITY, "Identity", 0, 0),
        (PixelOp.SHEAR_X, "ShearX", 0.3, 0.3),
        (PixelOp.SHEAR_X, "ShearX", -0.99, -0.99),
        (PixelOp.SHEAR_Y, "ShearY", 0.2, 0.2),
        (PixelOp.TRANSLATE_X, "TranslateX", 31, 31.9),
        (PixelOp.TRANSLATE_Y, "TranslateY", -17, -17),
        (PixelOp.ROTATE, "Rotate", 27, 27),
        (PixelOp.ROTATE, "Rotate", -135, -135),
        (PixelOp.BRIGHTNESS, "Brightness", 1.4, 0.4),
        (PixelOp.SATURATION, "Color", 0.1, -0.9),
        (PixelOp.CONTRAST, "Contrast", 1.9, 0.9),
        (PixelOp.SHARPNESS, "Sharpness", 1.9, 0.9),
        (PixelOp.POSTERIZE, "Posterize", 3, 3),
        (PixelOp.SOLARIZE, "Solarize", 127.5, 0.5),
        (PixelOp.AUTO_CONTRAST, "AutoContrast", 0, 0),
        (PixelOp.EQUALIZE, "Equalize", 0, 0),
    ],
)
def test_policies_operations(picture, operation, name, parameter, magnitude):
    peer = v2.TrivialAugmentWide()
    expected = peer._apply_image_or_video_transform(
        picture, name, magnitude, interpolation=peer.interpolation, fill=peer._fill
    )
    result = apply_steps(picture, step(operation, parameter))
    assert result.dtype == torch.uint8
    assert torch.equal(result, expected)
    assert torch.equal(result, picture) == (name == "Identity")


def test_hue(picture):
    expected = v2.ColorJitter(hue=(0.2, 0.2))(picture)
    assert torch.equal(apply_steps(picture, step(PixelOp.HUE, 0.2)), expected)


def test_erasing(picture):
    result = apply_steps(picture, step(PixelOp.ERASE, 10, 20, 30, 40, 1, 2, 3))
    expected = picture.clone()
    expected[:, 10:40, 20:60] = torch.tensor([1, 2, 3], dtype=torch.uint8)[:, None, None]
    assert torch.equal(result, expected)


def test_steps_follow_each_other(picture):
    erase, rotate = step(PixelOp.ERASE, 0, 0, 30, 30, 255, 255, 255), step(PixelOp.ROTATE, 30)
    both = apply_steps(picture, np.concatenate([erase, rotate]))
    assert torch.equal(both, apply_steps(apply_steps(picture, erase), rotate))
    assert torch.equal(apply_steps(picture, np.empty((0, 8))), picture)
