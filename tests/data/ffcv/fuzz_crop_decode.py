"""Damaged JPEG streams for the crop decoder, and a run of many under the sanitizers.

    python tests/data/ffcv/fuzz_crop_decode.py --count 20000

builds ``native/`` with AddressSanitizer and UndefinedBehaviorSanitizer, starts itself again with
their runtime loaded, and stops at the first finding with its report and the seed that repeats it.
"""

import argparse
import io
import os
import runpy
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

NATIVE = Path(__file__).parents[3] / "eca_lightning" / "data" / "ffcv" / "native"
MARKERS = [0xC0, 0xC1, 0xC2, 0xC3, 0xC4, 0xC9, 0xCC, 0xD0, 0xD7, 0xD8, 0xD9, 0xDA, 0xDB, 0xDD]
SIZES = [(1, 1), (7, 5), (16, 16), (33, 47), (64, 200), (121, 90), (240, 333)]


def encode(pixels, mode="RGB", **options):
    """Pixels as a JPEG stream."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def corpus(seed=0):
    """Sound streams of every kind that the decoder knows, with their heights and widths."""
    rng = np.random.default_rng(seed)
    streams = []
    for number, (height, width) in enumerate(SIZES):
        rows, columns = np.mgrid[:height, :width]
        waves = [np.sin(rows / 7 + c) * np.cos(columns / (5 + c)) * 90 + 128 for c in range(3)]
        noise = rng.integers(-20, 20, (height, width, 3))
        pixels = (np.stack(waves, -1) + noise).clip(0, 255).astype(np.uint8)
        streams += [
            encode(pixels, subsampling=sampling, restart_marker_blocks=number)
            for sampling in ("4:4:4", "4:2:2", "4:2:0", "4:1:1")
        ]
        streams.append(encode(pixels, progressive=True))
        streams.append(encode(pixels, "L", progressive=number % 2 == 0))
        streams.append(encode(pixels, "CMYK", quality=90))
    sizes = [size for size in SIZES for _ in range(7)]
    return list(zip(streams, sizes, strict=True))


def damage(stream, other, rng):
    """A copy of ``stream``, damaged in one to four ways."""
    data = bytearray(stream)
    for _ in range(rng.integers(1, 5)):
        if len(data) < 4:
            break
        # Half of the damage falls on the tables and headers at the front.
        end = len(data) if rng.random() < 0.5 else min(len(data), 700)
        at, span = int(rng.integers(2, end)), int(rng.integers(1, 40))
        match rng.integers(8):
            case 0:
                del data[at:]
            case 1:
                del data[at : at + span]
            case 2:
                data[at] ^= 1 << rng.integers(8)
            case 3:
                data[at : at + span] = rng.bytes(span)
            case 4:
                data[at : at + span] = bytes(span)
            case 5:
                data[at:at] = bytes([0xFF, rng.choice(MARKERS), 0, int(rng.integers(20))])
            case 6:
                data[at:at] = data[at : at + span]
            case 7:
                data[at:] = other[min(at, len(other) - 1) :]
    return bytes(data)


def random_call(size, rng):
    """A crop, mostly inside a picture of ``size``, and an output size."""
    height, width = size
    h, w = rng.uniform(0.1, height), rng.uniform(0.1, width)
    crop = [rng.uniform(0, height - h), rng.uniform(0, width - w), h, w]
    if rng.random() < 0.5:
        h, w = rng.integers(1, height + 1), rng.integers(1, width + 1)
        crop = [float(rng.integers(height - h + 1)), float(rng.integers(width - w + 1)), h, w]
    if rng.random() < 0.05:
        crop[rng.integers(4)] = rng.choice([-1.0, 0.0, 1e9, -1e300, np.inf, np.nan])
    return crop, [int(side) for side in rng.integers(1, 70, 2)]


def damaged_calls(count, seed=0) -> Iterator[tuple[bytes, tuple, list, list, int]]:
    """``count`` streams, nine of ten damaged, with what to ask of the decoder for each."""
    sound = corpus()
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        stream, size = sound[rng.integers(len(sound))]
        if rng.random() < 0.9:
            stream = damage(stream, sound[rng.integers(len(sound))][0], rng)
        recorded = size if rng.random() < 0.7 else (0, 0)
        crop, output = random_call(size, rng)
        yield stream, recorded, crop, output, int(rng.integers(8))


def decode(library, stream, recorded, crop, size, how, mode=0):
    """Status and output of one call; both buffers are exact, so that overruns are seen."""
    data = np.frombuffer(stream, np.uint8).copy()
    output = np.full((*size, 3), 171, np.uint8)
    status = library.crop_decode_image(
        mode,
        data.ctypes.data,
        data.size,
        *recorded,
        *crop,
        how,
        output.ctypes.data,
        *size,
        2.0,
        0,
    )
    return status, output


def fuzz(library, count, seed):
    """Run ``count`` calls and return how often each status came."""
    seen = Counter()
    for number, (stream, recorded, crop, size, how) in enumerate(damaged_calls(count, seed)):
        status, output = decode(library, stream, recorded, crop, size, how)
        if status and output.any():
            raise AssertionError(f"call {number} of seed {seed}: failed, but left pixels")
        again = decode(library, stream, recorded, crop, size, how)
        if again[0] != status or (again[1] != output).any():
            raise AssertionError(f"call {number} of seed {seed}: not the same when repeated")
        height, width = recorded if any(recorded) else (3, 5)
        raw = np.resize(np.frombuffer(stream, np.uint8), height * width * 3).tobytes()
        decode(library, raw, (height, width), crop, size, how, mode=1)
        seen[status] += 1
    return seen


def build(folder, *patterns):
    """Compile sources in ``native/``, less its modules, with the sanitizers; returns the path."""
    library = str(Path(folder) / "sanitized.so")
    found = [path for pattern in patterns for path in NATIVE.glob(pattern)]
    sources = sorted(str(path) for path in found if path.stem != "module")
    command = "gcc -std=gnu11 -O1 -g -fno-omit-frame-pointer -ffp-contract=off -fPIC -shared "
    command += "-fsanitize=address,undefined -fno-sanitize-recover=all"
    subprocess.run([*command.split(), *sources, "-o", library, "-ljpeg", "-lm"], check=True)
    return library


def run_sanitized(program, fuzz, face, *patterns):
    """Build and start a program again with the sanitizers' runtime, or fuzz the library named.

    ``face`` is the package's file with a ``load_library``, ``fuzz`` a function of the library, the
    number of streams and the seed, which returns how often each status came.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--library", help="a build of native/ to use as it is")
    options = parser.parse_args()
    if options.library:
        # The file alone: the package imports torch, which does not run under the sanitizers.
        load_library = runpy.run_path(str(NATIVE.parent / face))["load_library"]
        seen = fuzz(load_library(options.library), options.count, options.seed)
        print(f"{options.count} streams, no finding; statuses {dict(sorted(seen.items()))}")
        return
    with tempfile.TemporaryDirectory() as folder:
        runtime = subprocess.check_output(["gcc", "-print-file-name=libasan.so"], text=True)
        environment = os.environ | {
            "LD_PRELOAD": runtime.strip(),
            # Python itself never frees everything: leaks are the tests' matter.
            "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        }
        command = [sys.executable, program, *sys.argv[1:], "--library", build(folder, *patterns)]
        sys.exit(subprocess.run(command, env=environment, check=False).returncode)


if __name__ == "__main__":
    run_sanitized(__file__, fuzz, "crop_decode.py", "*.c")
