"""How the loader around FFCV ends: with the interpreter, at damage, at exceptions and stalls."""

import gc
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

import pytest

pytest.importorskip("ffcv")

from eca_lightning.data.ffcv.format import check_beton
from eca_lightning.data.ffcv.loader import BetonLoader
from eca_lightning.data.sampler import DistributedBatchSampler
from eca_lightning.data.transforms.crop import Crop


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    before = threading.active_count()
    yield
    gc.collect()
    assert threading.active_count() == before


@pytest.mark.slow
def test_an_interpreter_that_ends_amid_epochs_ends_in_peace(raw_beton):
    program = f"""
from pathlib import Path
from eca_lightning.data.ffcv.format import check_beton
from eca_lightning.data.sampler import DistributedBatchSampler
from eca_lightning.data.ffcv.loader import BetonLoader
from eca_lightning.data.transforms.crop import Crop
info = check_beton(Path({str(raw_beton)!r}))
loaders = [
    BetonLoader(info, Crop("full", 20, 24), DistributedBatchSampler(101, 8), os_cache=cached)
    for cached in (True, False)
]
epochs = [iter(loader) for loader in loaders]
batches = [next(epoch) for epoch in epochs]
"""
    environment = os.environ | {"NUMBA_OPT": "0"}  # compiles in less time
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "Exception ignored" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_jpeg_is_named(photo_beton, tmp_path):
    path = shutil.copy(photo_beton, tmp_path / "damaged.beton")
    info = check_beton(path)
    with path.open("r+b") as file:
        file.seek(int(info.images["data_ptr"][13]) + int(info.sizes[13]) // 2)
        file.write(b"\xff\xd9" * 20)
    view = Crop("center_crop", 32, 32, resize_size=36)
    loader = BetonLoader(info, view, DistributedBatchSampler(21, 4), num_workers=2)
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    with pytest.raises(ValueError, match=r"damaged\.beton: the JPEG data of sample 13 are damaged"):
        next(batches)


@dataclass(frozen=True)
class FaultyCrop(Crop):
    """A view that fails, or takes long, at some epochs."""

    def boxes(self, samples, heights, widths, epoch):
        if epoch == 1:
            raise ZeroDivisionError("a bug in the thread")
        if epoch == 2:
            time.sleep(2.5)
        return super().boxes(samples, heights, widths, epoch)


def epoch(loader, number):
    loader.set_epoch(number)
    return list(loader)


def test_an_exception_and_a_stall_reach_the_consumer(raw_beton):
    view = FaultyCrop("full", 20, 24)
    loader = BetonLoader(
        check_beton(raw_beton), view, DistributedBatchSampler(101, 50), num_workers=1
    )
    assert len(epoch(loader, 0)) == 3
    with pytest.raises(ZeroDivisionError, match="a bug in the thread"):
        epoch(loader, 1)
    loader.timeout = 0.1
    with pytest.raises(TimeoutError, match=r"raw\.beton: no batch for 0\.1 s"):
        epoch(loader, 2)
    loader.timeout = 60.0
    assert len(epoch(loader, 3)) == 3
