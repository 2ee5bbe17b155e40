"""Write photographic JPEGs of ImageNet's size and file weight, to time loaders on.

    python tools/photo_jpegs.py runs/photos --count 2000

Pictures of noise or of flat color would flatter or punish a JPEG decoder, so these are crops of
the photographs that scikit-image and scikit-learn ship: about 500 px on the longer side, in
ImageNet's usual shapes, at quality 90 and 4:2:0, with a mean file weight of 54 KB. They lie in
class folders, so that every loader of image folders can read them.
"""

import argparse
import io
from pathlib import Path

import numpy as np
import skimage
import sklearn
from PIL import Image

SKIMAGE = Path(skimage.__file__).parent / "data"
SKLEARN = Path(sklearn.__file__).parent / "datasets" / "images"
PHOTOGRAPHS = [
    *(SKIMAGE / f"{name}.png" for name in ("astronaut", "chelsea", "coffee", "ihc")),
    *(SKIMAGE / f"motorcycle_{side}.png" for side in ("left", "right")),
    *(SKIMAGE / f"{name}.jpg" for name in ("rocket", "retina", "hubble_deep_field")),
    *(SKLEARN / f"{name}.jpg" for name in ("china", "flower")),
]
# Width, height and share: most of ImageNet is landscape 4:3 or 3:2 at 500 px.
SHAPES = [
    ((500, 375), 0.55),
    ((500, 333), 0.15),
    ((375, 500), 0.2),
    ((333, 500), 0.05),
    ((500, 500), 0.05),
]
# Drawn heavier than the mean that is wanted: few crops of these photographs exceed 70 KB.
DRAWN_MEAN_BYTES, DRAWN_SIGMA = 59_000, 0.35


def crop(photo: Image.Image, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """A random crop of ``photo`` of ``size`` (width, height), mirrored and recolored at random."""
    # Small photographs may be enlarged by a quarter at most, or the crops would be too smooth.
    largest = min(photo.width / size[0], photo.height / size[1])
    zoom = min(np.exp(rng.uniform(np.log(0.8), np.log(max(largest, 0.81)))), largest)
    width, height = zoom * size[0], zoom * size[1]
    left, top = rng.uniform(0, photo.width - width), rng.uniform(0, photo.height - height)
    box = (left, top, left + width, top + height)
    picture = photo.resize(size, Image.Resampling.BICUBIC, box=box)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    gamma, white = rng.uniform(0.75, 1.3), rng.uniform(0.92, 1.08, 3)
    levels = 255 * (np.arange(256) / 255) ** gamma
    table = np.clip(np.outer(white, levels), 0, 255).astype(np.uint8)
    return picture.point(table.ravel().tolist())


def encode(picture: Image.Image, quality: int = 90) -> bytes:
    """``picture`` as a baseline 4:2:0 JPEG."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    return buffer.getvalue()


def photo_jpegs(count: int, seed: int = 0, candidates: int = 6) -> list[bytes]:
    """``count`` JPEG streams; the same for the same seed.

    For each a file weight is drawn first, then the nearest of a few random crops is kept.
    """
    rng = np.random.default_rng(seed)
    photos = [Image.open(path).convert("RGB") for path in PHOTOGRAPHS]
    sizes, shares = zip(*SHAPES, strict=True)
    # The mean of a log-normal lies sigma^2 / 2 above its median, in logarithms.
    median = np.log(DRAWN_MEAN_BYTES) - DRAWN_SIGMA**2 / 2
    streams = []
    for _ in range(count):
        size = sizes[rng.choice(len(sizes), p=shares)]
        wanted = np.exp(rng.normal(median, DRAWN_SIGMA))
        tries = []
        for _ in range(candidates):
            photo = photos[rng.integers(len(photos))]
            while photo.width < 0.8 * size[0] or photo.height < 0.8 * size[1]:
                photo = photos[rng.integers(len(photos))]
            tries.append(encode(crop(photo, size, rng)))
        streams.append(min(tries, key=lambda stream: abs(len(stream) - wanted)))
    return streams


def main() -> None:
    """Write the streams into class folders and say what they weigh."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    streams = photo_jpegs(options.count, options.seed)
    for i, stream in enumerate(streams):
        folder = options.output / f"class_{i % options.classes:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:05d}.jpg").write_bytes(stream)
    weights = np.array([len(stream) for stream in streams]) / 1000
    tenth, half, ninetieth = np.percentile(weights, [10, 50, 90])
    print(f"{len(streams)} files in {options.output}: mean {weights.mean():.1f} KB, ", end="")
    print(f"10/50/90 % at {tenth:.1f}/{half:.1f}/{ninetieth:.1f} KB")


if __name__ == "__main__":
    main()
