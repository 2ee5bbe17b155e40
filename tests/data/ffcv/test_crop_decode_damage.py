import resource
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fuzz_crop_decode import corpus, damaged_calls, decode, encode, fuzz

from eca_lightning.data.ffcv import crop_decode
from eca_lightning.data.ffcv.crop_decode import decode_crop, resize_crop, unavailable_reason

pytestmark = pytest.mark.skipif(bool(unavailable_reason()), reason=unavailable_reason())


def picture(height, width):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def test_damage_is_an_error_with_libjpegs_sentence():
    stream, whole = encode(picture(80, 90)), (0, 0, 80, 90)
    with pytest.raises(ValueError, match=r"damaged JPEG stream: Premature end of JPEG file"):
        decode_crop(stream[: len(stream) // 2], whole, (32, 32))
    with pytest.raises(ValueError, match="Not a JPEG file"):
        decode_crop(b"GIF89a" + stream, whole, (32, 32))
    without_tables = stream.replace(b"\xff\xdb", b"\xff\xef")
    with pytest.raises(ValueError, match="Quantization table"):
        decode_crop(without_tables, whole, (32, 32))


def test_what_lies_below_the_crop_is_not_read():
    stream = encode(picture(160, 90))
    top = (0, 0, 30, 90)
    shown = decode_crop(stream[: len(stream) // 2], top, (32, 32))
    assert np.array_equal(shown, decode_crop(stream, top, (32, 32)))


def test_a_picture_of_another_size_than_recorded_is_refused():
    with pytest.raises(ValueError, match="does not have the size"):
        decode_crop(encode(picture(80, 90)), (0, 0, 80, 80), (8, 8), recorded_size=(80, 80))


@pytest.mark.parametrize(
    "crop",
    [
        (-1, 0, 9, 9),
        (0, 0, 0, 9),
        (0, 0, 9, 91),
        (72, 0, 9, 9),
        (0, np.nan, 9, 9),
        (0, 0, np.inf, 9),
        (1e300, 0, 9, 9),
    ],
)
def test_a_crop_outside_the_picture_is_refused(crop):
    pixels = picture(80, 90)
    for show, source in [(resize_crop, pixels), (decode_crop, encode(pixels))]:
        with pytest.raises(ValueError, match="out of range"):
            show(source, crop, (8, 8))


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="size must be"):
        decode_crop(encode(picture(8, 8)), (0, 0, 8, 8), (0, 8))
    with pytest.raises(ValueError, match="reduce_from must be"):
        decode_crop(encode(picture(8, 8)), (0, 0, 8, 8), (8, 8), reduce_from=1)
    with pytest.raises(ValueError, match="float64"):
        resize_crop(np.zeros((8, 8, 3)), (0, 0, 8, 8), (8, 8))
    with pytest.raises(ValueError, match="out of range"):
        decode_crop(b"", (0, 0, 8, 8), (8, 8))


def test_a_hostile_progressive_header_costs_no_time():
    stream = bytearray(encode(picture(40, 40), progressive=True))
    at = stream.index(b"\xff\xc2") + 5
    stream[at : at + 4] = b"\xff\xd0\xff\xd0"  # 65488 x 65488: 25 GB of coefficients
    start = time.process_time()
    with pytest.raises((ValueError, MemoryError)):
        decode_crop(bytes(stream), (0, 0, 10, 10), (8, 8))
    assert time.process_time() - start < 1


def test_damaged_streams_leave_no_pixels_and_repeat():
    seen = fuzz(crop_decode.library(), 400, seed=7)
    assert seen[0] > 40
    assert seen[1] > 100
    assert set(seen) <= {0, 1, 2, 3, 4}


def test_threads_do_not_disturb_each_other():
    calls = list(damaged_calls(300, seed=8))

    def run(call):
        status, output = decode(crop_decode.library(), *call)
        return status, output.tobytes()

    alone = [run(call) for call in calls]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(run, calls)) == alone


def test_memory_is_flat():
    streams = [stream for stream, _ in corpus()] + [call[0] for call in damaged_calls(60, seed=9)]
    library = crop_decode.library()

    def run(times):
        for _ in range(times):
            for stream in streams:
                decode(library, stream, (0, 0), (0, 0, 1, 1), (24, 24), False)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = run(10)
    assert run(100) - before < 1024  # KiB; one leaked call in 10 would be more


def test_a_missing_library_is_explained(monkeypatch):
    monkeypatch.setattr(crop_decode.importlib.util, "find_spec", lambda name: None)
    crop_decode.library.cache_clear()
    try:
        assert unavailable_reason()
        with pytest.raises(RuntimeError, match="libjpeg62-turbo-dev"):
            decode_crop(b"", (0, 0, 1, 1), (1, 1))
    finally:
        monkeypatch.undo()
        crop_decode.library.cache_clear()
    assert not unavailable_reason()
