"""Many epochs in one process leave no threads, no files and no memory behind."""

import numpy as np
import pytest
from thorough import thorough

pytest.importorskip("ffcv")

from forked import run_forked
from steady_streaming import read_again_and_again

TOLERANCE = 2 << 20
"""Bytes from the first epochs to the last; 0.4 MiB were seen. The slots of one epoch have 7.5 MiB
and one batch 1.5 MiB: kept in every other epoch, either would come to more than 10 MiB."""


@pytest.mark.slow
@pytest.mark.parametrize(("num_workers", "os_cache"), [(2, False), *thorough((1, True))])
def test_twenty_epochs_leave_nothing_behind(raw_beton, tmp_path, num_workers, os_cache):
    # In a process of its own, whose heap no other test has left in holes.
    printed = run_forked(tmp_path, read_again_and_again, raw_beton, num_workers, os_cache)
    states = np.array([line.split() for line in printed.splitlines()[-20:]], np.int64)
    assert states.shape == (20, 4), printed
    # Minima, and fewer is fine: a joined thread takes a moment to leave the system's list.
    early, late = states[1:6].min(axis=0), states[-5:].min(axis=0)
    assert (late[:3] <= early[:3]).all(), (early, late)
    assert late[3] - early[3] < TOLERANCE
