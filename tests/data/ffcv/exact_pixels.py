"""Crops as they should be: PIL's pixels, resized in float64."""

import io

import numpy as np
from PIL import Image


def axis_weights(start, length, pixels, outputs):
    """Each output's weights over the source pixels of one axis, in float64."""
    weights = np.zeros((outputs, pixels))
    low, high = int(np.floor(start)), int(np.ceil(start + length))
    step = length / outputs
    for i in range(outputs):
        if step >= 1:
            ends = np.minimum(np.arange(low, high) + 1, start + (i + 1) * step)
            begins = np.maximum(np.arange(low, high), start + i * step)
            weights[i, low:high] = np.maximum(ends - begins, 0)
        else:
            center = start + (i + 0.5) * step - 0.5
            for pixel in (int(np.floor(center)), int(np.floor(center)) + 1):
                weights[i, min(max(pixel, low), high - 1)] += 1 - abs(center - pixel)
    return weights / weights.sum(1, keepdims=True)


def exact(pixels, crop, size):
    """The crop, resized in float64: mean of areas downwards, bilinear upwards."""
    top, left, height, width = crop
    rows = axis_weights(top, height, pixels.shape[0], size[0])
    columns = axis_weights(left, width, pixels.shape[1], size[1])
    return np.einsum("oy,yxc,px->opc", rows, pixels.astype(np.float64), columns, optimize=True)


def picture(height, width, seed=0):
    """Waves, edges and noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / 9 + c) * np.cos(columns / (6 + c)) * 100 + 128 for c in range(3)]
    pixels = np.stack(waves, -1) + rng.integers(-15, 16, (height, width, 3))
    pixels[height // 3 : height // 2, width // 4 : width // 2] = (250, 10, 40)
    return pixels.clip(0, 255).astype(np.uint8)


def random_crop(height, width, rng):
    """A crop at whole pixels or between them, often at an edge."""
    if rng.random() < 0.5:
        h, w = int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))
        top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    else:
        h, w = rng.uniform(0.3, height), rng.uniform(0.3, width)
        top, left = rng.uniform(0, height - h), rng.uniform(0, width - w)
    top, left = rng.choice([top, 0, height - h]), rng.choice([left, 0, width - w])
    return float(top), float(left), float(h), float(w)


def pil(stream, eighths=8):
    """The whole picture as PIL decodes it, at a share of its resolution."""
    image = Image.open(io.BytesIO(stream))
    width, height = image.size
    image.draft("RGB", (max(1, width * eighths // 8), max(1, height * eighths // 8)))
    assert image.size == (-(-width * eighths // 8), -(-height * eighths // 8))
    return np.asarray(image.convert("RGB"))
