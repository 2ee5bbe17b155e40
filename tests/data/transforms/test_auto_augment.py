"""TrivialAugment and RandAugment: the choices of torchvision's, with their frequencies."""

from collections import Counter

import numpy as np
import pytest
import torch
from thorough import thorough
from torchvision.transforms import v2

from eca_lightning import RandAugment, TrivialAugment
from eca_lightning.data.transforms.augmentation import PixelOp
from eca_lightning.data.transforms.crop import uniforms

HEIGHT, WIDTH = 60, 331  # of different size, so that translations across and down differ
PARAMETERS = {
    "Identity": (PixelOp.IDENTITY, lambda m: m),
    "ShearX": (PixelOp.SHEAR_X, lambda m: m),
    "ShearY": (PixelOp.SHEAR_Y, lambda m: m),
    "TranslateX": (PixelOp.TRANSLATE_X, int),
    "TranslateY": (PixelOp.TRANSLATE_Y, int),
    "Rotate": (PixelOp.ROTATE, lambda m: m),
    "Brightness": (PixelOp.BRIGHTNESS, lambda m: 1 + m),
    "Color": (PixelOp.SATURATION, lambda m: 1 + m),
    "Contrast": (PixelOp.CONTRAST, lambda m: 1 + m),
    "Sharpness": (PixelOp.SHARPNESS, lambda m: 1 + m),
    "Posterize": (PixelOp.POSTERIZE, int),
    "Solarize": (PixelOp.SOLARIZE, lambda m: 255 * m),
    "AutoContrast": (PixelOp.AUTO_CONTRAST, lambda m: m),
    "Equalize": (PixelOp.EQUALIZE, lambda m: m),
}
"""Our operation for each of torchvision's, and its parameter for their magnitude."""


def choices_of_torchvision(policy, count):
    """The operations that a policy of torchvision's carries out on some images, in order."""
    chosen = []

    def record(image, name, magnitude, **_):
        operation, parameter = PARAMETERS[name]
        chosen.append((operation, parameter(magnitude)))
        return image

    policy._apply_image_or_video_transform = record
    torch.manual_seed(0)
    image = torch.empty(3, HEIGHT, WIDTH, dtype=torch.uint8)
    for _ in range(count):
        policy(image)
    return chosen


def our_choices(policy, count):
    numbers = uniforms(3, 0, np.arange(count), policy.draws)
    steps = policy.steps(numbers, HEIGHT, WIDTH)
    assert not steps[:, :, 2:].any()
    return [(int(code), value) for code, value in steps[:, :, :2].reshape(-1, 2)]


@pytest.mark.parametrize(
    ("ours", "theirs", "count"),
    [
        (TrivialAugment(8), v2.TrivialAugmentWide(8), 4000),
        (RandAugment(), v2.RandAugment(), 2000),
        *thorough(
            (TrivialAugment(), v2.TrivialAugmentWide(), 16_000),
            (RandAugment(3, 20, 24), v2.RandAugment(3, 20, 24), 1000),
        ),
    ],
)
def test_choices_are_torchvisions_exactly_and_as_frequent(ours, theirs, count):
    theirs = Counter(choices_of_torchvision(theirs, count))
    ours = Counter(our_choices(ours, 4 * count))
    assert set(ours) == set(theirs)
    chi_squared = sum(
        (ours[choice] / 2 - theirs[choice] * 2) ** 2 / (ours[choice] + theirs[choice])
        for choice in ours
    )
    freedom = len(ours) - 1
    # More than four standard deviations above the mean: chance below 1e-3 for few degrees of
    # freedom, 1e-4 for many; the samples are always the same.
    assert chi_squared < freedom + 4 * np.sqrt(2 * freedom)


def test_operations_of_randaugment_are_independent():
    numbers = uniforms(0, 0, np.arange(20_000), 4)
    first, second = RandAugment().steps(numbers, HEIGHT, WIDTH)[:, :, 0].astype(int).T
    counts = np.histogram2d(first, second, bins=14, range=((0, 14), (0, 14)))[0]
    expected = 20_000 / 14**2
    assert ((counts - expected) ** 2 / expected).sum() < 195 + 4 * np.sqrt(2 * 195)


def test_translations_follow_the_size():
    policy = RandAugment(magnitude=30)
    numbers = uniforms(0, 0, np.arange(500), policy.draws)
    for height, width in ((224, 224), (96, 128)):
        steps = policy.steps(numbers, height, width).reshape(-1, 8)
        for code, length in ((PixelOp.TRANSLATE_X, width), (PixelOp.TRANSLATE_Y, height)):
            pixels = np.abs(steps[steps[:, 0] == code, 1])
            assert (pixels == int(150 / 331 * length)).all()
