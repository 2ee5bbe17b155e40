"""Take over JPEG files: their coefficients without loss, or all of their bytes."""

from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from eca_lightning.data.ffcv.decode_op import is_decodable
from eca_lightning.data.ffcv.format import JPEG, PIXELS_PER_BYTE
from eca_lightning.data.ffcv.packed import native
from eca_lightning.data.ffcv.samples import MAX_SIDE, StoredImage
from eca_lightning.data.folder.image import Exif, open_image, orientation

_JPEG = ("JPEG", "MPO")
"""Pillow's names of JPEG and of files that begin with one, as some cameras write them."""

_MAX_BYTES = 1 << 23
"""Of a page, in which an image must fit."""


def pack_file(path: Path, exif: Exif, max_resolution: int | None) -> StoredImage | None:
    """Pack the coefficients of an image file; None if it has to be decoded first.

    That is, if it is no JPEG, of another kind than `native.encode` packs, damaged or not upright,
    or larger than ``max_resolution``. Whoever decodes it says what is wrong with it.
    """
    with suppress(Exception):  # Pillow raises anything from OSError to struct.error on bad bytes
        with open_image(path) as image:
            if image.format not in _JPEG or not _is_usable(image, exif, max_resolution):
                return None
        if (packed := native.encode(path.read_bytes())) is not None:
            return StoredImage.packed(packed)
    return None


def keep_file(path: Path, exif: Exif, max_resolution: int | None) -> StoredImage | None:
    """Store a JPEG file byte for byte; None if it has to be decoded first.

    That is, if it is no JPEG, neither gray nor of three colors, damaged or not upright, or larger
    than ``max_resolution`` or than what a .beton can hold.
    """
    with suppress(Exception):  # as above
        with open_image(path) as image:
            is_plain = image.format == "JPEG" and image.mode in ("RGB", "L")
            if not is_plain or not _is_usable(image, exif, max_resolution):
                return None
            width, height = image.size
            image.load()
        content = np.fromfile(path, np.uint8)
        fits = height * width <= len(content) * PIXELS_PER_BYTE and len(content) <= _MAX_BYTES
        if fits and is_decodable(content, height, width):
            return StoredImage(JPEG, height, width, content)
    return None


def _is_usable(image: Image.Image, exif: Exif, max_resolution: int | None) -> bool:
    is_upright = exif == "ignore" or orientation(image) == 1
    return is_upright and max(image.size) <= (max_resolution or MAX_SIDE)
