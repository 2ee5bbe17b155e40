"""Damaged packed images for their decoder, and a run of many under the sanitizers.

    python tests/data/ffcv/packed/fuzz_packed.py --count 200000

builds ``native/packed/`` with AddressSanitizer and UndefinedBehaviorSanitizer, and stops at the
first finding with its report and the seed that repeats it.
"""

import ctypes
import functools
import itertools
import sys
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz_crop_decode import corpus, damage, encode, random_call, run_sanitized

OK, DAMAGED, SIZE_MISMATCH, BAD_ARGUMENT, NO_MEMORY, UNSUPPORTED = range(6)
SHAPES = [(1, 1), (7, 5), (16, 16), (33, 47), (40, 150), (90, 20)]
TABLE = list(range(256))
for _ in range(8):
    TABLE = [crc >> 1 ^ (0x82F63B78 if crc & 1 else 0) for crc in TABLE]


def crc32c(data):
    """The CRC-32C of bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def with_checksums(data):
    """A packed image whose checksums are those of its bytes, as far as there is a header."""
    data = bytearray(data)
    if len(data) < 16 or not 1 <= data[6] <= 2 or not 1 <= data[7] <= 2:
        return bytes(data)
    width, height = (int.from_bytes(data[i : i + 2], "little") for i in (8, 10))
    groups = -(-width // (64 * data[6])) * -(-height // (8 * data[7]))
    first = start = 16 + 128 * data[5] + 8 * groups
    if first > len(data):
        return bytes(data)
    for entry in range(first - 8 * groups, first, 8):
        end = int.from_bytes(data[entry : entry + 4], "little")
        if start <= end <= len(data):
            data[entry + 4 : entry + 8] = crc32c(data[start:end]).to_bytes(4, "little")
        start = end
    data[12:16] = crc32c(data[:12] + data[16:first]).to_bytes(4, "little")
    return bytes(data)


def converted(function, data, free):
    """Status and result of packed_encode or packed_to_jpeg; the input has no byte to spare."""
    source, place = np.frombuffer(data, np.uint8).copy(), np.zeros(2, np.int64)
    status = function(source.ctypes.data, source.size, place.ctypes.data, place.ctypes.data + 8, 0)
    result = ctypes.string_at(*map(int, place)) if status == OK else b""
    if place[0]:
        free(int(place[0]))
    return status, result


def decoded(library, data, crop, size, how):
    """Status and output of a decoding, which must be the same with and without SIMD."""
    source, results = np.frombuffer(data, np.uint8).copy(), []
    for portable in (0, 1):
        library.packed_portable(portable)
        output = np.full((*size, 3), 171, np.uint8)
        place = source.ctypes.data, source.size, 0, 0, *crop, how, output.ctypes.data
        results.append((library.packed_decode_image(2, *place, *size, 2.0, 0), output))
    library.packed_portable(0)
    (status, output), (again, portable_output) = results
    assert status == again
    assert np.array_equal(output, portable_output)
    assert status == OK or not output.any()
    return status


@functools.cache
def sound_streams():
    """JPEGs of every kind that is packed, and some that are not, with their sizes."""
    rng = np.random.default_rng(0)
    streams = []
    for shape, sampling, quality in itertools.product(SHAPES, ("4:4:4", "4:2:2", "4:2:0"), (5, 90)):
        pixels = rng.integers(0, 256, (*shape, 3), np.uint8)
        streams.append((encode(pixels, subsampling=sampling, quality=quality), shape))
    return streams + corpus()[:14]


def fuzz(library, count, seed):
    """Damage ``count`` streams, packed or not, and return how often each status came."""
    encode_jpeg, free = library.packed_encode, library.packed_free
    packed = [(converted(encode_jpeg, s, free)[1], size) for s, size in sound_streams()]
    packed = [(data, size) for data, size in packed if data]
    seen = Counter()
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        try:
            if number % 8 == 0:  # a damaged JPEG
                stream, _ = sound_streams()[rng.integers(len(sound_streams()))]
                other, _ = sound_streams()[rng.integers(len(sound_streams()))]
                status, data = converted(encode_jpeg, damage(stream, other, rng), free)
                size = (40, 150)
                assert status in (OK, DAMAGED, NO_MEMORY, UNSUPPORTED)
            else:
                data, size = packed[rng.integers(len(packed))]
                if number % 8 > 1:
                    data = damage(data, packed[rng.integers(len(packed))][0], rng)
                if number % 8 > 2:
                    data = with_checksums(data)
            crop, output = random_call(size, rng)
            if data:
                status = decoded(library, data, crop, output, int(rng.integers(8)))
                source = np.frombuffer(data, np.uint8).copy()
                check = library.packed_check(source.ctypes.data, source.size, 0, 0)
                back, _ = converted(library.packed_to_jpeg, data, free)
                assert {status, check, back} <= {OK, DAMAGED, BAD_ARGUMENT, NO_MEMORY}
                assert check != OK or status in (OK, BAD_ARGUMENT)
        except AssertionError as error:
            raise AssertionError(f"call {number} of seed {seed}") from error
        seen[status] += 1
    return seen


if __name__ == "__main__":
    run_sanitized(__file__, fuzz, "packed/native.py", "packed/*.c", "filter.c", "jpeg_guard.c")
