"""Many epochs in one process leave no threads, no files and no memory behind."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ffcv")

TOLERANCE = 2 << 20
"""Bytes from the first epochs to the last; 0.4 MiB were seen. The slots of one epoch have 7.5 MiB
and one batch 1.5 MiB: kept in every other epoch, either would come to more than 10 MiB."""

# glibc takes large blocks from the system and gives them back, until the first is freed: from then
# on blocks of that size come from its heap, which settles 20 MiB higher after some twenty epochs.
# A set threshold ends that, and what grows then is a leak.
ENVIRONMENT = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(128 << 10)}


@pytest.mark.slow
@pytest.mark.parametrize(("num_workers", "os_cache"), [(1, True), (2, False)])
def test_twenty_epochs_leave_nothing_behind(raw_beton, num_workers, os_cache):
    # In a process of its own, whose heap no other test has left in holes.
    driver = Path(__file__).with_name("steady_streaming.py")
    done = subprocess.run(
        [sys.executable, str(driver), str(raw_beton), str(num_workers), str(os_cache)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    states = np.array([line.split() for line in done.stdout.splitlines()[-20:]], np.int64)
    assert states.shape == (20, 4), done.stdout
    # Minima, and fewer is fine: a joined thread takes a moment to leave the system's list.
    early, late = states[1:6].min(axis=0), states[-5:].min(axis=0)
    assert (late[:3] <= early[:3]).all(), (early, late)
    assert late[3] - early[3] < TOLERANCE
