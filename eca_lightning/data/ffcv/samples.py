"""Samples to write to a .beton, and how their images are stored."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from eca_lightning.data.ffcv import ffcv_api
from eca_lightning.data.ffcv.format import JPEG, PACKED, RAW
from eca_lightning.data.ffcv.packed import native
from eca_lightning.data.ffcv.sidecar import Encoding

MAX_SIDE = 65500
"""Pixels of a side that JPEG and .beton files can have."""


class StoredImage(NamedTuple):
    """An image as it is stored in a .beton."""

    mode: int  # of `format`
    height: int
    width: int
    data: NDArray[np.uint8]  # its bytes

    @classmethod
    def packed(cls, data: NDArray[np.uint8]) -> "StoredImage":
        """Describe a packed image."""
        return cls(PACKED, *native.size_of(data), data)


class Samples(Protocol):
    """A map-style dataset of labeled images."""

    def __len__(self) -> int:
        """Number of samples."""

    def __getitem__(self, index: int, /) -> tuple[NDArray[np.uint8], int]:
        """Return pixels of shape ``(height, width, 3)`` and the label."""


@runtime_checkable
class StoredSamples(Samples, Protocol):
    """A dataset of which some images can be stored without decoding them."""

    def stored(self, index: int, encoding: Encoding) -> tuple[StoredImage, int] | None:
        """Return an image as it is stored and its label; None if it has to be decoded first."""


class StoredField(ffcv_api.RGBImageField):
    """The field of images that are stored as they are given, as a `StoredImage`."""

    def encode(self, destination: Any, image: StoredImage, malloc: Any) -> None:
        """Store an image, and what describes it in ``destination``."""
        destination["mode"] = image.mode
        destination["height"], destination["width"] = image.height, image.width
        destination["data_ptr"], storage = malloc(image.data.nbytes)
        storage[:] = image.data


class PackedField(ffcv_api.RGBImageField):
    """The field of packed images, which FFCV reads with ``custom_fields={"image": PackedField}``.

    Its type number in a .beton is that of custom fields: FFCV's own decoders refuse it.
    """

    @staticmethod
    def from_binary(binary: Any) -> "PackedField":
        """Create the field of a file; it has no arguments."""
        return PackedField()


def encode_sample(dataset: Samples, index: int, encoding: Encoding) -> tuple[StoredImage, int]:
    """Encode the image of a sample, and return it with the label.

    Raises:
        ValueError: If a side is too long for a .beton.
    """
    if isinstance(dataset, StoredSamples) and (found := dataset.stored(index, encoding)):
        return found
    pixels, label = dataset[index]
    return encode_pixels(shrink(pixels, encoding.max_resolution), encoding), label


def encode_pixels(pixels: NDArray[np.uint8], encoding: Encoding) -> StoredImage:
    """Encode an image, uint8 of shape ``(height, width, 3)``."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        got = f"{pixels.dtype} of shape {pixels.shape}"
        raise ValueError(f"pixels must be uint8 of shape (height, width, 3), not {got}")
    height, width, _ = pixels.shape
    if encoding.mode == "raw":
        return StoredImage(RAW, height, width, np.ascontiguousarray(pixels).reshape(-1))
    stream = ffcv_api.encode_jpeg(pixels, encoding.quality)
    if encoding.mode == "jpg":
        return StoredImage(JPEG, height, width, stream)
    packed = native.encode(stream)
    assert packed is not None  # noqa: S101  # OpenCV writes baseline YCbCr
    return StoredImage.packed(packed)


def shrink(pixels: NDArray[np.uint8], max_resolution: int | None) -> NDArray[np.uint8]:
    """Shrink an image whose longer side is above ``max_resolution``.

    As FFCV's own ``resizer``, which rounds the shorter side of a long thin image to zero.

    Raises:
        ValueError: If a side is too long for a .beton.
    """
    import cv2  # after ffcv_api, which says what to install

    height, width = pixels.shape[:2]
    longer = max(height, width)
    if max_resolution is not None and longer > max_resolution:
        ratio = max_resolution / longer
        size = max(1, int(ratio * width)), max(1, int(ratio * height))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    if max(pixels.shape[:2]) > MAX_SIDE:
        raise ValueError(f"a side has more than {MAX_SIDE:,} pixels; give a max_resolution")
    return pixels
