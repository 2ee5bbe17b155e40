"""Read and check COCO's annotation files. Errors name the file and the id of what is wrong."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from math import ceil
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from numpy.typing import NDArray

from eca_lightning.detection.annotations import (
    CocoAnnotations,
    encode_outline,
    require_mask_library,
)
from eca_lightning.detection.segmentations import join_segmentations, msgspec
from eca_lightning.utils.checks import DataError

CLIP_BOXES = 1.0
"""Pixels by which a box may exceed its image by default, as rounded ones do."""

Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Side = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]


class _Category(msgspec.Struct):
    id: Id
    name: str


class _Image(msgspec.Struct):
    id: Id
    file_name: str
    height: Side
    width: Side


class _Annotation(msgspec.Struct, gc=False):
    id: Id
    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    area: Annotated[float, msgspec.Meta(ge=0)] | None = None
    iscrowd: bool | Literal[0, 1] | None = None
    segmentation: msgspec.Raw = msgspec.Raw(b"null")  # as JSON, which takes the least memory


class _Content(msgspec.Struct):
    images: Annotated[list[_Image], msgspec.Meta(min_length=1)]
    categories: Annotated[list[_Category], msgspec.Meta(min_length=1)]
    annotations: list[_Annotation]


_SECTIONS: dict[str, tuple[str, type[msgspec.Struct]]] = {
    "images": ("image", _Image),
    "categories": ("category", _Category),
    "annotations": ("annotation", _Annotation),
}


def read_annotations(
    path: Path, masks: bool = False, name: str = "annotations", clip_boxes: float = CLIP_BOXES
) -> CocoAnnotations:
    """Read an annotation file, with its masks if wanted, and check that all of it can be used.

    The area of an annotation that gives none is that of its mask or, where masks are not read, of
    its box. Names that several categories have get their category's id.

    Args:
        path: The file.
        masks: Whether to check and keep segmentations.
        name: The option that names the file; error messages start with it.
        clip_boxes: Pixels by which a box may reach out of its image.

    Raises:
        FileNotFoundError: If the file does not exist.
        ImportError: If masks are asked for and faster-coco-eval is not installed.
        ValueError: If the file is not JSON or not in the format, an id is unknown or not unique, a
            box lies outside its image or a mask cannot be drawn; the message lists the faults.
    """
    if masks:
        require_mask_library()
    if not path.is_file():
        what = "is not a regular file" if path.exists() else "does not exist"
        raise FileNotFoundError(f"{name}: {path} {what}")
    faults: list[str] = []
    try:
        content = _decode(path.read_bytes(), faults)
        return _as_arrays(content, path, masks, clip_boxes, faults)
    except DataError as error:
        faults = error.faults
    except ValueError as error:
        faults = [str(error)]
    raise DataError([f"{name}: {path}: {fault}" for fault in faults])


def _decode(data: bytes, faults: list[str]) -> _Content:
    """Decode a file; without the entries that are of wrong types, which become faults."""
    if all(data.count(f'"{section}"'.encode()) <= 1 for section in _SECTIONS):
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            return msgspec.json.decode(data, type=_Content)
    # Python's decoder reads NaN and other encodings, too, and shows keys that come twice.
    try:
        content = json.loads(data, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it cannot be read as JSON ({error})") from None
    try:
        return msgspec.json.decode(msgspec.json.encode(content), type=_Content)
    except msgspec.ValidationError as error:
        if not isinstance(content, dict) or not all(
            isinstance(content.get(section), list) for section in _SECTIONS
        ):
            hint = "; images alone are for data.predict" if "`annotations`" in str(error) else ""
            raise ValueError(f"it is not a COCO annotation file ({error}){hint}") from None
    sections: dict[str, list[Any]] = {}
    for section, (what, type_) in _SECTIONS.items():
        if not content[section] and section != "annotations":
            raise ValueError(
                f"it is not a COCO annotation file (Expected `array` of length >= 1 - at "
                f"`$.{section}`)"
            )
        places = ((entry, f"$.{section}[{i}]") for i, entry in enumerate(content[section]))
        decoded = [_decode_entry(*place, what, type_, faults) for place in places]
        sections[section] = [entry for entry in decoded if entry is not None]
    return _Content(**sections)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dict of the keys and values of a JSON object, and refuse a key that comes twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice!r} is given twice: keep one")
    return found


def _decode_entry(entry: Any, place: str, what: str, type_: type[Any], faults: list[str]) -> Any:
    try:
        return msgspec.json.decode(msgspec.json.encode(entry), type=type_)
    except ValueError as error:
        faults.append(_explain(str(error), entry, what, place))


def _explain(message: str, entry: Any, what: str, place: str) -> str:
    """Add the id and the value to an error of msgspec, which says where they are in the entry."""
    if not isinstance(entry, dict):
        return f"it is not a COCO annotation file ({message} - at `{place}`)"
    problem, _, key = message.partition(" - at ")
    found = re.match(r"`\$\.(\w+)", key)
    has = f" has {found[1]} {repr(entry.get(found[1]))[:80]}" if found else ""
    return f"{what} {entry.get('id')!r}{has}: {problem}"


def _as_arrays(
    content: _Content, path: Path, masks: bool, clip_boxes: float, faults: list[str]
) -> CocoAnnotations:
    """Check a file's content beyond its types and convert it to arrays."""
    images = sorted(content.images, key=lambda image: image.id)
    categories = sorted(content.categories, key=lambda category: category.id)
    # Stable: the annotations of an image keep the order of the file, as in pycocotools.
    annotations = sorted(content.annotations, key=lambda annotation: annotation.image_id)
    index_of = _positions(images, "image", faults)
    label_of = _positions(categories, "category", faults)
    _positions(annotations, "annotation", faults)
    faults += [
        f"image {image.id} has file_name {image.file_name!r}, which names no file"
        for image in images
        if not image.file_name or "\0" in image.file_name
    ]
    # Entries that were left out for their types may be what others refer to.
    whole = not faults
    usable = []
    for annotation in annotations:
        for what, known in (("category", label_of), ("image", index_of)):
            if (id_ := getattr(annotation, f"{what}_id")) not in known:
                if whole:
                    faults.append(f"annotation {annotation.id} is of the unknown {what} {id_}")
                break
        else:
            usable.append(annotation)
    sizes = np.array([(image.height, image.width) for image in images], np.int64).reshape(-1, 2)
    of_image = np.array([index_of[a.image_id] for a in usable], np.int64)
    boxes = _boxes(usable, sizes[of_image], clip_boxes, faults)
    spans, segmentations = np.zeros((len(usable), 2), np.int64), None
    if masks:
        spans, segmentations = join_segmentations(usable, sizes[of_image], faults)
    if faults:
        raise DataError(faults)
    counts = np.bincount(of_image, minlength=len(images))
    return CocoAnnotations(
        path=path,
        class_names=_class_names(categories, path),
        category_ids=[category.id for category in categories],
        image_ids=np.array([image.id for image in images], np.int64),
        file_names=[image.file_name for image in images],
        sizes=sizes,
        first=np.concatenate([[0], np.cumsum(counts)]),
        boxes=boxes,
        labels=np.array([label_of[a.category_id] for a in usable], np.int64),
        areas=_areas(usable, sizes[of_image], masks, path),
        crowds=np.array([bool(a.iscrowd) for a in usable], np.bool_),
        spans=spans,
        segmentations=segmentations,
    )


def _positions(
    entries: Sequence[_Category | _Image | _Annotation], what: str, faults: list[str]
) -> dict[int, int]:
    """Map the ids of entries to their positions and check that they are unique."""
    positions = {entry.id: position for position, entry in enumerate(entries)}
    if len(positions) < len(entries):
        for id_, count in Counter(entry.id for entry in entries).items():
            if count > 1:
                faults.append(f"the {what} id {id_} is not unique: {count} entries have it")
    return positions


def _class_names(categories: Sequence[_Category], path: Path) -> list[str]:
    """Return the names of the categories; those that are not unique get their category's id."""
    counts = Counter(category.name for category in categories)
    if not (twice := [name for name, count in counts.items() if count > 1]):
        return list(counts)
    names = [f"{c.name} {c.id}" if c.name in twice else c.name for c in categories]
    if len(set(names)) < len(names):
        names = [f"{category.name} {category.id}" for category in categories]
    changed = [name for name in names if name not in counts]
    rank_zero_info(f"{path}: categories of equal names are told apart: {', '.join(changed)}")
    return names


def _boxes(
    annotations: Sequence[_Annotation],
    sizes: NDArray[np.int64],
    clip_boxes: float,
    faults: list[str],
) -> NDArray[np.float32]:
    """Convert boxes to XYXY and check that each lies in its image."""
    boxes = np.array([a.bbox for a in annotations], np.float64).reshape(-1, 4)
    top_left, bottom_right = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    out = np.maximum(-top_left, bottom_right - sizes[:, ::-1]).max(1, initial=0)
    is_box = np.asarray((np.isfinite(boxes) & (boxes >= [-np.inf, -np.inf, 0, 0])).all(axis=1))
    for bad in np.flatnonzero((out > clip_boxes) | ~is_box).tolist():
        height, width = sizes[bad]
        hint = "a number is infinite, or a side negative"
        if is_box[bad]:
            hint = "correct it"
            if out[bad] < min(height, width):
                hint += f", or clip it with --data.clip_boxes {ceil(out[bad])}"
        faults.append(
            f"annotation {annotations[bad].id} has the box [x, y, width, height] = "
            f"{boxes[bad].tolist()}, which does not lie in its image {annotations[bad].image_id} "
            f"of {width} x {height} pixels: {hint}"
        )
    return np.concatenate([top_left, bottom_right], axis=1).astype(np.float32)


def _areas(
    annotations: Sequence[_Annotation], sizes: NDArray[np.int64], masks: bool, path: Path
) -> NDArray[np.float32]:
    """Return the areas of annotations, computed where the file gives none."""
    areas = [annotation.area for annotation in annotations]
    if missing := [place for place, area in enumerate(areas) if area is None]:
        rank_zero_info(
            f"{path}: {len(missing):,} annotations have no area; it is computed from their "
            + ("masks" if masks else "boxes")
        )
    for place in missing:
        annotation = annotations[place]
        areas[place] = annotation.bbox[2] * annotation.bbox[3]
        if masks:
            from faster_coco_eval.core import mask

            outline = msgspec.json.decode(annotation.segmentation)
            areas[place] = float(mask.area(encode_outline(outline, sizes[place].tolist())))
    return np.array(areas, np.float32)
