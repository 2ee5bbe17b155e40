"""Antialiased bilinear interpolation, which Pillow and torchvision take, in every decoder."""

import io

import numpy as np
import pytest
from exact_pixels import picture, pil, random_crop
from fuzz_crop_decode import encode
from PIL import Image
from torchvision.transforms import v2

from eca_lightning.data.ffcv import crop_decode
from eca_lightning.data.ffcv.crop_decode import How
from eca_lightning.data.ffcv.packed import native
from eca_lightning.data.transforms.crop import Crop


def jpg(stream, *arguments):
    return crop_decode.decode_crop(stream, *arguments)


def raw(stream, *arguments):
    return crop_decode.resize_crop(pil(stream), *arguments)


def packed(stream, *arguments):
    return native.decode_crop(native.encode(stream), *arguments)


DECODERS = pytest.mark.parametrize("decoder", [jpg, raw, packed])


def photograph(image_folder, number, size):
    """A file of the folder, enlarged and encoded without halved chroma."""
    with Image.open(sorted(image_folder.rglob("*.jpg"))[number]) as image:
        return encode(np.asarray(image.resize(size)), subsampling="4:4:4", quality=90)


def check(shown, expected):
    """One level for rounding between the passes; where colors clip, packed pixels differ more."""
    difference = np.abs(shown.astype(int) - np.asarray(expected).astype(int))
    assert (difference <= 1).mean() >= 0.999
    assert difference.mean() < 0.3


@DECODERS
@pytest.mark.parametrize("size", [(500, 375), (211, 260)])
def test_center_crops_are_torchvisions(image_folder, decoder, size):
    view = Crop("center_crop", 112, 112, resize_size=128, interpolation="bilinear")
    transform = v2.Compose([v2.Resize(128), v2.CenterCrop(112)])
    for number in range(4):
        stream = photograph(image_folder, number, size)
        box = view.boxes([0], [size[1]], [size[0]], 0)[0, :4]
        shown = decoder(stream, tuple(box), (112, 112), How.BILINEAR | How.WHOLE_IMAGE)
        check(shown, transform(Image.open(io.BytesIO(stream))))


@DECODERS
def test_random_crops_are_torchvisions(image_folder, decoder):
    rng = np.random.default_rng(0)
    for number in range(4):
        stream = photograph(image_folder, number, (320, 240))
        h, w = map(int, rng.integers(40, 240, 2))
        top, left = int(rng.integers(241 - h)), int(rng.integers(321 - w))
        expected = v2.functional.resized_crop(pil_image(stream), top, left, h, w, [96, 80])
        shown = decoder(stream, (top, left, h, w), (96, 80), How.BILINEAR | How.FLIP)
        check(shown[:, ::-1], expected)


def pil_image(stream):
    return Image.open(io.BytesIO(stream)).convert("RGB")


def test_every_kernel_gives_the_same_pixels():
    data = native.encode(encode(picture(120, 203), subsampling="4:2:0"))
    rng = np.random.default_rng(0)
    for _ in range(10):
        crop, size = random_crop(120, 203, rng), tuple(map(int, rng.integers(1, 90, 2)))
        how = How.BILINEAR | int(rng.choice([0, How.WHOLE_IMAGE]))
        shown = native.decode_crop(data, crop, size, how)
        native.library().packed_portable(1)
        assert np.array_equal(native.decode_crop(data, crop, size, how), shown)
        native.library().packed_portable(0)


def test_a_whole_image_is_read_around_its_crop():
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:, 20:] = 255
    alone = crop_decode.resize_crop(pixels, (0, 0, 40, 20), (10, 5), How.BILINEAR)
    around = crop_decode.resize_crop(
        pixels, (0, 0, 40, 20), (10, 5), How.BILINEAR | How.WHOLE_IMAGE
    )
    assert not alone.any()
    assert around[:, -1].all()
    assert not around[:, :-1].any()
