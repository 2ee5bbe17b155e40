import numpy as np
import pytest
import torch
from exact_pixels import exact, picture, pil, random_crop
from fuzz_crop_decode import encode
from PIL import Image

from eca_lightning.data.ffcv import crop_decode
from eca_lightning.data.ffcv.crop_decode import decode_crop, resize_crop, unavailable_reason

pytestmark = pytest.mark.skipif(bool(unavailable_reason()), reason=unavailable_reason())

# Half a level of rounding, and what 15-bit weights and 7 fraction bits may add.
ROUNDING = 0.52


KINDS = {
    "444": {"subsampling": "4:4:4"},
    "422": {"subsampling": "4:2:2"},
    "420": {"subsampling": "4:2:0"},
    "411": {"subsampling": "4:1:1"},
    "420-progressive": {"subsampling": "4:2:0", "progressive": True},
    "444-progressive": {"subsampling": "4:4:4", "progressive": True},
    "420-restarts": {"subsampling": "4:2:0", "restart_marker_blocks": 2},
    "optimized": {"optimize": True, "quality": 97},
    "gray": {"mode": "L"},
    "gray-progressive": {"mode": "L", "progressive": True},
    "cmyk": {"mode": "CMYK"},
    "rgb": {"keep_rgb": True},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (17, 31), (64, 48), (150, 203)])
def test_crop_is_the_full_decode_cut_and_resized_in_float64(kind, shape):
    stream = encode(picture(*shape), **KINDS[kind])
    full, rng = pil(stream), np.random.default_rng(1)
    for _ in range(8):
        crop = random_crop(*shape, rng)
        size = tuple(int(side) for side in rng.integers(1, 90, 2))
        shown = decode_crop(stream, crop, size, recorded_size=shape, reduce_from=np.inf)
        assert np.abs(shown - exact(full, crop, size)).max() <= ROUNDING


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("eighths", [1, 2, 4])
def test_scaled_crop_is_the_scaled_decode_cut_and_resized(kind, eighths):
    stream, rng = encode(picture(187, 240), **KINDS[kind]), np.random.default_rng(2)
    scaled, factor = pil(stream, eighths), eighths / 8
    for _ in range(8):
        crop = random_crop(187, 240, rng)
        size = tuple(int(side * factor / rng.uniform(1, 1.9)) for side in crop[2:])
        reduction = min(crop[2] / max(size[0], 1), crop[3] / max(size[1], 1))
        if min(size) < 1 or (eighths > 1 and reduction >= 2 / factor):
            continue
        expected = exact(scaled, [side * factor for side in crop], size)
        assert np.abs(decode_crop(stream, crop, size) - expected).max() <= ROUNDING


def test_reduced_decode_begins_where_it_is_told():
    stream = encode(picture(200, 300))
    crop = (0, 0, 200, 300)
    for size, at_two, at_three in [
        ((101, 100), False, False),
        ((67, 100), True, False),
        ((66, 100), True, True),
    ]:
        full = decode_crop(stream, crop, size, reduce_from=np.inf)
        assert np.array_equal(decode_crop(stream, crop, size), full) != at_two
        assert np.array_equal(decode_crop(stream, crop, size, reduce_from=3), full) != at_three
    for crop in [(0, 0, 127.9, 300), (72, 0, 128, 127), (3, 5, 100, 100)]:
        full = decode_crop(stream, crop, (64, 64), reduce_from=np.inf)
        assert np.array_equal(decode_crop(stream, crop, (64, 64)), full)


# Mean difference from the mean of areas over both photographs, in 8-bit levels. With PIL's
# BILINEAR filter it is 1.4 to 2.4, with LANCZOS 1.6 to 2.4.
@pytest.mark.parametrize(
    ("reduce_from", "reduction", "bound"),
    [(np.inf, 2.6, 0.26), (2, 2.6, 1.9), (2, 3.8, 1.2), (2, 5.2, 2.2), (2, 10.4, 2.7)],
)
def test_reduced_decode_of_photographs_is_near_the_mean_of_areas(reduce_from, reduction, bound):
    differences = []
    for photo in pytest.importorskip("sklearn.datasets").load_sample_images().images:
        stream, crop = encode(photo, quality=90), (11, 35, 400, 560)
        size = tuple(int(side / reduction) for side in crop[2:])
        shown = decode_crop(stream, crop, size, reduce_from=reduce_from)
        differences.append(shown - exact(pil(stream), crop, size))
    assert np.mean([np.abs(difference).mean() for difference in differences]) < bound
    assert abs(np.mean([difference.mean() for difference in differences])) < 0.1


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (53, 1), (57, 91), (700, 333)])
def test_raw_pixels_are_resized_as_in_float64(shape):
    pixels, rng = picture(*shape), np.random.default_rng(3)
    for _ in range(12):
        crop = random_crop(*shape, rng)
        size = tuple(int(side) for side in rng.choice([1, 2, 3, 4, 5, 31, 64, 100], 2))
        assert np.abs(resize_crop(pixels, crop, size) - exact(pixels, crop, size)).max() <= ROUNDING


def test_peers_agree():
    pixels = picture(96, 144)
    reduced = np.asarray(Image.fromarray(pixels).reduce(3))
    assert np.abs(resize_crop(pixels, (0, 0, 96, 144), (32, 48)) - reduced.astype(int)).max() <= 1
    planes = torch.from_numpy(pixels).permute(2, 0, 1)[None].double()
    for size, mode in [((48, 36), "area"), ((131, 200), "bilinear")]:
        expected = torch.nn.functional.interpolate(planes, size, mode=mode)[0].permute(1, 2, 0)
        shown = resize_crop(pixels, (0, 0, 96, 144), size)
        assert np.abs(shown - expected.numpy()).max() <= ROUNDING


def test_a_crop_of_the_output_size_is_copied():
    pixels = picture(60, 80)
    assert np.array_equal(resize_crop(pixels, (5, 7, 41, 33), (41, 33)), pixels[5:46, 7:40])
    stream = encode(pixels)
    assert np.array_equal(decode_crop(stream, (5, 7, 41, 33), (41, 33)), pil(stream)[5:46, 7:40])


@pytest.mark.parametrize("size", [(1, 1), (20, 3), (33, 34), (90, 101)])
def test_mirrored_is_the_mirror_image(size):
    pixels = picture(64, 70)
    for show, source in [(resize_crop, pixels), (decode_crop, encode(pixels))]:
        crop = (3.3, 2.1, 50.5, 66.6)
        assert np.array_equal(show(source, crop, size, True), show(source, crop, size)[:, ::-1])


def test_simd_and_portable_kernels_agree_to_the_bit():
    pixels, rng = picture(300, 280), np.random.default_rng(4)
    calls = [(random_crop(300, 280, rng), tuple(rng.integers(1, 150, 2))) for _ in range(150)]
    with_simd = [resize_crop(pixels, *call) for call in calls]
    crop_decode.library().crop_decode_portable(1)
    try:
        portable = [resize_crop(pixels, *call) for call in calls]
    finally:
        crop_decode.library().crop_decode_portable(0)
    assert all(np.array_equal(a, b) for a, b in zip(with_simd, portable, strict=True))
