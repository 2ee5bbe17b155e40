"""Python interface of packed coefficients: pack a JPEG, decode a crop of it, and give it back.

The library in ``native/packed/`` is built at installation. `decode_op.CropDecoder` calls it from
FFCV's compiled loops. docs/packed.md describes the format.
"""

import ctypes
import functools
import importlib.util

import numpy as np
from numpy.typing import NDArray

from eca_lightning.data.ffcv.crop_decode import Box, Pixels, Status, error_of
from eca_lightning.data.ffcv.format import PACKED

_VERSION = 1  # equal to that in packed.h: a library of another version is not used
_INTEGER, _REAL = ctypes.c_int64, ctypes.c_double
_SIGNATURES = {
    "packed_decode_image": [_INTEGER] * 5 + [_REAL] * 4 + [_INTEGER] * 4 + [_REAL, _INTEGER],
    "packed_check": [_INTEGER] * 4,
    "packed_encode": [_INTEGER] * 5,
    "packed_to_jpeg": [_INTEGER] * 5,
    "packed_portable": [_INTEGER],
}


def load_library(path: str) -> ctypes.CDLL:
    """Load a build of the library and declare the types of its functions.

    Raises:
        OSError: If it cannot be loaded, or was built from another version of the package.
    """
    loaded = ctypes.CDLL(path)
    if getattr(loaded, "packed_library_version", int)() != _VERSION:
        raise OSError(f"{path} was built from another version of the package; reinstall it")
    for name, arguments in _SIGNATURES.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = arguments, _INTEGER
    loaded.packed_free.argtypes, loaded.packed_free.restype = [_INTEGER], None
    return loaded


@functools.cache
def library() -> ctypes.CDLL:
    """Load the installed library.

    Raises:
        ImportError: If it was not built or cannot be loaded.
    """
    spec = importlib.util.find_spec("eca_lightning.data.ffcv.packed._packed")
    if spec is None or spec.origin is None:
        raise ImportError(
            "the decoder of packed images was not built; install libjpeg-turbo's headers "
            "(libjpeg62-turbo-dev or libjpeg-turbo8-dev) and a C compiler, then reinstall"
        )
    try:
        return load_library(spec.origin)
    except OSError as error:
        raise ImportError(f"the decoder of packed images cannot be loaded: {error}") from error


def encode(jpeg: bytes | Pixels) -> Pixels | None:
    """Pack the coefficients of a JPEG stream; None if it is of a kind that is not packed.

    Gray and YCbCr are packed, with chroma of full resolution or halved in either direction,
    baseline or progressive.

    Raises:
        ValueError: If the stream is damaged.
        MemoryError: If there is too little memory.
    """
    try:
        return _convert("packed_encode", jpeg)
    except NotImplementedError:
        return None


def to_jpeg(packed: bytes | Pixels) -> Pixels:
    """Write the coefficients of a packed image as a baseline JPEG stream with optimal codes.

    Raises:
        ValueError: If the packed image is damaged.
        MemoryError: If there is too little memory.
    """
    return _convert("packed_to_jpeg", packed)


def _convert(name: str, source: bytes | Pixels) -> Pixels:
    data = np.frombuffer(source, np.uint8)
    result: NDArray[np.int64] = np.zeros(2, np.int64)  # address, number of bytes
    message = ctypes.create_string_buffer(200)
    places = (result.ctypes.data, result[1:].ctypes.data, ctypes.addressof(message))
    status = getattr(library(), name)(data.ctypes.data, data.size, *places)
    if status != Status.OK:
        raise error_of(status, message.value)
    address, count = map(int, result)
    try:
        return np.frombuffer(ctypes.string_at(address, count), np.uint8)
    finally:
        library().packed_free(address)


def size_of(packed: Pixels) -> tuple[int, int]:
    """Read the height and width of a packed image, in pixels."""
    width, height = packed[8:12].view("<u2")
    return int(height), int(width)


def is_sound(packed: Pixels, height: int, width: int) -> bool:
    """Check all of a packed image, also what no crop reads, and that it has this size in pixels."""
    return bool(library().packed_check(packed.ctypes.data, packed.size, height, width) == Status.OK)


def decode_crop(packed: bytes | Pixels, crop: Box, size: tuple[int, int], how: int = 0) -> Pixels:
    """Decode a crop of a packed image at full resolution and resize it.

    Args:
        packed: The packed image.
        crop: The crop, inside the image.
        size: Height and width of the result, in pixels.
        how: Bits of `crop_decode.How`.

    Returns:
        uint8 RGB of shape (height, width, 3).

    Raises:
        ValueError: If the image is damaged in a part that the crop needs, or the crop is outside.
        MemoryError: If there is too little memory.
    """
    data = np.frombuffer(packed, np.uint8)
    output = np.empty((*size, 3), np.uint8)
    source = (PACKED, data.ctypes.data, data.size, 0, 0, *crop, how)
    status = library().packed_decode_image(*source, output.ctypes.data, *size, 2.0, 0)
    if status != Status.OK:
        raise error_of(status)
    return output
