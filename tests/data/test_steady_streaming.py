"""Many epochs in one process leave no threads, no files and no memory behind."""

import ctypes
import os
import re
import threading
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ffcv")

from eca_lightning.data.beton import check_beton
from eca_lightning.data.order import BatchOrder
from eca_lightning.data.streaming import BetonLoader
from eca_lightning.data.views import View

EPOCHS = 20
TOLERANCE = 2 << 20
"""Bytes from the first epochs to the last; 0.4 MiB were seen. The slots of one epoch have 7.5 MiB
and one batch 1.5 MiB: kept in every other epoch, either would come to more than 10 MiB."""

M_MMAP_THRESHOLD = -3
"""Of glibc's malloc.h."""


@pytest.fixture(autouse=True)
def _freed_memory_is_given_back():
    """Keep glibc from hoarding freed slots.

    It takes large blocks from the system and gives them back, until the first is freed: from then
    on blocks of that size come from its heap, which takes some twenty epochs to settle, 20 MiB
    higher. A set threshold ends that, and what grows then is a leak.
    """
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 128 << 10)


def state():
    """Python's threads, the system's, open files, and bytes of memory.

    Anonymous memory alone: the pages of a mapped file count as resident for as long as the system
    cares to cache them.
    """
    status = Path("/proc/self/status").read_text()
    anonymous = int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) << 10
    threads, files = (len(os.listdir(f"/proc/self/{of}")) for of in ("task", "fd"))
    return threading.active_count(), threads, files, anonymous


@pytest.mark.parametrize("os_cache", [True, False])
@pytest.mark.parametrize("num_workers", [1, 2])
def test_twenty_epochs_leave_nothing_behind(raw_beton, os_cache, num_workers):
    loader = BetonLoader(
        check_beton(raw_beton),
        View("random_resized_crop", 128, 128, flip=True),
        BatchOrder(101, 32, train=True, shuffle=True),
        num_workers=num_workers,
        os_cache=os_cache,
    )
    states = []
    for epoch in range(EPOCHS):
        for number, _ in enumerate(loader):
            if epoch % 2 and number == 1:
                break
        states.append(state())
    # Minima, and fewer is fine: a joined thread takes a moment to leave the system's list.
    early, late = (np.min(part, axis=0) for part in (states[1:6], states[-5:]))
    assert (late[:3] <= early[:3]).all(), (early, late)
    assert late[3] - early[3] < TOLERANCE
