"""Reading COCO's annotation files, with checks that name the file and the id of what is wrong."""

import gc
import json
import math
import os
import pickle
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eca_lightning.data.folder.files import existing_folder
from eca_lightning.detection.annotations import CocoAnnotations

TOLERANCE = 1.0
"""Pixels by which a box may reach out of its image: what rounding does."""

MISSING = "masks need pycocotools, which is missing: pip install 'eca-lightning[detection]'"

Record = dict[str, Any]


def read_annotations(path: Path, masks: bool = False, name: str = "annotations") -> CocoAnnotations:
    """Read an annotation file and check that all in it can be used.

    Args:
        path: The file, of COCO's format for object detection.
        masks: Whether to read the segmentations as well.
        name: What the file is for, as the user calls it; it starts the messages.

    Returns:
        Its images and annotations.

    Raises:
        FileNotFoundError: The file does not exist.
        ImportError: Masks are asked for, and pycocotools is not installed.
        ValueError: The file is no JSON or not of the format, an id is unknown or there twice, or a
            box lies outside its image.
    """
    if masks:
        try:
            import pycocotools  # noqa: F401
        except ImportError:
            raise ImportError(MISSING) from None
    if not path.is_file():
        raise FileNotFoundError(f"{name}: {path} does not exist")
    try:
        return _checked(_sections(path), path, masks)
    except ValueError as error:
        raise ValueError(f"{name}: {path}: {error}") from None


def require_images(annotations: CocoAnnotations, folder: Path, name: str = "images") -> None:
    """Refuse a folder that lacks annotated images; their pixels are not looked at.

    Args:
        annotations: The images that must be there.
        folder: Where they must be.
        name: What the folder is for, as the user calls it; it starts the messages.

    Raises:
        FileNotFoundError: The folder or an image does not exist.
        NotADirectoryError: The folder is a file.
    """
    existing_folder(folder, name)
    # Each folder is listed once, which is quicker than to ask for each file.
    parents = {os.path.dirname(file) for file in annotations.file_names}
    there = {p: set(os.listdir(folder / p)) if (folder / p).is_dir() else set() for p in parents}
    missing = [
        (file, image)
        for file, image in zip(annotations.file_names, annotations.image_ids, strict=True)
        if os.path.basename(file) not in there[os.path.dirname(file)]
    ]
    if missing:
        file, image = missing[0]
        others = f", nor are {len(missing) - 1:,} others" if len(missing) > 1 else ""
        raise FileNotFoundError(
            f"{name}: {folder / file}, image {image} of {annotations.path}, is not there{others}"
        )


def _sections(path: Path) -> dict[str, list[Record]]:
    """The lists of a file that matter here."""
    collecting = gc.isenabled()
    # The collector would go through millions of new objects, again and again: half of the time.
    gc.disable()
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:  # UnicodeDecodeError is one as well
        raise ValueError(f"it is no JSON file ({error})") from None
    finally:
        if collecting:
            gc.enable()
    sections = {}
    for section in ("images", "annotations", "categories"):
        records = content.get(section) if isinstance(content, dict) else None
        if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
            raise ValueError(f"it has no list '{section}', so it is no COCO annotation file")
        sections[section] = records
    return sections


def _checked(sections: dict[str, list[Record]], path: Path, masks: bool) -> CocoAnnotations:
    """The content of a file as arrays; a ValueError says what is wrong."""
    if not sections["images"] or not sections["categories"]:
        raise ValueError("it has no images or no categories")
    categories = sorted(sections["categories"], key=lambda record: _id(record, "category"))
    category_ids = _ids(categories, "category")
    images = sorted(sections["images"], key=lambda record: _id(record, "image"))
    image_ids = _ids(images, "image")
    file_names = _column(images, "image", "file_name", str)
    heights, widths = (_column(images, "image", side, int) for side in ("height", "width"))
    sizes = np.array([heights, widths], np.int64).T
    if (sizes < 1).any():
        bad = image_ids[int(np.argmax((sizes < 1).any(1)))]
        raise ValueError(f"image {bad} has a height or width below 1")

    annotations = sections["annotations"]
    ids = _ids(annotations, "annotation")
    label_of = {category: label for label, category in enumerate(category_ids)}
    index_of = {image: index for index, image in enumerate(image_ids)}
    labels = _looked_up(annotations, "category_id", label_of, "category")
    of_image = _looked_up(annotations, "image_id", index_of, "image")
    crowds = [bool(record.get("iscrowd")) for record in annotations]
    areas = _column(annotations, "annotation", "area", (int, float))
    boxes = _boxes(annotations, ids, sizes[of_image])
    # Stable: the annotations of an image keep the order of the file, as in pycocotools.
    order = np.argsort(of_image, kind="stable")
    spans, segmentations = np.zeros((len(ids), 2), np.int64), None
    if masks:
        spans, segmentations = _segmentations(annotations, ids, sizes[of_image])
    counts = np.bincount(of_image, minlength=len(image_ids))
    return CocoAnnotations(
        path=path,
        class_names=_column(categories, "category", "name", str),
        category_ids=category_ids,
        image_ids=np.array(image_ids, np.int64),
        file_names=file_names,
        sizes=sizes,
        first=np.concatenate([[0], np.cumsum(counts)]),
        boxes=boxes[order],
        labels=labels[order],
        areas=np.array(areas, np.float32)[order],
        crowds=np.array(crowds, np.bool_)[order],
        spans=spans[order],
        segmentations=segmentations,
    )


def _id(record: Record, what: str) -> int:
    """The id of a record, a whole number."""
    value = record.get("id")
    if type(value) is not int:
        raise ValueError(f"an entry of its {what} list has the id {value!r}, not a whole number")
    return value


def _ids(records: Sequence[Record], what: str) -> list[int]:
    """The ids of some records, each there once."""
    ids = [_id(record, what) for record in records]
    if len(set(ids)) < len(ids):
        twice, _ = Counter(ids).most_common(1)[0]
        raise ValueError(f"the {what} id {twice} is there twice")
    return ids


def _column(records: Sequence[Record], what: str, key: str, kind: Any) -> list[Any]:
    """The values of a key, all of one kind."""
    values = [record.get(key) for record in records]
    for value, record in zip(values, records, strict=True):
        if not isinstance(value, kind):
            problem = f"has {key} {value!r}" if key in record else f"has no '{key}'"
            raise ValueError(f"{what} {record.get('id')} {problem}")
    return values


def _looked_up(
    annotations: Sequence[Record], key: str, index_of: dict[int, int], what: str
) -> NDArray[np.int64]:
    """Indices of the ids that annotations refer to."""
    values = _column(annotations, "annotation", key, int)
    for value, record in zip(values, annotations, strict=True):
        if value not in index_of:
            raise ValueError(f"annotation {record['id']} is of the unknown {what} {value}")
    return np.array([index_of[value] for value in values], np.int64)


def _boxes(
    annotations: Sequence[Record], ids: Sequence[int], sizes: NDArray[np.int64]
) -> NDArray[np.float32]:
    """The boxes as XYXY, each in its image."""
    values = _column(annotations, "annotation", "bbox", list)
    for value, id_ in zip(values, ids, strict=True):
        numbers = all(isinstance(part, int | float) and math.isfinite(part) for part in value)
        if len(value) != 4 or not numbers:
            raise ValueError(f"annotation {id_} has the bbox {value}, not four numbers")
    boxes = np.array(values, np.float64).reshape(-1, 4)
    least, greatest = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    inside = (least >= -TOLERANCE) & (greatest <= sizes[:, ::-1] + TOLERANCE) & (boxes[:, 2:] >= 0)
    if not inside.all():
        bad = int(np.argmin(inside.all(1)))
        height, width = sizes[bad]
        raise ValueError(
            f"annotation {ids[bad]} has the box [x, y, width, height] = {values[bad]}, which does "
            f"not lie in its image {annotations[bad]['image_id']} of {width} x {height} pixels"
        )
    return np.concatenate([least, greatest], axis=1).astype(np.float32)


def _segmentations(
    annotations: Sequence[Record], ids: Sequence[int], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], bytes]:
    """The segmentations in one piece, and where each starts and ends."""
    pieces = []
    for record, id_, size in zip(annotations, ids, sizes.tolist(), strict=True):
        outline, good = record.get("segmentation"), False
        if isinstance(outline, dict):
            good = outline.get("size") == size and isinstance(outline.get("counts"), list | str)
        elif isinstance(outline, list) and all(isinstance(part, list) for part in outline):
            # Two points have no area, but pycocotools takes four numbers for a box.
            outline = [part for part in outline if len(part) >= 6]
            good = bool(outline) and all(len(part) % 2 == 0 for part in outline)
        if not good:
            raise ValueError(
                f"annotation {id_} has no usable segmentation: masks need polygons of at least "
                f"three points, or run lengths of the size {size}"
            )
        pieces.append(pickle.dumps(outline))
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
    starts = np.concatenate([[0], ends])[:-1]
    return np.stack([starts, ends], axis=1), b"".join(pieces)
