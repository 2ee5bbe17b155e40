"""Packed coefficients: the JPEG's own, decoded to the bit alike by every kernel."""

import io

import numpy as np
import pytest
from exact_pixels import exact, picture, pil, random_crop
from fuzz_crop_decode import encode
from independent_readers import read_jpeg, read_packed, same
from PIL import Image

from eca_lightning.data.ffcv.packed import native


def turned(pixels, to):
    """A stream whose blocks are those of another sampling, at other places: Pillow writes none."""
    stream = bytearray(encode(pixels, subsampling={"4:4:0": "4:2:2", "4:1:1": "4:2:0"}[to]))
    frame = stream.index(b"\xff\xc0")
    height, width, _ = pixels.shape
    assert height % 16 == width % 16 == 0
    height, width = (2 * height, width // 2) if to == "4:4:0" else (height // 2, 2 * width)
    stream[frame + 5 : frame + 9] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    stream[frame + 11] = {"4:4:0": 0x12, "4:1:1": 0x41}[to]
    return bytes(stream)


SHAPES = [(1, 1), (3, 2), (17, 31), (64, 48), (75, 203)]
KINDS = {
    "444": {"subsampling": "4:4:4"},
    "422": {"subsampling": "4:2:2"},
    "420": {"subsampling": "4:2:0"},
    "fine": {"subsampling": "4:2:0", "quality": 100},
    "coarse": {"subsampling": "4:2:0", "quality": 5},
    "gray": {"mode": "L"},
}


def streams():
    """Baseline streams of every sampling and several sizes."""
    for name, options in KINDS.items():
        for shape in SHAPES:
            yield pytest.param(encode(picture(*shape), **options), id=f"{name}-{shape}")
    for shape in ((16, 16), (64, 48), (32, 208)):
        yield pytest.param(turned(picture(*shape), "4:4:0"), id=f"440-{shape}")


@pytest.fixture
def portable():
    yield lambda on: native.library().packed_portable(int(on))
    native.library().packed_portable(0)


@pytest.mark.parametrize("stream", list(streams()))
def test_coefficients_are_those_of_the_jpeg_and_come_back_in_the_same_scan(stream):
    packed = native.encode(stream).tobytes()
    expected = read_jpeg(stream)
    assert same(read_packed(packed), expected)
    back = native.to_jpeg(packed).tobytes()
    assert same(read_jpeg(back), expected)
    assert native.encode(back).tobytes() == packed
    assert native.to_jpeg(native.encode(back)).tobytes() == back
    assert np.array_equal(pil(back), pil(stream))


@pytest.mark.parametrize("other", ["progressive", "optimized", "restarts"])
@pytest.mark.parametrize("kind", KINDS)
def test_how_a_jpeg_is_coded_does_not_matter(kind, other):
    options = {
        "progressive": {"progressive": True},
        "optimized": {"optimize": True},
        "restarts": {"restart_marker_blocks": 3},
    }[other]
    pixels = picture(57, 123)
    stream = encode(pixels, **KINDS[kind])
    assert np.array_equal(
        native.encode(encode(pixels, **KINDS[kind], **options)), native.encode(stream)
    )


def test_other_kinds_are_not_packed():
    pixels = picture(32, 48)
    streams = [encode(pixels, "CMYK"), encode(pixels, keep_rgb=True), turned(pixels, "4:1:1")]
    assert [native.encode(stream) for stream in streams] == [None, None, None]


@pytest.mark.parametrize("cut", [0, 1, 2, 100, 700, -2])
def test_damaged_jpegs_are_refused(cut):
    with pytest.raises(ValueError, match=r"damaged JPEG stream|out of range"):
        native.encode(encode(picture(64, 48))[:cut])


@pytest.mark.parametrize("stream", list(streams()))
def test_every_kernel_and_the_full_decode_give_the_same_crops(stream, portable):
    packed, full = native.encode(stream), pil(stream).astype(int)
    height, width = native.size_of(packed)
    rng = np.random.default_rng(1)
    for number in range(4):
        crop = random_crop(height, width, rng) if number else (0, 0, height, width)
        size = tuple(map(int, rng.integers(1, 90, 2))) if number else (height, width)
        flip = bool(number % 2)
        shown = native.decode_crop(packed, crop, size, flip)
        portable(True)
        assert np.array_equal(native.decode_crop(packed, crop, size, flip), shown)
        portable(False)
        shown = shown[:, ::-1] if flip else shown
        # libjpeg rounds chroma twice, and clips colors before they are resized.
        difference = np.abs(shown - exact(full, crop, size))
        assert np.median(difference) < 0.6
        assert difference.clip(max=8).mean() < 0.75


def test_gray_is_exact():
    stream = encode(picture(75, 203), "L", quality=60)
    shown = native.decode_crop(native.encode(stream), (0, 0, 75, 203), (75, 203))
    assert np.array_equal(shown, pil(stream))


@pytest.mark.parametrize("size", [224, 160, 128])
def test_photographs_are_the_full_decode_resized_in_float64(image_folder, size):
    differences = []
    for path in sorted(image_folder.rglob("*.jpg"))[:8]:
        with Image.open(path) as image:
            large = image.resize((500, 375), Image.Resampling.BICUBIC)
        stream = encode(np.asarray(large), quality=90)
        crop = (20.0, 40.0, 320.0, 430.0)
        shown = native.decode_crop(native.encode(stream), crop, (size, size))
        differences.append(np.abs(shown - exact(pil(stream), crop, (size, size))).mean())
    assert np.mean(differences) < 0.3


def test_any_changed_byte_is_found():
    packed = native.encode(encode(picture(40, 90), quality=50))
    assert native.is_sound(packed, 40, 90)
    assert not native.is_sound(packed, 90, 40)
    for at in range(len(packed)):
        damaged = packed.copy()
        damaged[at] ^= 1 << at % 8
        assert not native.is_sound(damaged, 40, 90)
        assert not native.is_sound(packed[:at], 40, 90)


def test_a_crop_reads_its_own_groups_alone():
    packed = native.encode(encode(picture(64, 400), subsampling="4:2:0")).copy()
    expected = native.decode_crop(packed, (0, 0, 16, 60), (16, 60))
    packed[len(packed) - 400] ^= 1  # in the last row
    assert np.array_equal(native.decode_crop(packed, (0, 0, 16, 60), (16, 60)), expected)
    with pytest.raises(ValueError, match="damaged"):
        native.decode_crop(packed, (0, 0, 64, 400), (16, 60))


@pytest.mark.parametrize("crop", [(-1, 0, 5, 5), (0, 0, 41, 5), (0, 0, 0, 5), (np.nan, 0, 5, 5)])
def test_crops_outside_are_refused(crop):
    packed = native.encode(encode(picture(40, 90)))
    with pytest.raises(ValueError, match="out of range"):
        native.decode_crop(packed, crop, (8, 8))


def test_a_large_reduction_and_a_large_image(portable):
    stream = io.BytesIO()
    Image.fromarray(picture(1500, 2000)).save(stream, "JPEG", quality=90)
    packed, full = native.encode(stream.getvalue()), pil(stream.getvalue())
    for crop, size in [((0, 0, 1500, 2000), (7, 3)), ((100, 300, 1000, 1500), (224, 224))]:
        shown = native.decode_crop(packed, crop, size)
        assert np.abs(shown - np.rint(exact(full, crop, size))).mean() < 0.3
        portable(True)
        assert np.array_equal(native.decode_crop(packed, crop, size), shown)
        portable(False)
