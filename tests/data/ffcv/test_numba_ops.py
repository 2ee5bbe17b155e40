"""Compiled steps against torchvision's functions, over the whole range of their parameters."""

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("ffcv")

from eca_lightning.data.ffcv.ffcv_api import compiled, numba
from eca_lightning.data.ffcv.numba_ops import apply_steps
from eca_lightning.data.transforms import torchvision_ops as tensor_ops
from eca_lightning.data.transforms.augmentation import PixelOp


@pytest.fixture(scope="module")
def pictures(image_folder):
    """Photographs of several shapes, one of 224 pixels, a gray one, noise and a flat one."""
    files = sorted(image_folder.glob("*/[0-2].jpg"))
    images = [np.array(Image.open(file)) for file in files]
    large = np.array(Image.open(files[0]).resize((224, 224)))
    gray = np.repeat(large[:150, :, :1], 3, axis=2)
    noise = np.random.default_rng(0).integers(0, 256, (61, 47, 3), np.uint8)
    return [*images[:3], large, gray, noise, np.full((5, 6, 3), 77, np.uint8)]


def step(operation, *parameters):
    return np.array([[operation, *parameters, *[0] * (7 - len(parameters))]], float)


def both(picture, steps):
    ours = picture.copy()
    apply_steps(ours, steps)
    theirs = tensor_ops.apply_steps(torch.from_numpy(picture).permute(2, 0, 1), steps)
    return ours.astype(int), theirs.permute(1, 2, 0).numpy().astype(int)


FACTORS = [0.0, 0.01, 0.3, 0.5, 0.7, 0.999, 1.0, 1.033, 1.5, 1.99, 3.0]


@pytest.mark.parametrize(
    ("operation", "parameters"),
    [
        (PixelOp.IDENTITY, [0]),
        (PixelOp.BRIGHTNESS, FACTORS),
        (PixelOp.SHARPNESS, FACTORS),
        (PixelOp.POSTERIZE, range(9)),
        (PixelOp.SOLARIZE, [0, 8.5, 51, 127, 127.5, 254.9, 255]),
        (PixelOp.AUTO_CONTRAST, [0]),
        (PixelOp.EQUALIZE, [0]),
        (PixelOp.TRANSLATE_X, [-500, -32, -1, 0, 1, 17, 32]),
        (PixelOp.TRANSLATE_Y, [-500, -32, -1, 0, 1, 17, 32]),
        (PixelOp.ROTATE, [0, 180]),
    ],
)
def test_is_torchvisions_exactly(pictures, operation, parameters):
    for parameter in parameters:
        for picture in pictures:
            ours, theirs = both(picture, step(operation, parameter))
            assert np.array_equal(ours, theirs), parameter


@pytest.mark.parametrize(
    ("operation", "parameters", "share"),
    [
        (PixelOp.CONTRAST, FACTORS, 0),
        (PixelOp.SATURATION, FACTORS, 0.001),
        (PixelOp.HUE, [-0.5, -0.31, -0.1, 0.0, 1e-9, 0.02, 0.25, 1 / 3, 0.5], 0.001),
    ],
)
def test_is_torchvisions_to_one_level(pictures, operation, parameters, share):
    """Beyond a share of the values, which floor differently, exactly."""
    for parameter in parameters:
        for picture in pictures:
            difference = np.abs(np.subtract(*both(picture, step(operation, parameter))))
            assert difference.max() <= 1
            assert (difference > 0).mean() <= share, parameter


@pytest.mark.parametrize(
    ("operation", "greatest", "share"),
    [
        (PixelOp.SHEAR_X, 0.99, 0.01),
        (PixelOp.SHEAR_Y, 0.99, 0.01),
        (PixelOp.ROTATE, 135, 0.01),
        # A shear by 0.2 is half-way between two pixels in each fifth row.
        (PixelOp.SHEAR_X, 0.3, 0.15),
        (PixelOp.SHEAR_Y, 0.3, 0.15),
        (PixelOp.ROTATE, 30, 0.01),
    ],
)
def test_moves_to_torchvisions_pixels(pictures, operation, greatest, share):
    """But where float32 decides, half-way between two pixels, and there one of the two."""
    picture = pictures[3]
    shares = []
    for parameter in np.linspace(-greatest, greatest, 61):
        ours, theirs = both(picture, step(operation, parameter))
        differs = (ours != theirs).any(axis=2)
        shares.append(differs.mean())
        for tilt in (1 - 1e-4, 1 + 1e-4) if differs.any() else ():
            _, neighbor = both(picture, step(operation, parameter * tilt))
            differs &= (ours != neighbor).any(axis=2)
        assert differs.mean() < 1e-4
    assert max(shares) < share
    assert np.mean(shares) < 0.01


@pytest.mark.parametrize("quarters", [1, -1, 2])
def test_a_quarter_turn_of_a_square_is_exact(pictures, quarters):
    ours, _ = both(pictures[3], step(PixelOp.ROTATE, 90 * quarters))
    assert np.array_equal(ours, np.rot90(pictures[3], quarters))


def test_grey_stays_grey_in_every_hue():
    gray = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    ours, _ = both(gray, step(PixelOp.HUE, 0.3))
    assert np.array_equal(ours, gray)


def test_every_color_of_a_coarse_cube_turns_as_torchvisions():
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(18, -1, 3)
    for turn in (-0.5, -1 / 6, 0.1, 1 / 3, 0.49):
        assert np.abs(np.subtract(*both(cube, step(PixelOp.HUE, turn)))).max() <= 1


def test_erases_a_rectangle(pictures):
    for rectangle in ((3, 5, 20, 30), (0, 0, 60, 40), (7, 7, 0, 0)):
        ours, theirs = both(pictures[5], step(PixelOp.ERASE, *rectangle, 124, 116, 104))
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 9, 3), (9, 2, 3)])
def test_tiny_images(shape):
    picture = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    for operation in (PixelOp.SHARPNESS, PixelOp.EQUALIZE, PixelOp.AUTO_CONTRAST, PixelOp.CONTRAST):
        ours, theirs = both(picture, step(operation, 1.7))
        assert np.array_equal(ours, theirs)


def test_steps_follow_each_other(pictures):
    steps = np.concatenate(
        [
            step(PixelOp.ERASE, 0, 0, 30, 30, 255, 0, 255),
            step(PixelOp.TRANSLATE_X, 12),
            step(PixelOp.IDENTITY),
            step(PixelOp.BRIGHTNESS, 0.5),
        ]
    )
    ours, theirs = both(pictures[3], steps)
    assert np.array_equal(ours, theirs)
    assert ours[10, 20].tolist() == [127, 0, 127]


def test_functions_compile_where_nothing_can_be_kept(monkeypatch):
    """Numba refuses to cache a function when no folder can be written to."""
    njit = numba.njit

    def without_a_folder(cache=False, **options):
        def refuse(function):
            raise RuntimeError("cannot cache function: no locator available")

        return refuse if cache else njit(**options)

    monkeypatch.setattr(numba, "njit", without_a_folder)

    @compiled
    def twice(number):
        return 2 * number

    assert twice(3) == 6
