"""Check the segmentations of a COCO annotation file."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

try:
    import msgspec
except ImportError:
    raise ImportError(
        "COCO's annotation files are read by msgspec: pip install 'eca-lightning[detection]'"
    ) from None


class _RunLengths(msgspec.Struct):
    size: list[int]
    counts: list[Annotated[int, msgspec.Meta(ge=0)]] | str


def join_segmentations(
    annotations: Sequence[Any], sizes: NDArray[np.int64], faults: list[str]
) -> tuple[NDArray[np.int64], bytes]:
    """Check segmentations and join them; return where each starts and ends, and their JSON."""
    decoder = msgspec.json.Decoder(list[list[float]] | _RunLengths)
    pieces = []
    for annotation, size in zip(annotations, sizes.tolist(), strict=True):
        try:
            outline = decoder.decode(annotation.segmentation)
        except msgspec.ValidationError:
            outline = []
        problem = ""
        if isinstance(outline, _RunLengths):
            if outline.size != size or not fill_mask(outline.counts, size[0] * size[1]):
                problem = f"its run lengths do not fill the size {size} of its image"
        elif {len(polygon) % 2 for polygon in outline if len(polygon) >= 6} != {0}:
            problem = f"masks need polygons of at least three points, or run lengths of {size}"
        if problem:
            faults.append(
                f"annotation {annotation.id} has no usable segmentation: {problem}; correct or "
                "remove it, or detect boxes alone with --data.masks false"
            )
        pieces.append(bytes(annotation.segmentation))
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
    starts = np.concatenate([[0], ends])[:-1]
    return np.stack([starts, ends], axis=1), b"".join(pieces)


def fill_mask(counts: list[int] | str, pixels: int) -> bool:
    """Whether run lengths, as numbers or compressed (``rleFrString`` of pycocotools), fill a mask.

    Of the compressed ones each character holds five bits, the lowest first, and whether the number
    goes on; from the fourth on, numbers are differences to the one before the last.
    """
    if isinstance(counts, list):
        return sum(counts) == pixels
    codes = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - 48
    if not codes.size or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return False
    last = np.flatnonzero(codes & 32 == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last - first + 1
    if lengths.max() > 7:  # 35 bits
        return False
    places = np.arange(len(codes)) - np.repeat(first, lengths)
    numbers = np.add.reduceat((codes & 31) << (5 * places), first)
    numbers -= np.where(codes[last] & 16, 1 << (5 * lengths), 0)
    numbers[1::2] = numbers[1::2].cumsum()
    numbers[2::2] = numbers[2::2].cumsum()
    return bool((numbers >= 0).all() and numbers.sum() == pixels)
