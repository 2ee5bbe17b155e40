"""Scenes composed of Fashion-MNIST's clothes: a small stand-in for COCO with exact masks.

Everything about a scene follows from its generator, and so from the seed and the scene's number.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

DARKEST = 20
"""Gray level of Fashion-MNIST above which a pixel is cloth: the background is 0, but for noise."""

AREAS = ((150.0, 1000.0), (1100.0, 8800.0), (9600.0, 13500.0))
"""Areas in pixels, from and to, of items small, medium and large as COCO has it (32^2 and 96^2)."""

SHARES = (0.3, 0.4, 0.3)
"""How often each of the sizes is tried."""

MOST_OBJECTS = 6
"""Items a scene, apart from its crowd."""

EMPTY, CROWDED = 0.02, 0.05
"""Shares of scenes without any object, and of those with a crowd."""

LEAST_VISIBLE = 0.6
"""Share of an object that no later one may hide."""

ATTEMPTS = 4
"""Items tried for each place in a scene, and places tried for each item."""

Gray = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass
class SceneObject:
    """An object of a scene.

    Attributes:
        label: Its class.
        visible: The pixels where it is seen, of shape ``(height, width)``.
        area: Pixels it has, hidden or not.
        crowd: Whether it is a heap of items rather than one.
    """

    label: int
    visible: Mask
    area: int
    crowd: bool = False


@dataclass(frozen=True)
class Scene:
    """A picture and what is on it.

    Attributes:
        pixels: Uint8 of shape ``(height, width, 3)``.
        colors: The two of the background, from 0 to 1, of shape ``(2, 3)``.
        objects: The objects, from the back to the front.
    """

    pixels: NDArray[np.uint8]
    colors: NDArray[np.float64]
    objects: list[SceneObject]


def cloth(gray: Gray) -> Mask:
    """Where an image of Fashion-MNIST shows the item: specks left out, small holes filled.

    Args:
        gray: Image of shape ``(28, 28)``.

    Returns:
        Mask of the same shape.
    """
    mask = gray > DARKEST
    height, width = mask.shape
    padded = np.pad(mask, 1).astype(np.int64)
    shifted = [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)]
    neighbors = np.sum(shifted, axis=0) - mask
    return (mask & (neighbors >= 3)) | (neighbors >= 6)


class Composer:
    """Composes scenes of the items of one split.

    Args:
        images: Fashion-MNIST's images, uint8 of shape ``(N, 28, 28)``.
        labels: Their classes, of shape ``(N,)``.
        image_size: Longer side of a scene in pixels; the shorter has five sixths of it.
    """

    def __init__(self, images: Gray, labels: NDArray[np.uint8], image_size: int) -> None:
        self.images = images
        self.labels = labels
        self.long, self.short = image_size, round(image_size * 5 / 6)

    def compose(self, random: np.random.Generator) -> Scene:
        """Draw a scene: a landscape or a portrait.

        Args:
            random: Where all that is random comes from.
        """
        upright = random.random() < 0.5
        height, width = (self.long, self.short) if upright else (self.short, self.long)
        scene = Scene(*background(random, height, width), [])
        kind = random.random()
        if kind < EMPTY:
            return scene
        if kind < EMPTY + CROWDED:
            self._place_crowd(random, scene)
        sizes = random.choice(len(AREAS), random.integers(1, MOST_OBJECTS + 1), p=SHARES)
        # The small ones last: in front of the large ones rather than behind them.
        for size in -np.sort(-sizes):
            area = np.exp(random.uniform(*np.log(AREAS[size])))
            for index in random.integers(len(self.images), size=ATTEMPTS):
                if self._place(random, scene, index, area):
                    break
        return scene

    def _place(self, random: np.random.Generator, scene: Scene, index: int, area: float) -> bool:
        """Put an item where it fits and hides no other too far, if there is such a place."""
        item = self._item(random, index, area, contrasting(random, scene.colors))
        if item is None:
            return False
        painted, mask = item
        height, width = scene.pixels.shape[:2]
        free = height - mask.shape[0], width - mask.shape[1]
        if min(free) < 0:
            return False
        for _ in range(ATTEMPTS):
            top, left = (int(random.integers(room + 1)) for room in free)
            covered = np.zeros((height, width), np.bool_)
            covered[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
            behind = [(other, other.visible & ~covered) for other in scene.objects]
            if all(rest.sum() >= LEAST_VISIBLE * other.area for other, rest in behind):
                for other, rest in behind:
                    other.visible = rest
                scene.objects.append(SceneObject(int(self.labels[index]), covered, mask.sum()))
                scene.pixels[covered] = painted[mask]
                return True
        return False

    def _place_crowd(self, random: np.random.Generator, scene: Scene) -> None:
        """Put a heap of small items of one class, one over the other, as one object."""
        label = int(random.choice(self.labels))
        of_class = np.flatnonzero(self.labels == label)
        height, width = scene.pixels.shape[:2]
        covered = np.zeros((height, width), np.bool_)
        side = height // 3
        top, left = int(random.integers(height - side)), int(random.integers(width - side))
        for _ in range(random.integers(8, 15)):
            index, area = int(random.choice(of_class)), random.uniform(200, 600)
            item = self._item(random, index, area, contrasting(random, scene.colors))
            if item is None:
                continue
            painted, mask = item
            y = min(top + int(random.integers(side)), height - mask.shape[0])
            x = min(left + int(random.integers(side)), width - mask.shape[1])
            here = slice(y, y + mask.shape[0]), slice(x, x + mask.shape[1])
            scene.pixels[here][mask] = painted[mask]
            covered[here] |= mask
        if covered.any():
            scene.objects.append(SceneObject(label, covered, covered.sum(), crowd=True))

    def _item(
        self, random: np.random.Generator, index: int, area: float, color: NDArray[np.float64]
    ) -> tuple[NDArray[np.uint8], Mask] | None:
        """Resize, mirror and color an item.

        Args:
            random: Whether it is mirrored.
            index: Its index.
            area: Pixels that it shall have, about.
            color: Red, green and blue from 0 to 1 of its lightest parts.

        Returns:
            Colors, uint8 of shape ``(height, width, 3)``, and the mask, which touches all four
            sides; None for an image that shows next to nothing.
        """
        gray, mask = self.images[index], cloth(self.images[index])
        if mask.sum() < 40:
            return None
        if random.random() < 0.5:
            gray, mask = gray[:, ::-1], mask[:, ::-1]
        rows, columns = tight(mask)
        gray, mask = gray[rows, columns], mask[rows, columns]
        factor = np.sqrt(area / mask.sum())
        size = round(mask.shape[1] * factor), round(mask.shape[0] * factor)
        filter_ = Image.Resampling.BICUBIC
        large = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(size, filter_)) > 127
        shade = np.asarray(Image.fromarray(gray).resize(size, filter_))[:, :, None] / 255
        painted = (255 * color * (0.35 + 0.65 * shade)).astype(np.uint8)
        rows, columns = tight(large)
        return painted[rows, columns], large[rows, columns]


def tight(mask: Mask) -> tuple[slice, slice]:
    """The rows and columns of the least rectangle around a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def background(
    random: np.random.Generator, height: int, width: int
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Draw a background between two colors.

    Returns:
        Pixels, uint8 of shape ``(height, width, 3)``, and the colors, from 0 to 1, of shape
        ``(2, 3)``.
    """
    middle = random.uniform(0.15, 0.85, 3)
    colors = np.clip(middle + random.uniform(-0.3, 0.3, (2, 3)), 0, 1)
    pattern: Callable[..., NDArray[np.float64]]
    pattern = (gradient, stripes, checks, clouds)[random.integers(4)]
    mixed = pattern(random, height, width)[:, :, None]
    grain = random.normal(0, random.uniform(0, 0.03), (height, width, 1))
    shades = colors[0] + mixed * (colors[1] - colors[0]) + grain
    return (255 * shades.clip(0, 1)).astype(np.uint8), colors


def contrasting(random: np.random.Generator, colors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of some random colors the one that differs most from all of others, of shape ``(3,)``."""
    candidates = random.random((5, 3))
    distances = np.linalg.norm(candidates[:, None] - colors, axis=2).min(1)
    found: NDArray[np.float64] = candidates[np.argmax(distances)]
    return found


def gradient(random: np.random.Generator, height: int, width: int) -> NDArray[np.float64]:
    """From 0 to 1 in a random direction."""
    ramp = _along(random, height, width)
    return np.interp(ramp, (ramp.min(), ramp.max()), (0, 1))


def stripes(random: np.random.Generator, height: int, width: int) -> NDArray[np.float64]:
    """Stripes of 0 and 1 in a random direction."""
    phase = 2 * np.pi * _along(random, height, width) / random.uniform(12, 60)
    return (np.sin(phase) > 0).astype(np.float64)


def checks(random: np.random.Generator, height: int, width: int) -> NDArray[np.float64]:
    """A board of squares of 0 and 1."""
    side = random.integers(8, 40)
    y, x = np.mgrid[:height, :width] // side
    return ((x + y) % 2).astype(np.float64)


def clouds(random: np.random.Generator, height: int, width: int) -> NDArray[np.float64]:
    """Smooth noise from 0 to 1."""
    cells = random.integers(0, 256, random.integers(3, 9, 2), np.uint8)
    smooth = Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(smooth) / 255


def _along(random: np.random.Generator, height: int, width: int) -> NDArray[np.float64]:
    """Distance in pixels along a random direction."""
    angle = random.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:height, :width]
    return x * np.cos(angle) + y * np.sin(angle)
