"""Augmentation steps on arrays in place, compiled by numba: used for .beton files.

Each operation equals torchvision's of the same name for uint8 tensors. Where rounding is visible,
torch's arithmetic is repeated: float32, with one rounding for a product and its sum, as in torch's
vector code. The result depends neither on the machine nor on the threads, and differs from
torchvision's rarely and by one level.
"""

import math

import numpy as np
from numpy.typing import NDArray

from eca_lightning.data.ffcv.ffcv_api import compiled
from eca_lightning.data.transforms.augmentation import PixelOp

Image = NDArray[np.uint8]
"""Pixels of shape ``(height, width, 3)``."""


@compiled
def apply_steps(image: Image, steps: NDArray[np.float64]) -> None:
    """Apply the steps of one image.

    Args:
        image: Pixels, uint8, of shape ``(height, width, 3)``, changed in place.
        steps: Rows of an operation and its parameters, see `transforms.augmentation`.
    """
    for number in range(len(steps)):
        step = steps[number]
        operation = int(step[0])
        value = step[1]
        if operation == PixelOp.SHEAR_X:
            _move(image, 1.0, value, 0.5 * value, 0.0, 1.0, 0.0)
        elif operation == PixelOp.SHEAR_Y:
            _move(image, 1.0, 0.0, 0.0, value, 1.0, 0.5 * value)
        elif operation == PixelOp.TRANSLATE_X:
            _move(image, 1.0, 0.0, -value, 0.0, 1.0, 0.0)
        elif operation == PixelOp.TRANSLATE_Y:
            _move(image, 1.0, 0.0, 0.0, 0.0, 1.0, -value)
        elif operation == PixelOp.ROTATE:
            _rotate(image, math.radians(value))
        elif operation in (PixelOp.BRIGHTNESS, PixelOp.POSTERIZE, PixelOp.SOLARIZE):
            _map_levels(image, operation, value)
        elif operation == PixelOp.SATURATION:
            _saturation(image, value)
        elif operation == PixelOp.CONTRAST:
            _contrast(image, value)
        elif operation == PixelOp.SHARPNESS:
            _sharpness(image, value)
        elif operation == PixelOp.AUTO_CONTRAST:
            _auto_contrast(image)
        elif operation == PixelOp.EQUALIZE:
            _equalize(image)
        elif operation == PixelOp.HUE:
            _hue(image, value)
        elif operation == PixelOp.ERASE:
            _erase(image, step)


@compiled
def _move(image: Image, xx: float, xy: float, x0: float, yx: float, yy: float, y0: float) -> None:
    """Set each pixel (x, y) to that at (xx x + xy y + x0, yx x + yy y + y0), 0 outside."""
    height, width, _ = image.shape
    source = image.copy()
    for y in range(height):
        for x in range(width):
            column = math.floor(xx * x + xy * y + x0 + 0.5)
            row = math.floor(yx * x + yy * y + y0 + 0.5)
            inside = 0 <= column < width and 0 <= row < height
            for channel in range(3):
                image[y, x, channel] = source[row, column, channel] if inside else 0


@compiled
def _rotate(image: Image, radians: float) -> None:
    """Rotate counterclockwise about the center."""
    height, width, _ = image.shape
    cosine, sine = math.cos(radians), math.sin(radians)
    x, y = 0.5 * (width - 1), 0.5 * (height - 1)
    _move(image, cosine, -sine, x - cosine * x + sine * y, sine, cosine, y - sine * x - cosine * y)


@compiled
def _level(value: float) -> int:
    """Convert a real number to a level as torch does: round to float32, clip, truncate."""
    return int(min(max(np.float32(value), np.float32(0)), np.float32(255)))


@compiled
def _blended(level: int, ratio: float, other: float) -> int:
    """Blend as torch does: in float32, with one rounding for the second product and the sum."""
    scaled = np.float64(np.float32(level) * np.float32(ratio))
    return _level(scaled + np.float64(np.float32(1 - ratio)) * other)


@compiled
def _gray(red: int, green: int, blue: int) -> int:
    """Compute luma (ITU-R BT.601, with torchvision's four digits), truncated."""
    return (2989 * np.int64(red) + 5870 * np.int64(green) + 1140 * np.int64(blue)) // 10000


@compiled
def _look_up(image: Image, table: NDArray[np.uint8]) -> None:
    """Map each level by a lookup table of shape ``(3, 256)``."""
    height, width, _ = image.shape
    for y in range(height):
        for x in range(width):
            for channel in range(3):
                image[y, x, channel] = table[channel, image[y, x, channel]]


@compiled
def _map_levels(image: Image, operation: int, value: float) -> None:
    """Change the brightness, posterize or solarize."""
    table = np.empty((3, 256), np.uint8)
    dropped_bits = 8 - int(value)
    for level in range(256):
        if operation == PixelOp.BRIGHTNESS:
            table[:, level] = _level(np.float32(level) * np.float32(value))
        elif operation == PixelOp.POSTERIZE:
            table[:, level] = level >> dropped_bits << dropped_bits
        else:
            table[:, level] = 255 - level if np.float32(level) >= np.float32(value) else level
    _look_up(image, table)


@compiled
def _contrast(image: Image, factor: float) -> None:
    height, width, _ = image.shape
    total = 0
    for y in range(height):
        for x in range(width):
            total += _gray(image[y, x, 0], image[y, x, 1], image[y, x, 2])
    mean = np.float64(np.float32(total) / np.float32(height * width))
    table = np.empty((3, 256), np.uint8)
    for level in range(256):
        table[:, level] = _blended(level, factor, mean)
    _look_up(image, table)


@compiled
def _saturation(image: Image, factor: float) -> None:
    height, width, _ = image.shape
    for y in range(height):
        for x in range(width):
            gray = np.float64(_gray(image[y, x, 0], image[y, x, 1], image[y, x, 2]))
            for channel in range(3):
                image[y, x, channel] = _blended(image[y, x, channel], factor, gray)


@compiled
def _sharpness(image: Image, factor: float) -> None:
    """Blend with a 3 x 3 blur of center weight 5 and others 1, except at the border."""
    height, width, _ = image.shape
    source = image.copy()
    change = np.float64(np.float32(1 - factor))
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            for channel in range(3):
                level = np.int64(source[y, x, channel])
                total = 4 * level
                for row in range(y - 1, y + 2):
                    for column in range(x - 1, x + 2):
                        total += np.int64(source[row, column, channel])
                blurred = (2 * total + 13) // 26
                image[y, x, channel] = _level(level + change * (blurred - level))


@compiled
def _histogram(image: Image) -> NDArray[np.int64]:
    """Count each level, shape ``(3, 256)``."""
    height, width, _ = image.shape
    counts = np.zeros((3, 256), np.int64)
    for y in range(height):
        for x in range(width):
            for channel in range(3):
                counts[channel, image[y, x, channel]] += 1
    return counts


@compiled
def _auto_contrast(image: Image) -> None:
    """Stretch each channel to the full range."""
    table = np.empty((3, 256), np.uint8)
    for channel, counts in enumerate(_histogram(image)):
        present = np.flatnonzero(counts)
        low, high = present[0], present[-1]
        step = np.float32(high - low) * np.float32(1 / 255)
        if low == high:
            low, step = 0, np.float32(1)
        for level in range(256):
            table[channel, level] = _level(np.float32(level - low) / step)
    _look_up(image, table)


@compiled
def _equalize(image: Image) -> None:
    """Equalize each channel's histogram by PIL's lookup table."""
    table = np.empty((3, 256), np.uint8)
    for channel, counts in enumerate(_histogram(image)):
        step = (counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
        below = step // 2
        for level in range(256):
            table[channel, level] = min(below // step, 255) if step else level
            below += counts[level]
    _look_up(image, table)


@compiled
def _hue(image: Image, turn: float) -> None:
    """Shift the hue of HSV by a fraction of the circle."""
    height, width, _ = image.shape
    for y in range(height):
        for x in range(width):
            # Signed: the differences below can be negative.
            red = np.int64(image[y, x, 0])
            green = np.int64(image[y, x, 1])
            blue = np.int64(image[y, x, 2])
            high, low = max(red, green, blue), min(red, green, blue)
            span = high - low
            if span == 0:
                continue
            if high == red:
                sixths = (green - blue) / span
            elif high == green:
                sixths = 2 + (blue - red) / span
            else:
                sixths = 4 + (red - green) / span
            sixths += 6 * turn
            sector = math.floor(sixths)
            part = span * (sixths - sector)
            sector %= 6
            # torch converts [0, 1] to levels by the factor 255.999, truncated.
            falling = int((high - part) * (255.999 / 255))
            rising = int((low + part) * (255.999 / 255))
            if sector == 0:
                color = high, rising, low
            elif sector == 1:
                color = falling, high, low
            elif sector == 2:
                color = low, high, rising
            elif sector == 3:
                color = low, falling, high
            elif sector == 4:
                color = rising, low, high
            else:
                color = high, low, falling
            for channel in range(3):
                image[y, x, channel] = color[channel]


@compiled
def _erase(image: Image, step: NDArray[np.float64]) -> None:
    """Fill a rectangle, see `PixelOp.ERASE`."""
    top, left, height, width = int(step[1]), int(step[2]), int(step[3]), int(step[4])
    for y in range(top, top + height):
        for x in range(left, left + width):
            for channel in range(3):
                image[y, x, channel] = int(step[5 + channel])
