"""Write small crops of nine photographs, a class each, to try fine-tuning on.

    python tools/photo_classes.py runs/photo_classes

The photographs are those that scikit-image and scikit-learn ship. Crops for training are of their
left two thirds and those for validation of the right third, so that no pixel is in both. They
differ in size, shape, color and format, and the rarest class has a sixteenth of the images of the
most common one.
"""

import argparse
from pathlib import Path

import numpy as np
from photo_jpegs import SKIMAGE, SKLEARN, crop
from PIL import Image

CLASSES = {  # and the images of each in training
    "astronaut": (SKIMAGE / "astronaut.png", 128),
    "cat": (SKIMAGE / "chelsea.png", 96),
    "china": (SKLEARN / "china.jpg", 72),
    "coffee": (SKIMAGE / "coffee.png", 56),
    "flower": (SKLEARN / "flower.jpg", 40),
    "galaxies": (SKIMAGE / "hubble_deep_field.jpg", 32),
    "motorcycle": (SKIMAGE / "motorcycle_left.png", 24),
    "retina": (SKIMAGE / "retina.jpg", 16),
    "tissue": (SKIMAGE / "ihc.png", 8),
}
VALIDATION = 40
"""Images of each class in validation."""


def write(output: Path, seed: int = 0) -> None:
    """Write ``train`` and ``val`` below a folder, each with a folder for each class."""
    rng = np.random.default_rng(seed)
    for name, (path, count) in CLASSES.items():
        photo = Image.open(path).convert("RGB")
        border = 2 * photo.width // 3
        parts = {
            "train": (photo.crop((0, 0, border, photo.height)), count),
            "val": (photo.crop((border, 0, photo.width, photo.height)), VALIDATION),
        }
        for split, (part, images) in parts.items():
            folder = output / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(images):
                width, height = (int(side) for side in rng.integers(48, 129, 2))
                picture = crop(part, (width, height), rng)
                if number % 4 == 3:
                    picture.save(folder / f"{number:03}.png")
                else:
                    picture.save(folder / f"{number:03}.jpg", quality=int(rng.integers(70, 96)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="the folder to write")
    write(parser.parse_args().output)
