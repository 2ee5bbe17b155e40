"""The FFCV operation that decodes, crops, resizes and flips stored images.

FFCV's decoders choose crops inside compiled code from numba's generator, which no seed controls,
ignore the status of the JPEG decoder, and take 7 to 15 s to compile with their transforms. This
single operation serves every crop: it reads each sample's box from its slot memory and writes each
sample's status there.
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
    """The memory of :class:`CropDecoder`, in the order in which it is declared.

    Attributes:
        images: Output pixels, uint8, of shape ``(slots, batch, height, width, 3)``.
        boxes: Rows of (top, left, height, width, flip), int64, of shape ``(slots, batch, 5)``, to
            be set before a slot is run.
        status: Nonzero where an image could not be decoded, int64, of shape ``(slots, batch, 1)``.
    """

    images: NDArray[np.uint8]
    boxes: NDArray[np.int64]
    status: NDArray[np.int64]


class CropDecoder(SimpleRGBImageDecoder):
    """Decode each image, crop it, resize it by area (bilinear when enlarging) and flip it.

    Args:
        height: Height of the output in pixels.
        width: Width of the output in pixels.
        native: Decode only the crop (`crop_decode`), which must be available; otherwise FFCV
            decodes the whole image and OpenCV resizes it.
    """

    def __init__(self, height: int, width: int, native: bool) -> None:
        super().__init__()
        self.native = native
        self.height = height
        self.width = width

    def declare_state_and_memory(
        self, previous_state: State
    ) -> tuple[State, tuple[AllocationQuery, ...]]:
        """Declare the output's shape and the memory of each slot."""
        shape = (self.height, self.width, 3)
        pixel, integer = np.dtype("u1"), np.dtype("<i8")
        memory = (
            AllocationQuery(shape, pixel),
            AllocationQuery((5,), integer),
            AllocationQuery((1,), integer),
        )
        return replace(previous_state, jit_mode=True, shape=shape, dtype=pixel), memory

    def generate_code(self) -> Callable[..., Any]:
        """Return the function that FFCV compiles; it reads output sizes from its arguments."""
        return self._native_code() if self.native else self._ffcv_code()

    def _native_code(self) -> Callable[..., Any]:
        read = self.memory_read
        rows = Compiler.get_iterator()
        decode_image = crop_decode.library().crop_decode_image
        reduce_from = crop_decode.REDUCE_FROM

        def decode(batch_indices, memory, metadata, storage_state):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
            images, boxes, status = memory
            for row in rows(len(batch_indices)):
                image = metadata[batch_indices[row]]
                data = read(image["data_ptr"], storage_state)
                mode, h, w = np.int64(image["mode"]), np.int64(image["height"]), image["width"]
                top, left, height, width = boxes[row, :4].astype(np.float64)
                source, target = data.ctypes.data, images[row].ctypes.data
                out_h, out_w = images.shape[1:3]
                status[row, 0] = decode_image(
                    mode, source, data.size, h, np.int64(w), top, left, height, width,
                    boxes[row, 4], target, out_h, out_w, reduce_from, 0,
                )  # fmt: skip
            return images[: len(batch_indices)]

        decode.is_parallel = True  # type: ignore[attr-defined]
        return decode

    def _ffcv_code(self) -> Callable[..., Any]:
        read = self.memory_read
        rows = Compiler.get_iterator()
        decode_jpeg, resize = ctypes_imdecode, ctypes_resize

        def decode(batch_indices, memory, metadata, storage_state):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
            images, boxes, status = memory
            for row in rows(len(batch_indices)):
                image = metadata[batch_indices[row]]
                data = read(image["data_ptr"], storage_state)
                h, w = np.int64(image["height"]), np.int64(image["width"])
                status[row, 0] = 0
                if image["mode"] == JPEG:
                    pixels = np.empty((h, w, 3), np.uint8)
                    source, target = data.ctypes.data, pixels.ctypes.data
                    status[row, 0] = decode_jpeg(
                        source, data.size, h, w, target, h, w, 0, 0, 1, 1, False, False
                    )
                else:
                    pixels = data.reshape(h, w, 3)

                out = images[row]
                top, left, height, width, flip = boxes[row]
                bottom, right = top + height, left + width
                source, target = pixels.ctypes.data, out.ctypes.data
                out_height, out_width = out.shape[:2]
                resize(0, source, h, w, top, bottom, left, right, target, out_height, out_width)
                if flip:
                    out[:] = out[:, ::-1].copy()
            return images[: len(batch_indices)]

        decode.is_parallel = True  # type: ignore[attr-defined]
        return decode


def is_decodable(data: NDArray[np.uint8], height: int, width: int) -> bool:
    """Check whether JPEG bytes decode to this size in pixels without error or warning."""
    pixels = np.empty((height, width, 3), np.uint8)
    source, target, size = data.ctypes.data, pixels.ctypes.data, (height, width)
    return ctypes_imdecode(source, data.size, *size, target, *size, 0, 0, 1, 1, False, False) == 0
