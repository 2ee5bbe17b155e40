"""Read and check COCO's annotation files. Errors name the file and the id of what is wrong."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from eca_lightning.detection.annotations import CocoAnnotations, require_mask_library

try:
    import msgspec
except ImportError:
    raise ImportError(
        "COCO's annotation files are read by msgspec: pip install 'eca-lightning[detection]'"
    ) from None

TOLERANCE = 1.0
"""Pixels by which a box may exceed its image, as rounded ones do."""

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
    area: float
    iscrowd: bool | Literal[0, 1] | None = None
    segmentation: msgspec.Raw = msgspec.Raw(b"null")  # as JSON, which takes the least memory


class _Content(msgspec.Struct):
    images: Annotated[list[_Image], msgspec.Meta(min_length=1)]
    categories: Annotated[list[_Category], msgspec.Meta(min_length=1)]
    annotations: list[_Annotation]


class _RunLengths(msgspec.Struct):
    size: list[int]
    counts: list[Annotated[int, msgspec.Meta(ge=0)]] | str


def read_annotations(path: Path, masks: bool = False, name: str = "annotations") -> CocoAnnotations:
    """Read an annotation file, with its masks if wanted, and check that all of it can be used.

    Error messages start with ``name``, the option that names the file.

    Raises:
        FileNotFoundError: If the file does not exist.
        ImportError: If masks are asked for and faster-coco-eval is not installed.
        ValueError: If the file is not JSON or not in the format, an id is unknown or not unique, or
            a box lies outside its image.
    """
    if masks:
        require_mask_library()
    if not path.is_file():
        raise FileNotFoundError(f"{name}: {path} does not exist")
    try:
        return _as_arrays(_decode(path.read_bytes()), path, masks)
    except ValueError as error:
        raise ValueError(f"{name}: {path}: {error}") from None


def _decode(data: bytes) -> _Content:
    try:
        return msgspec.json.decode(data, type=_Content)
    except msgspec.DecodeError:
        # Python's decoder reads NaN and other encodings, too, and finds the id for the message.
        try:
            content = json.loads(data)
        except ValueError as error:
            raise ValueError(f"it is not a JSON file ({error})") from None
    try:
        return msgspec.json.decode(msgspec.json.encode(content), type=_Content)
    except msgspec.ValidationError as error:
        raise ValueError(_explain(str(error), content)) from None


def _explain(message: str, content: Any) -> str:
    """Add the id and the value to an error of msgspec, which says where they are in the file."""
    problem, _, place = message.partition(" - at ")
    found = re.match(r"`\$\.(\w+)\[(\d+)\](?:\.(\w+))?", place)
    entry = content[found[1]][int(found[2])] if found else None
    if not found or not isinstance(entry, dict):
        return f"it is not a COCO annotation file ({message})"
    what = {"images": "image", "categories": "category", "annotations": "annotation"}[found[1]]
    has = f" has {found[3]} {entry[found[3]]!r}" if found[3] else ""
    return f"{what} {entry.get('id')!r}{has}: {problem}"


def _as_arrays(content: _Content, path: Path, masks: bool) -> CocoAnnotations:
    """Check a file's content beyond its types and convert it to arrays."""
    images = sorted(content.images, key=lambda image: image.id)
    categories = sorted(content.categories, key=lambda category: category.id)
    # Stable: the annotations of an image keep the order of the file, as in pycocotools.
    annotations = sorted(content.annotations, key=lambda annotation: annotation.image_id)
    index_of, label_of = _positions(images, "image"), _positions(categories, "category")
    _positions(annotations, "annotation")
    for what, known in (("category", label_of), ("image", index_of)):
        for annotation in annotations:
            if (id_ := getattr(annotation, f"{what}_id")) not in known:
                raise ValueError(f"annotation {annotation.id} is of the unknown {what} {id_}")
    sizes = np.array([(image.height, image.width) for image in images], np.int64)
    of_image = np.array([index_of[a.image_id] for a in annotations], np.int64)
    spans, segmentations = np.zeros((len(annotations), 2), np.int64), None
    if masks:
        spans, segmentations = _segmentations(annotations, sizes[of_image])
    counts = np.bincount(of_image, minlength=len(images))
    return CocoAnnotations(
        path=path,
        class_names=[category.name for category in categories],
        category_ids=[category.id for category in categories],
        image_ids=np.array([image.id for image in images], np.int64),
        file_names=[image.file_name for image in images],
        sizes=sizes,
        first=np.concatenate([[0], np.cumsum(counts)]),
        boxes=_boxes(annotations, sizes[of_image]),
        labels=np.array([label_of[a.category_id] for a in annotations], np.int64),
        areas=np.array([a.area for a in annotations], np.float32),
        crowds=np.array([bool(a.iscrowd) for a in annotations], np.bool_),
        spans=spans,
        segmentations=segmentations,
    )


def _positions(entries: Sequence[_Category | _Image | _Annotation], what: str) -> dict[int, int]:
    """Map the ids of entries to their positions and check that they are unique."""
    positions = {entry.id: position for position, entry in enumerate(entries)}
    if len(positions) < len(entries):
        id_, count = Counter(entry.id for entry in entries).most_common(1)[0]
        raise ValueError(f"the {what} id {id_} is not unique: {count} entries have it")
    return positions


def _boxes(annotations: Sequence[_Annotation], sizes: NDArray[np.int64]) -> NDArray[np.float32]:
    """Convert boxes to XYXY and check that each lies in its image."""
    boxes = np.array([a.bbox for a in annotations], np.float64).reshape(-1, 4)
    top_left, bottom_right = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    inside = (top_left >= -TOLERANCE) & (bottom_right <= sizes[:, ::-1] + TOLERANCE)
    valid = (inside & (boxes[:, 2:] >= 0)).all(1)
    if not valid.all():
        bad = int(np.argmin(valid))
        height, width = sizes[bad]
        raise ValueError(
            f"annotation {annotations[bad].id} has the box [x, y, width, height] = "
            f"{boxes[bad].tolist()}, which does not lie in its image {annotations[bad].image_id} "
            f"of {width} x {height} pixels"
        )
    return np.concatenate([top_left, bottom_right], axis=1).astype(np.float32)


def _segmentations(
    annotations: Sequence[_Annotation], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], bytes]:
    """Check segmentations and join them; return where each starts and ends, and their JSON."""
    decoder = msgspec.json.Decoder(list[list[float]] | _RunLengths)
    pieces = []
    for annotation, size in zip(annotations, sizes.tolist(), strict=True):
        try:
            outline = decoder.decode(annotation.segmentation)
        except msgspec.ValidationError:
            outline = []
        if isinstance(outline, _RunLengths):
            usable = outline.size == size
        else:
            usable = {len(polygon) % 2 for polygon in outline if len(polygon) >= 6} == {0}
        if not usable:
            raise ValueError(
                f"annotation {annotation.id} has no usable segmentation: masks need polygons of at "
                f"least three points, or run lengths of the size {size}"
            )
        pieces.append(bytes(annotation.segmentation))
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
    starts = np.concatenate([[0], ends])[:-1]
    return np.stack([starts, ends], axis=1), b"".join(pieces)
