"""Take over the coefficients of JPEG files without loss."""

from contextlib import suppress
from pathlib import Path

from eca_lightning.data.ffcv.packed import native
from eca_lightning.data.ffcv.samples import MAX_SIDE, StoredImage
from eca_lightning.data.folder.image import Exif, open_image, orientation

_JPEG = ("JPEG", "MPO")
"""Pillow's names of JPEG and of files that begin with one, as some cameras write them."""


def pack_file(path: Path, exif: Exif, max_resolution: int | None) -> StoredImage | None:
    """Pack the coefficients of an image file; None if it has to be decoded first.

    That is, if it is no JPEG, of another kind than `native.encode` packs, damaged or not upright,
    or larger than ``max_resolution``. Whoever decodes it says what is wrong with it.
    """
    with suppress(Exception):  # Pillow raises anything from OSError to struct.error on bad bytes
        with open_image(path) as image:
            longer = max(image.size)
            upright = exif == "ignore" or orientation(image) == 1
            if image.format not in _JPEG or not upright or longer > (max_resolution or MAX_SIDE):
                return None
        if (packed := native.encode(path.read_bytes())) is not None:
            return StoredImage.packed(packed)
    return None
