"""Damaged .beton files, read one after another in one process.

``read_damaged`` prints a line for each: where the damage lies and what came of it. Each must be
refused with a ValueError that names the file, and the sample where it lies in a picture, or be read
to its end. Anything else, and any that takes longer than ``SECONDS``, ends the process with a
traceback.
"""

import faulthandler
import shutil

import numpy as np

from eca_lightning.data.ffcv.format import (
    ALLOCATION_TYPE,
    FIELD_TYPE,
    HEADER_TYPE,
    SAMPLE_TYPE,
    check_beton,
)
from eca_lightning.data.ffcv.loader import BetonLoader
from eca_lightning.data.ffcv.sidecar import sidecar_path
from eca_lightning.data.sampler import DistributedBatchSampler
from eca_lightning.data.transforms.crop import Crop

SECONDS = 30
METADATA = HEADER_TYPE.itemsize + 2 * FIELD_TYPE.itemsize
PLACES = ("header", "fields", "metadata", "allocation", "picture", "end")
VIEW = Crop("center_crop", 16, 16, resize_size=16)


def extent(info, place, sample):
    """First byte of a place in a file, and the byte after its last."""
    table = info.bytes - info.samples * ALLOCATION_TYPE.itemsize
    first = int(info.images["data_ptr"][sample])
    return {
        "header": (0, HEADER_TYPE.itemsize),
        "fields": (HEADER_TYPE.itemsize, METADATA),
        "metadata": (METADATA, METADATA + info.samples * SAMPLE_TYPE.itemsize),
        "allocation": (table, info.bytes),
        "picture": (first, first + int(info.sizes[sample])),
        "end": (0, info.bytes),
    }[place]


def damage(content, place, start, end, rng):
    """A copy of a file, cut off between two bytes or with one to three injuries between them."""
    data = bytearray(content)
    if place == "end":
        return bytes(data[: rng.integers(start, end)])
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(start, end))
        span = min(int(rng.integers(1, 17)), end - at)
        match rng.integers(4):
            case 0 | 1:
                data[at] ^= 1 << rng.integers(8)
            case 2:
                data[at : at + span] = rng.bytes(span)
            case 3:  # a block that was never written
                data[at:end] = bytes(end - at)
    return bytes(data)


def read_damaged(good, folder, count, seed, decoder):
    """Damage the file ``count`` times and read what the check lets pass."""
    content = good.read_bytes()
    whole = folder / "whole.beton"
    whole.write_bytes(content)
    info = check_beton(whole)

    def load(found, **options):
        return BetonLoader(
            found, VIEW, DistributedBatchSampler(found.samples, 5), decoder=decoder, **options
        )

    faulthandler.dump_traceback_later(SECONDS, exit=True)
    shared = load(info, num_workers=2)
    list(shared)
    for number in range(count):
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        rng = np.random.default_rng([seed, number])
        place = PLACES[number % len(PLACES)]
        sample = int(rng.integers(info.samples))
        damaged = damage(content, place, *extent(info, place, sample), rng)
        # A loader has the file mapped and sees new bytes of pictures; of metadata it holds a copy.
        path = whole if place == "picture" else folder / f"{number}.beton"
        with path.open("r+b" if place == "picture" else "wb") as file:
            file.write(damaged)
        if rng.random() < 0.5:
            shutil.copy(sidecar_path(good), sidecar_path(path))
        try:
            found = check_beton(path)
            if place == "picture":
                list(shared)
            elif (found.images != info.images).any() or found.page_size != info.page_size:
                list(load(found, os_cache=False))
            outcome = "read"
        except ValueError as error:
            if path.name not in str(error):
                raise
            if place == "picture" and f" sample {sample} " not in str(error):
                raise
            outcome = "refused"
        sidecar_path(path).unlink(missing_ok=True)
        if place == "picture":
            with path.open("r+b") as file:
                file.write(content)
        else:
            path.unlink()
        print(place, outcome, flush=True)
