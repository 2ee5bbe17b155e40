"""Twenty epochs in one process, every other one ended early.

``read_again_and_again`` prints, after each epoch, Python's threads, the system's, open files and
bytes of anonymous memory: the pages of a mapped file count as resident for as long as the system
cares to cache them.
"""

import ctypes
import os
import re
import threading
from pathlib import Path

from eca_lightning.data.ffcv.format import check_beton
from eca_lightning.data.ffcv.loader import BetonLoader
from eca_lightning.data.sampler import DistributedBatchSampler
from eca_lightning.data.transforms.crop import Crop

EPOCHS = 20
M_MMAP_THRESHOLD = -3
"""Of malloc.h."""


def read_again_and_again(beton, num_workers, os_cache):
    """Read the file with one loader."""
    # glibc takes large blocks from the system and gives them back, until the first is freed: from
    # then on blocks of that size come from its heap, which settles 20 MiB higher after some twenty
    # epochs. A set threshold ends that, and what grows then is a leak.
    assert ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 128 << 10)
    loader = BetonLoader(
        check_beton(beton),
        Crop("random_resized_crop", 128, 128, flip=True),
        DistributedBatchSampler(101, 32, train=True, shuffle=True),
        num_workers=num_workers,
        os_cache=os_cache,
    )
    for epoch in range(EPOCHS):
        for number, _ in enumerate(loader):
            if epoch % 2 and number == 1:
                break
        status = Path("/proc/self/status").read_text()
        anonymous = int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) << 10
        threads, files = (len(os.listdir(f"/proc/self/{of}")) for of in ("task", "fd"))
        print(threading.active_count(), threads, files, anonymous, flush=True)
