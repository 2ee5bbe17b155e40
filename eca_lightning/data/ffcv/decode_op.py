"""The FFCV operation that turns a stored image into a network's input: decode, crop, resize, flip.

FFCV's own decoders choose crops inside compiled code from numba's generator, which no seed
controls, ignore the status of the JPEG decoder, and take 7 to 15 s to compile with their
transforms. Here one operation serves every view: it is told each sample's crop through its slot
memory and reports each sample's status there.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eca_lightning.data.ffcv import crop_decode
from eca_lightning.data.ffcv.ffcv_api import (
    AllocationQuery,
    Compiler,
    SimpleRGBImageDecoder,
    State,
    ctypes_imdecode,
    ctypes_resize,
)
from eca_lightning.data.ffcv.format import JPEG

DecoderName = Literal["crop", "ffcv"]


class SlotMemory(NamedTuple):
    """The memory of :class:`CropDecoder`, in the order in which it declares it.

    Attributes:
        images: Output pixels, uint8, of shape ``(slots, batch, height, width, 3)``.
        crops: Rows of (top, left, height, width, flip), int64, of shape ``(slots, batch, 5)``; to
            be filled in before the slot is run.
        status: Not 0 where an image could not be decoded, int64, of shape ``(slots, batch, 1)``.
    """

    images: NDArray[np.uint8]
    crops: NDArray[np.int64]
    status: NDArray[np.int64]


class CropDecoder(SimpleRGBImageDecoder):
    """Decode each image, cut out its crop, resize it by area (bilinear upwards) and flip it.

    Args:
        height: Height of the output in pixels.
        width: Width of the output in pixels.
        native: Decode no more than the crop (`crop_decode`); without it, FFCV decodes the whole
            image and OpenCV resizes it.

    Raises:
        RuntimeError: ``native`` is asked for, but was not built.
    """

    def __init__(self, height: int, width: int, native: bool) -> None:
        super().__init__()
        self.native = native
        self.height = height
        self.width = width

    def declare_state_and_memory(
        self, previous_state: State
    ) -> tuple[State, tuple[AllocationQuery, ...]]:
        """Tell FFCV the output's shape and the memory of each slot."""
        shape = (self.height, self.width, 3)
        pixel, integer = np.dtype("u1"), np.dtype("<i8")
        memory = (
            AllocationQuery(shape, pixel),
            AllocationQuery((5,), integer),
            AllocationQuery((1,), integer),
        )
        return replace(previous_state, jit_mode=True, shape=shape, dtype=pixel), memory

    def generate_code(self) -> Callable[..., Any]:
        """The function that FFCV compiles; output sizes are read from its arguments."""
        return self._native_code() if self.native else self._ffcv_code()

    def _native_code(self) -> Callable[..., Any]:
        read = self.memory_read
        rows = Compiler.get_iterator()
        decode_image = crop_decode.library().crop_decode_image
        reduce_from = crop_decode.REDUCE_FROM

        def decode(batch_indices, memory, metadata, storage_state):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
            images, crops, status = memory
            for row in rows(len(batch_indices)):
                image = metadata[batch_indices[row]]
                data = read(image["data_ptr"], storage_state)
                out = images[row]
                top, left, height, width, flip = crops[row]
                status[row, 0] = decode_image(
                    np.int64(image["mode"]),
                    data.ctypes.data,
                    data.size,
                    np.int64(image["height"]),
                    np.int64(image["width"]),
                    np.float64(top),
                    np.float64(left),
                    np.float64(height),
                    np.float64(width),
                    flip,
                    out.ctypes.data,
                    out.shape[0],
                    out.shape[1],
                    reduce_from,
                    0,
                )
            return images[: len(batch_indices)]

        decode.is_parallel = True  # type: ignore[attr-defined]
        return decode

    def _ffcv_code(self) -> Callable[..., Any]:
        read = self.memory_read
        rows = Compiler.get_iterator()
        decode_jpeg, resize = ctypes_imdecode, ctypes_resize

        def decode(batch_indices, memory, metadata, storage_state):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
            images, crops, status = memory
            for row in rows(len(batch_indices)):
                image = metadata[batch_indices[row]]
                data = read(image["data_ptr"], storage_state)
                height, width = np.int64(image["height"]), np.int64(image["width"])
                status[row, 0] = 0
                if image["mode"] == JPEG:
                    pixels = np.empty((height, width, 3), np.uint8)
                    status[row, 0] = decode_jpeg(
                        data.ctypes.data,
                        data.size,
                        height,
                        width,
                        pixels.ctypes.data,
                        height,
                        width,
                        0,
                        0,
                        1,
                        1,
                        False,
                        False,
                    )
                else:
                    pixels = data.reshape(height, width, 3)

                out = images[row]
                top, left, crop_height, crop_width, flip = crops[row]
                resize(
                    0,
                    pixels.ctypes.data,
                    height,
                    width,
                    top,
                    top + crop_height,
                    left,
                    left + crop_width,
                    out.ctypes.data,
                    out.shape[0],
                    out.shape[1],
                )
                if flip:
                    last = out.shape[1] - 1
                    for y in range(out.shape[0]):
                        for x in range(out.shape[1] // 2):
                            for channel in range(3):
                                kept = out[y, x, channel]
                                out[y, x, channel] = out[y, last - x, channel]
                                out[y, last - x, channel] = kept
            return images[: len(batch_indices)]

        decode.is_parallel = True  # type: ignore[attr-defined]
        return decode


def decodes(data: NDArray[np.uint8], height: int, width: int) -> bool:
    """Whether JPEG bytes decode without error or warning.

    Args:
        data: The bytes.
        height: Expected height in pixels.
        width: Expected width in pixels.

    Returns:
        True if the decoder has nothing to object to.
    """
    pixels = np.empty((height, width, 3), np.uint8)
    status = ctypes_imdecode(
        data.ctypes.data,
        data.size,
        height,
        width,
        pixels.ctypes.data,
        height,
        width,
        0,
        0,
        1,
        1,
        False,
        False,
    )
    return status == 0
