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

from eca_lightning.data.ffcv import crop_decode, ffcv_api
from eca_lightning.data.ffcv.format import JPEG

DecoderName = Literal["crop", "ffcv"]


class SlotMemory(NamedTuple):
    """The memory of :class:`CropDecoder`, in the order in which it is declared."""

    images: NDArray[np.uint8]  # (slots, batch, height, width, 3)
    boxes: NDArray[np.float64]  # (slots, batch, 5): top, left, height, width, how; set before a run
    status: NDArray[np.int64]  # (slots, batch, 1): nonzero where an image could not be decoded


class CropDecoder(ffcv_api.SimpleRGBImageDecoder):
    """Decode each image, crop it, resize it and flip it.

    Args:
        height, width: Size of the output in pixels.
        function: The function of a library that decodes only the crop, crop_decode_image or
            packed_decode_image; if None, FFCV decodes the whole image and OpenCV resizes it.
    """

    def __init__(self, height: int, width: int, function: Any) -> None:
        super().__init__()
        self.function = function
        self.height = height
        self.width = width

    def declare_state_and_memory(self, previous_state: Any) -> tuple[Any, tuple[Any, ...]]:
        """Declare the output's shape and the memory of each slot."""
        shape = (self.height, self.width, 3)
        memory = ((shape, "u1"), ((5,), "<f8"), ((1,), "<i8"))
        queries = tuple(ffcv_api.AllocationQuery(size, np.dtype(dtype)) for size, dtype in memory)
        return replace(previous_state, jit_mode=True, shape=shape, dtype=np.dtype("u1")), queries

    def generate_code(self) -> Callable[..., Any]:
        """Return the function that FFCV compiles; it reads output sizes from its arguments."""
        read, rows = self.memory_read, ffcv_api.Compiler.get_iterator()
        # Apart, as part of the parallel loop it would take five seconds longer to compile.
        decoder = _crop_decoder(self.function) if self.function else _decoder()
        decode_image = ffcv_api.Compiler.compile(decoder)

        def decode(batch_indices, memory, metadata, storage_state):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
            images, boxes, status = memory
            for row in rows(len(batch_indices)):
                image = metadata[batch_indices[row]]
                data = read(image["data_ptr"], storage_state)
                status[row, 0] = decode_image(image, data, boxes[row], images[row])
            return images[: len(batch_indices)]

        decode.is_parallel = True  # type: ignore[attr-defined]
        return decode


def _crop_decoder(decode_image: Any) -> Callable[..., Any]:
    """Return a function that decodes the crop of an image; its status is zero if it could."""
    reduce_from = crop_decode.REDUCE_FROM

    def decode(image, data, box, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        mode, h, w = np.int64(image["mode"]), np.int64(image["height"]), np.int64(image["width"])
        top, left, height, width, how = box
        source, target = data.ctypes.data, out.ctypes.data
        out_h, out_w = out.shape[:2]
        return decode_image(
            mode, source, data.size, h, w, top, left, height, width,
            np.int64(how), target, out_h, out_w, reduce_from, 0,
        )  # fmt: skip

    return decode


def _decoder() -> Callable[..., Any]:
    """Return a function that decodes an image and resizes its crop, with FFCV's library."""
    decode_jpeg, resize = ffcv_api.ctypes_imdecode, ffcv_api.ctypes_resize

    def decode(image, data, box, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        h, w = np.int64(image["height"]), np.int64(image["width"])
        status = 0
        if image["mode"] == JPEG:
            pixels = np.empty((h, w, 3), np.uint8)
            source, target = data.ctypes.data, pixels.ctypes.data
            status = decode_jpeg(source, data.size, h, w, target, h, w, 0, 0, 1, 1, False, False)
        else:
            pixels = data.reshape(h, w, 3)

        top, left, height, width, flip = box.astype(np.int64)
        bottom, right = top + height, left + width
        source, target = pixels.ctypes.data, out.ctypes.data
        out_height, out_width = out.shape[:2]
        resize(0, source, h, w, top, bottom, left, right, target, out_height, out_width)
        if flip:  # in loops, which compile in a tenth of the time that slices take
            for row in range(out_height):
                for column in range(out_width // 2):
                    other = out_width - 1 - column
                    for channel in range(3):
                        level = out[row, column, channel]
                        out[row, column, channel] = out[row, other, channel]
                        out[row, other, channel] = level
        return status

    return decode


def is_decodable(data: NDArray[np.uint8], height: int, width: int) -> bool:
    """Check whether JPEG bytes decode to this size in pixels without error or warning."""
    pixels = np.empty((height, width, 3), np.uint8)
    source, target, size = data.ctypes.data, pixels.ctypes.data, (height, width)
    options = (*size, 0, 0, 1, 1, False, False)
    return ffcv_api.ctypes_imdecode(source, data.size, *size, target, *options) == 0
