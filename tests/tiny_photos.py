"""A small set of photographs as people have it: sizes and formats mixed, few of some classes."""

from functools import cache

import numpy as np
from PIL import Image

COUNTS = {"astronaut": 16, "cat": 40, "coffee": 24, "flower": 12, "rocket": 9, "temple": 32}
"""Images of each class."""

_FORMATS = ("jpg", "jpeg", "png", "webp", "bmp", "jpg")
_UPSIDE_DOWN, _ORIENTATION = 3, 0x0112


@cache
def scenes():
    """Return the photographs that scikit-image and scikit-learn ship, by class."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    pictures = {"astronaut": data.astronaut(), "cat": data.chelsea(), "coffee": data.coffee()}
    pictures |= {"flower": load_sample_image("flower.jpg"), "rocket": data.rocket()}
    pictures["temple"] = load_sample_image("china.jpg")
    return {name: Image.fromarray(pixels) for name, pixels in pictures.items()}


def write_photos(folder, counts=COUNTS, seed=0, sides=(40, 120)):
    """Write crops of the photographs to a folder for each class, and return it."""
    rng = np.random.default_rng(seed)
    for name, count in counts.items():
        scene = scenes()[name]
        scale = 256 / min(scene.size)
        scene = scene.resize([round(side * scale) for side in scene.size])
        (folder / name).mkdir(parents=True)
        for number in range(count):
            width, height = rng.integers(*sides, 2).tolist()
            left = int(rng.integers(scene.width - 2 * width + 1))
            top = int(rng.integers(scene.height - 2 * height + 1))
            box = (left, top, left + 2 * width, top + 2 * height)
            crop = scene.resize((width, height), box=box)
            path = folder / name / f"{number:03}.{_FORMATS[number % len(_FORMATS)]}"
            if number % 9 == 5:  # as a camera that was held upside down
                exif = Image.Exif()
                exif[_ORIENTATION] = _UPSIDE_DOWN
                crop.rotate(180).save(path.with_suffix(".jpg"), quality=92, exif=exif)
            elif number % 11 == 7:
                crop.convert("CMYK").save(path.with_suffix(".jpg"), quality=95)
            else:
                crop.save(path, quality=95)
    return folder
