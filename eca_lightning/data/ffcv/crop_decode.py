"""Python interface of the crop decoder: decode, resize and flip only what a crop needs of a JPEG.

The decoder in ``native/`` is a shared library on libjpeg-turbo, built at installation where that
is possible. `decode_op.CropDecoder` calls the same library from FFCV's compiled loops.

Images are reduced by averaging areas (OpenCV's ``INTER_AREA``, PIL's ``BOX``) and enlarged by
bilinear interpolation. A JPEG whose crop is much larger than the output is decoded at 1/2, 1/4 or
1/8 of its resolution first, which avoids most of the inverse DCT.
"""

import ctypes
import functools
import importlib.util
from enum import IntEnum, IntFlag
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from eca_lightning.data.ffcv.format import JPEG, RAW

Pixels: TypeAlias = NDArray[np.uint8]
Box: TypeAlias = tuple[float, float, float, float]
"""Top, left, height and width of a crop in pixels of the source; fractions are allowed."""

REDUCE_FROM = 2.0
"""Default of ``reduce_from``, see `decode_crop`."""

_VERSIONS = (1, 2)  # of crop_decode.h; the first knows flips and areas alone
_INTEGER, _REAL = ctypes.c_int64, ctypes.c_double
_SIGNATURES = {
    "crop_decode_image": [_INTEGER] * 5 + [_REAL] * 4 + [_INTEGER] * 4 + [_REAL, _INTEGER],
    "crop_decode_portable": [_INTEGER],
}


class How(IntFlag):
    """How a crop is resized, with the numbers of ``native/filter.h``."""

    FLIP = 1
    BILINEAR = 2  # antialiased, as in Pillow and torchvision, in place of the mean of areas
    WHOLE_IMAGE = 4  # read pixels around the crop, as if the whole image were resized first


class Status(IntEnum):
    """Result of decoding a sample, with the numbers of ``native/crop_decode.h``."""

    OK = 0
    DAMAGED = 1
    SIZE_MISMATCH = 2
    BAD_ARGUMENT = 3
    NO_MEMORY = 4
    UNSUPPORTED = 5


_MESSAGES = {
    Status.DAMAGED: "damaged JPEG stream",
    Status.SIZE_MISMATCH: "the image does not have the size that was recorded for it",
    Status.BAD_ARGUMENT: "the crop, the output size or the storage mode is out of range",
    Status.NO_MEMORY: "out of memory",
    Status.UNSUPPORTED: "a kind of JPEG that cannot be packed",
}


def error_of(status: int, detail: bytes = b"") -> Exception:
    """Return the exception for a status other than OK, with libjpeg's message if there is one."""
    sentence = _MESSAGES[Status(status)] + (
        f": {detail.decode(errors='replace')}" if detail else ""
    )
    kinds = {Status.NO_MEMORY: MemoryError, Status.UNSUPPORTED: NotImplementedError}
    return kinds.get(Status(status), ValueError)(sentence)


def load_library(path: str) -> ctypes.CDLL:
    """Load a build of the library and declare the types of its functions.

    Raises:
        OSError: If it cannot be loaded, or was built from another version of the package.
    """
    loaded = ctypes.CDLL(path)
    if getattr(loaded, "crop_decode_version", int)() not in _VERSIONS:
        raise OSError(f"{path} was built from another version of the package; reinstall it")
    for name, arguments in _SIGNATURES.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = arguments, _INTEGER
    return loaded


@functools.cache
def library() -> ctypes.CDLL:
    """Load the installed library.

    Raises:
        RuntimeError: If it was not built or cannot be loaded.
    """
    spec = importlib.util.find_spec("eca_lightning.data.ffcv._crop_decode")
    if spec is None or spec.origin is None:
        raise RuntimeError(
            "the crop decoder was not built; install libjpeg-turbo's headers "
            "(libjpeg62-turbo-dev or libjpeg-turbo8-dev) and a C compiler, then reinstall"
        )
    try:
        return load_library(spec.origin)
    except OSError as error:
        raise RuntimeError(f"the crop decoder cannot be loaded: {error}") from error


def require_version(how: int) -> None:
    """Check that the library is not older than bilinear interpolation, if that is asked for.

    Raises:
        ImportError: If it is older.
    """
    if how & ~How.FLIP and library().crop_decode_version() < 2:
        raise ImportError("the crop decoder is older than the package; install it again")


def unavailable_reason() -> str:
    """Say why the library cannot be used, and the remedy; empty if it can."""
    try:
        library()
    except RuntimeError as error:
        return str(error)
    return ""


def decode_crop(
    stream: bytes | Pixels,
    crop: Box,
    size: tuple[int, int],
    how: int = 0,
    recorded_size: tuple[int, int] | None = None,
    reduce_from: float = REDUCE_FROM,
) -> Pixels:
    """Decode and resize a crop of a JPEG; gray, CMYK and YCCK become RGB as PIL converts them.

    Args:
        stream: The file's bytes.
        crop: The crop, inside the image.
        size: Height and width of the result, in pixels.
        how: Bits of `How`.
        recorded_size: Height and width that the image must have, if known.
        reduce_from: Decode at 1/2 of the resolution if the crop is at least this many times as
            large as the result in both directions, at 1/4 from twice this factor, at 1/8 from four
            times; at least 2, or infinity for never. Faster, but no longer the mean of areas: at
            2, as far from it as another filter would be.

    Returns:
        uint8 RGB of shape (height, width, 3).

    Raises:
        ValueError: If the stream is damaged in a part that the crop needs, or not of the recorded
            size, or the crop is not inside the image.
        MemoryError: If it would take more memory than there is, or than the decoder allows.
    """
    data = np.frombuffer(stream, np.uint8)
    return _decode(JPEG, data, recorded_size or (0, 0), crop, size, how, reduce_from)


def resize_crop(pixels: Pixels, crop: Box, size: tuple[int, int], how: int = 0) -> Pixels:
    """Resize a crop of an image in memory; see `decode_crop`.

    Raises:
        ValueError: If `pixels` is not uint8 of shape (height, width, 3), or the crop is not inside.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        got = f"got {pixels.dtype} of shape {pixels.shape}"
        raise ValueError(f"pixels must be uint8 of shape (height, width, 3), {got}")
    pixels = np.ascontiguousarray(pixels)
    return _decode(RAW, pixels, pixels.shape[:2], crop, size, how, REDUCE_FROM)


def _decode(
    mode: int,
    data: Pixels,
    image_size: tuple[int, ...],
    crop: Box,
    size: tuple[int, int],
    how: int,
    reduce_from: float,
) -> Pixels:
    if not reduce_from >= 2:
        raise ValueError(f"reduce_from must be at least 2, got {reduce_from}")
    if not all(1 <= side <= 65535 for side in size):
        raise ValueError(f"size must be a height and a width from 1 to 65535, got {size}")
    require_version(how)
    output = np.empty((*size, 3), np.uint8)
    message = ctypes.create_string_buffer(200)
    source = (mode, data.ctypes.data, data.size, *image_size, *crop, how)
    target = (output.ctypes.data, *size, reduce_from, ctypes.addressof(message))
    status = library().crop_decode_image(*source, *target)
    if status != Status.OK:
        raise error_of(status, message.value)
    return output
