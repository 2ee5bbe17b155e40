"""Scenes composed of Fashion-MNIST's clothes: a small stand-in for COCO with exact masks.

A scene depends on its random generator alone, and so on the seed and the scene's number.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage  # type: ignore[import-untyped]

FOREGROUND = 20
"""Gray level of Fashion-MNIST above which a pixel is cloth; the background is 0, but for noise."""

AREAS = ((150.0, 1000.0), (1100.0, 8800.0), (9600.0, 13500.0))
"""Minimum and maximum area in pixels of small, medium and large items (COCO's 32^2 and 96^2)."""

SIZE_PROBABILITIES = (0.3, 0.4, 0.3)
"""Probability of each of the sizes."""

P_EMPTY, P_CROWD = 0.02, 0.05
"""Probability of a scene without any object, and of one with a crowd."""

MIN_VISIBLE = 0.6
"""Fraction of an object that later ones must leave visible."""

ATTEMPTS = 4
"""Items tried for each object of a scene, and places tried for each item."""

Gray = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass
class SceneObject:
    """An object of a scene, or a crowd of them; its area includes hidden pixels."""

    label: int
    visible: Mask
    area: int
    crowd: bool = False


@dataclass(frozen=True)
class Scene:
    """An image and its objects.

    Attributes:
        pixels: Uint8 of shape ``(height, width, 3)``.
        colors: The two colors of the background, from 0 to 1, of shape ``(2, 3)``.
        objects: The objects from back to front.
    """

    pixels: NDArray[np.uint8]
    colors: NDArray[np.float64]
    objects: list[SceneObject]


def segment(gray: Gray) -> Mask:
    """Segment the item in an image of Fashion-MNIST, without specks and with small holes filled."""
    mask = gray > FOREGROUND
    neighbors = ndimage.convolve(mask.astype(int), np.ones((3, 3), int), mode="constant") - mask
    return (mask & (neighbors >= 3)) | (neighbors >= 6)


def bounding_slices(mask: Mask) -> tuple[slice, slice]:
    """Find the rows and columns of the smallest rectangle around a mask that is not empty."""
    rows, columns = ndimage.find_objects(mask.astype(np.uint8))[0]
    return rows, columns


class Composer:
    """Compose scenes of Fashion-MNIST's images ``(N, 28, 28)``, all of one split.

    ``image_size`` is the longer side of a scene in pixels; the shorter is five sixths of it.
    """

    def __init__(self, images: Gray, labels: NDArray[np.uint8], image_size: int) -> None:
        self.images = images
        self.labels = labels
        self.long, self.short = image_size, round(image_size * 5 / 6)

    def compose(self, random: np.random.Generator) -> Scene:
        """Compose a scene, a landscape or a portrait, from a random generator."""
        portrait = random.random() < 0.5
        height, width = (self.long, self.short) if portrait else (self.short, self.long)
        scene = Scene(*background(random, height, width), [])
        kind = random.random()
        if kind < P_EMPTY:
            return scene
        if kind < P_EMPTY + P_CROWD:
            self._place_crowd(random, scene)
        count = random.integers(1, 7)
        sizes = random.choice(len(AREAS), count, p=SIZE_PROBABILITIES)
        # Small ones last, so that they are in front of large ones.
        for size in -np.sort(-sizes):
            area = np.exp(random.uniform(*np.log(AREAS[size])))
            for index in random.integers(len(self.images), size=ATTEMPTS):
                if self._place(random, scene, index, area):
                    break
        return scene

    def _place(self, random: np.random.Generator, scene: Scene, index: int, area: float) -> bool:
        """Place an item where it leaves the others visible enough; False if no place is found."""
        item = self._item(random, scene, index, area)
        if item is None:
            return False
        painted, mask = item
        size = scene.pixels.shape[:2]
        free = np.subtract(size, mask.shape)
        if free.min() < 0:
            return False
        for _ in range(ATTEMPTS):
            top, left = (random.integers(side + 1) for side in free)
            covered = np.zeros(size, np.bool_)
            covered[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
            behind = [(other, other.visible & ~covered) for other in scene.objects]
            if all(rest.sum() >= MIN_VISIBLE * other.area for other, rest in behind):
                for other, rest in behind:
                    other.visible = rest
                scene.objects.append(SceneObject(int(self.labels[index]), covered, mask.sum()))
                scene.pixels[covered] = painted[mask]
                return True
        return False

    def _place_crowd(self, random: np.random.Generator, scene: Scene) -> None:
        """Place a heap of small items of one class as one object."""
        label = int(random.choice(self.labels))
        of_class = np.flatnonzero(self.labels == label)
        height, width = scene.pixels.shape[:2]
        covered = np.zeros((height, width), np.bool_)
        side = height // 3
        top, left = random.integers(height - side), random.integers(width - side)
        for _ in range(random.integers(8, 15)):
            index, area = random.choice(of_class), random.uniform(200, 600)
            if item := self._item(random, scene, index, area):
                painted, mask = item
                y = min(top + random.integers(side), height - mask.shape[0])
                x = min(left + random.integers(side), width - mask.shape[1])
                here = slice(y, y + mask.shape[0]), slice(x, x + mask.shape[1])
                scene.pixels[here][mask] = painted[mask]
                covered[here] |= mask
        if covered.any():
            scene.objects.append(SceneObject(label, covered, covered.sum(), crowd=True))

    def _item(
        self, random: np.random.Generator, scene: Scene, index: int, area: float
    ) -> tuple[NDArray[np.uint8], Mask] | None:
        """Resize an item to about ``area`` pixels, color it and flip it at random.

        Returns:
            Pixels and the mask, which touches all four sides; None if it is nearly empty.
        """
        color = contrasting(random, scene.colors)
        gray, mask = self.images[index], segment(self.images[index])
        if mask.sum() < 40:
            return None
        if random.random() < 0.5:
            gray, mask = gray[:, ::-1], mask[:, ::-1]
        box = bounding_slices(mask)
        gray, mask = gray[box], mask[box]
        factor = np.sqrt(area / mask.sum())
        size = round(mask.shape[1] * factor), round(mask.shape[0] * factor)
        resized = [
            np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BICUBIC))
            for values in (gray, mask.astype(np.uint8) * 255)
        ]
        shade, large = resized[0][:, :, None] / 255, resized[1] > 127
        painted = (255 * color * (0.35 + 0.65 * shade)).astype(np.uint8)
        box = bounding_slices(large)
        return painted[box], large[box]


def background(
    random: np.random.Generator, height: int, width: int
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Draw a background of two mixed colors; return its pixels and the colors, as in `Scene`."""
    middle = random.uniform(0.15, 0.85, 3)
    colors = np.clip(middle + random.uniform(-0.3, 0.3, (2, 3)), 0, 1)
    pattern: Callable[..., NDArray[np.float64]]
    pattern = (gradient, stripes, checks, clouds)[random.integers(4)]
    mixed = pattern(random, height, width)[:, :, None]
    grain = random.normal(0, random.uniform(0, 0.03), (height, width, 1))
    shades = colors[0] + mixed * (colors[1] - colors[0]) + grain
    return (255 * shades.clip(0, 1)).astype(np.uint8), colors


def contrasting(random: np.random.Generator, colors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Draw five colors and return the one farthest from all of ``colors``, of shape ``(3,)``."""
    candidates: NDArray[np.float64] = random.random((5, 3))
    return max(candidates, key=lambda color: np.linalg.norm(color - colors, axis=1).min())


def gradient(random: np.random.Generator, height: int, width: int) -> NDArray[np.float64]:
    """Draw a ramp from 0 to 1 in a random direction."""
    ramp = _along(random, height, width)
    return np.interp(ramp, (ramp.min(), ramp.max()), (0, 1))


def stripes(random: np.random.Generator, height: int, width: int) -> NDArray[np.float64]:
    """Draw stripes of 0 and 1 in a random direction."""
    phase = 2 * np.pi * _along(random, height, width) / random.uniform(12, 60)
    return (np.sin(phase) > 0).astype(np.float64)


def checks(random: np.random.Generator, height: int, width: int) -> NDArray[np.float64]:
    """Draw a checkerboard of 0 and 1."""
    side = random.integers(8, 40)
    y, x = np.mgrid[:height, :width] // side
    return ((x + y) % 2).astype(np.float64)


def clouds(random: np.random.Generator, height: int, width: int) -> NDArray[np.float64]:
    """Draw smooth noise from 0 to 1."""
    cells = random.integers(0, 256, random.integers(3, 9, 2), np.uint8)
    smooth = Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(smooth) / 255


def _along(random: np.random.Generator, height: int, width: int) -> NDArray[np.float64]:
    """Compute the distance in pixels along a random direction."""
    angle = random.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:height, :width]
    return x * np.cos(angle) + y * np.sin(angle)
