"""Read an image file as upright RGB."""

import os
from functools import cache
from pathlib import Path
from stat import S_ISREG
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

Exif = Literal["apply", "ignore"]
"""Whether an image is turned upright as the orientation in its EXIF data says."""

_NOT_READ = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
"""Formats that Pillow identifies but cannot decode, and EPS, for which it runs Ghostscript."""

_SIXTEEN_BIT_FORMATS = ("PNG", "PPM")
"""Formats whose mode ``I`` holds values from 0 to 65535."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, for each value of EXIF's orientation but the upright 1."""


@cache
def image_formats() -> tuple[str, ...]:
    """Return the names of the formats that can be read, those of Pillow."""
    Image.init()
    return tuple(name for name in Image.ID if name not in _NOT_READ)


@cache
def image_extensions() -> frozenset[str]:
    """Return the extensions of the formats that can be read, in lower case, with their dot."""
    known = Image.registered_extensions().items()
    return frozenset(extension for extension, name in known if name in image_formats())


def open_rgb(path: Path, exif: Exif = "apply") -> Image.Image:
    """Read an image file, of several frames or pages the first, see `to_rgb`.

    Raises:
        ValueError: If the file cannot be decoded; the message names it.
    """
    try:
        with open_image(path) as image:
            return to_rgb(image, exif)
    except Exception as error:  # Pillow raises anything from OSError to struct.error on bad bytes
        raise ValueError(f"cannot read the image {path}: {error}") from error


def open_image(path: Path) -> Image.Image:
    """Open an image file and read its header; raises whatever Pillow does."""
    if not S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
        raise ValueError("it is not a regular file")
    image = Image.open(path, formats=image_formats())
    if image.mode == "F" or (image.mode == "I" and image.format not in _SIXTEEN_BIT_FORMATS):
        image.close()
        raise ValueError(
            f"its mode {image.mode} ({'float' if image.mode == 'F' else 'integer'} pixels of 32 "
            "bits) has no known range; convert it to 8 or 16 bits"
        )
    return image


def to_rgb(image: Image.Image, exif: Exif = "apply") -> Image.Image:
    """Convert an image to RGB, upright unless EXIF's orientation is to be ignored.

    16-bit gray is scaled from its full range, divided by 257; other modes become RGB as
    ``PIL.Image.convert("RGB")`` converts them.
    """
    image.load()  # PNG may have EXIF data at its end, and Pillow turns TIFF here
    turn = _TURNS.get(orientation(image)) if exif == "apply" else None
    if image.mode.startswith("I"):
        gray = (np.asarray(image).astype(np.uint32) + 128) // 257
        image = Image.fromarray(gray.astype(np.uint8))
    elif image.mode == "P":
        image = image.convert("RGBA")  # the same colors without a warning about transparency
    image = image.convert("RGB")
    return image if turn is None else image.transpose(turn)


def orientation(image: Image.Image) -> int:
    """Read EXIF's orientation; 1, which is upright, where there is none or it is damaged."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow raises anything from SyntaxError to struct.error on bad bytes
        return 1


def upright_size(image: Image.Image, exif: Exif = "apply") -> tuple[int, int]:
    """Return the height and width that `to_rgb` gives an opened image, from its header if it can.

    PNG may have EXIF data at its end, and Pillow turns TIFF when it decodes it.
    """
    if image.format == "TIFF" or (image.format == "PNG" and exif == "apply"):
        image = to_rgb(image, exif)
    elif exif == "apply" and orientation(image) in (5, 6, 7, 8):
        return image.width, image.height
    return image.height, image.width


def read_rgb(path: Path, exif: Exif = "apply") -> NDArray[np.uint8]:
    """Read an image file as an array of shape ``(height, width, 3)``, see `open_rgb`."""
    return np.asarray(open_rgb(path, exif))
