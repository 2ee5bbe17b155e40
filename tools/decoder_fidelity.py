"""How far the quicker decoder's pixels are from full decoding and the mean of areas in float64.

    python tools/photo_jpegs.py runs/photos --count 2000
    python tools/decoder_fidelity.py runs/photos

Prints, for each size of a network's input, the mean absolute difference in levels of 256 over one
random resized crop of each of the folder's first photographs. Crops that would be enlarged are
left out: they are decoded in full anyway. Rounding to whole levels alone makes 0.25.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eca_lightning.data.ffcv.crop_decode import decode_crop
from eca_lightning.data.ffcv.packed import native
from eca_lightning.data.transforms.crop import Crop

SIZES = (224, 160, 128)


def mean_of_areas(pixels: NDArray[np.float64], outputs: int) -> NDArray[np.float64]:
    """Shrink the first axis: the integral of its pixels between the edges of each output."""
    edges = np.linspace(0, len(pixels), outputs + 1)
    whole = np.minimum(edges.astype(int), len(pixels) - 1)
    part = (edges - whole)[:, None, None]
    integral = np.concatenate([np.zeros_like(pixels[:1]), np.cumsum(pixels, axis=0)])
    return np.diff(integral[whole] + part * pixels[whole], axis=0) * outputs / len(pixels)


def difference(path: Path, sample: int, view: Crop) -> tuple[float, float] | None:
    """The mean absolute differences of one crop, as JPEG and packed; None if it is enlarged."""
    with Image.open(path) as photo:
        pixels = np.asarray(photo.convert("RGB"), np.float64)
    top, left, height, width, _ = view.boxes([sample], [len(pixels)], [pixels.shape[1]], epoch=0)[0]
    if height < view.height or width < view.width:
        return None
    crop = pixels[top : top + height, left : left + width]
    rows = mean_of_areas(crop, view.height)
    exact = mean_of_areas(rows.swapaxes(0, 1), view.width).swapaxes(0, 1)
    box = (int(top), int(left), int(height), int(width))
    stream, size = path.read_bytes(), (view.height, view.width)
    packed = native.encode(stream)
    if packed is None:
        return None
    shown = decode_crop(stream, box, size), native.decode_crop(packed, box, size)
    of_jpeg, of_packed = (float(np.abs(pixels - exact).mean()) for pixels in shown)
    return of_jpeg, of_packed


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="JPEGs, in folders or not")
    parser.add_argument("--count", type=int, default=200, help="how many of them")
    options = parser.parse_args()
    paths = sorted(options.folder.rglob("*.jp*g"))[: options.count]
    if not paths:
        raise SystemExit(f"{options.folder} holds no JPEGs: tools/photo_jpegs.py writes some")
    for size in SIZES:
        view = Crop("random_resized_crop", size, size)
        found = [difference(path, sample, view) for sample, path in enumerate(paths)]
        shrunk = [value for value in found if value is not None]
        jpeg, packed = np.mean(shrunk, axis=0)
        print(f"{size} pixels: {jpeg:.2f} of 256 levels, packed {packed:.2f}; {len(shrunk)} crops")


if __name__ == "__main__":
    main()
