"""A small data set of COCO's format, with all that COCO's own has: crowds, gaps, tiny boxes."""

import json

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

CATEGORIES = [(90, "brush"), (3, "car"), (17, "cat")]
"""Out of order, with gaps."""

OBJECT, GROUND = 200, 100
"""Least level of what is an object, and above that of what is none."""


def rectangle(height, width, top, left, bottom, right):
    """A mask, uint8."""
    mask = np.zeros((height, width), np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def compressed(mask):
    """A mask as COCO's compressed run lengths."""
    encoded = coco_mask.encode(np.asfortranarray(mask))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode()}


def uncompressed(mask):
    """A mask as COCO's run lengths of crowds, counted one by one."""
    counts, value = [0], 0
    for pixel in mask.ravel(order="F"):
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


def make_coco(folder, count=22, seed=0):
    """Paint images into a folder and return their annotations.

    Objects are rectangles lighter than all else. Of eleven images one is empty, one has a crowd
    alone and one a box of no height alone; each has a size of its own; ids are out of order.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for i in range(count):
        long, short = 40 + i, 30 + i % 5
        height, width = (long, short) if i % 3 == 0 else (short, long)
        pixels = rng.integers(0, GROUND, (height, width, 3), np.uint8)
        id_ = 5 + 3 * (i * 7 % count)
        images.append({"id": id_, "file_name": f"{id_:05}.png", "height": height, "width": width})
        for k in range(0 if i % 11 == 4 else 1 + i % 2):
            # Side by side, so that the pixels of each can be told.
            left = k * width // 2 + int(rng.integers(1, 4))
            top = int(rng.integers(1, 10))
            right = left + int(rng.integers(4, width // 2 - 4))
            bottom = top + int(rng.integers(4, 18))
            mask = rectangle(height, width, top, left, bottom, right)
            crowd, flat = i % 11 == 7, i % 11 == 9
            outline = [[left, top, right, top, right, bottom, left, bottom]]
            pixels[mask > 0] = OBJECT + k
            annotations.append(
                {
                    "id": 1000 - len(annotations),
                    "image_id": id_,
                    "category_id": CATEGORIES[(i + k) % 3][0],
                    "bbox": [left, top, right - left, 0 if flat else bottom - top],
                    "area": float(mask.sum()),
                    "iscrowd": int(crowd),
                    "segmentation": uncompressed(mask)
                    if crowd
                    else (compressed(mask) if k else outline),
                }
            )
        Image.fromarray(pixels).save(folder / f"{id_:05}.png")
    return {
        "images": images,
        "annotations": annotations[::-1],
        "categories": [{"id": id_, "name": name} for id_, name in CATEGORIES],
    }


def write_json(path, content):
    """Write annotations, and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path
