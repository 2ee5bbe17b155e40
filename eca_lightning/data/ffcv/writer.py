"""FFCV's writer with supervised processes.

FFCV's own waits forever when one of its processes raises or is killed, and leaks its shared memory.
Here each process reports samples that it cannot read through a pipe, and its death closes the pipe.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from signal import SIG_IGN, SIGINT, SIGKILL, signal
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from eca_lightning.data.ffcv import ffcv_api
from eca_lightning.data.ffcv.format import ALLOCATION_TYPE
from eca_lightning.data.ffcv.sidecar import Encoding
from eca_lightning.data.transforms.crop import uniforms
from eca_lightning.utils.atomic import end_with_parent
from eca_lightning.utils.checks import DataError, printable
from eca_lightning.utils.reports import progress

CHUNK = 32
"""Samples that a process takes at a time."""

PAGE_SIZE = 1 << 23
"""Bytes of a page, FFCV's default; an image must fit in one."""

MAX_SIDE = 65500
"""Pixels of a side that JPEG and .beton files can have."""

OnError = Literal["abort", "skip"]


class Samples(Protocol):
    """A map-style dataset of labeled images."""

    def __len__(self) -> int:
        """Number of samples."""

    def __getitem__(self, index: int, /) -> tuple[NDArray[np.uint8], int]:
        """Return pixels of shape ``(height, width, 3)`` and the label."""


@dataclass(frozen=True)
class Rejection:
    """A sample that could not be written."""

    index: int
    name: str
    reason: str

    def __str__(self) -> str:
        return self.reason if self.name in self.reason else f"{self.name}: {self.reason}"


class GuardedWriter(ffcv_api.DatasetWriter):
    """Write a .beton without a sidecar, in place, with ``num_workers`` processes."""

    def __init__(self, path: Path, encoding: Encoding, num_workers: int) -> None:
        image = ffcv_api.RGBImageField(
            encoding.mode, encoding.max_resolution, jpeg_quality=encoding.quality
        )
        fields = {"image": image, "label": ffcv_api.IntField()}
        super().__init__(str(path), fields, PAGE_SIZE, max(num_workers, 1))
        self.encoding = encoding

    def write(
        self, dataset: Samples, on_error: OnError, names: Sequence[str] | None, title: str
    ) -> list[Rejection]:
        """Write all samples, see `write.write_beton`; return the skipped ones, in order.

        Raises:
            DataError: If samples cannot be read and are not skipped; the message lists them, after
                all others were tried.
            ValueError: If none can be read.
            RuntimeError: If a process was killed.
        """
        self.num_samples = len(dataset)
        self.prepare()
        self.metadata_sm.unlink()  # its name: the forked processes have the memory
        # Compile once here instead of in every process.
        ffcv_api.IMAGE_MODES["raw"]
        # Fork, so that the dataset need not be pickled and nothing is imported again.
        context = get_context("fork")
        job = Job(
            writer=self,
            dataset=dataset,
            names=names,
            as_jpeg=self._proportion(),
            allocator=ffcv_api.MemoryAllocator(self.fname, self.data_region_start, self.page_size),
            next_sample=context.Value("Q", 0),
            done=context.Value("Q", 0),
            parent=os.getpid(),
        )
        processes: dict[Connection, ForkProcess] = {}
        try:
            for _ in range(self.num_workers):
                receiver, sender = context.Pipe(duplex=False)
                processes[receiver] = context.Process(target=job.run, args=(sender,))
                processes[receiver].start()
                # The process holds the only other end: its death closes the pipe.
                sender.close()
            allocations, rejected = self._collect(job, processes, on_error, title)
            self._complete(np.array(allocations, ALLOCATION_TYPE), rejected)
            return rejected
        finally:
            for process in processes.values():
                if process.pid is not None:
                    process.kill()
                    process.join()
            self.metadata_sm.close()

    def _proportion(self) -> NDArray[np.bool_] | None:
        """Choose the samples that the mode ``proportion`` compresses; None in the other modes."""
        if self.encoding.mode != "proportion":
            return None
        numbers = uniforms(0, 0, np.arange(self.num_samples), 1)[:, 0]
        return numbers < self.encoding.compress_probability

    def _collect(
        self, job: "Job", processes: dict[Connection, ForkProcess], on_error: OnError, title: str
    ) -> tuple[list[tuple[int, int, int]], list[Rejection]]:
        """Collect allocations and rejected samples until all processes end."""
        allocations: list[tuple[int, int, int]] = []
        rejected: list[Rejection] = []
        running = list(processes)
        done = 0
        with progress(f"Writing {title}", self.num_samples) as advance:
            while running:
                ready = wait(running, timeout=0.1)
                # Without its lock, which a killed process may still hold.
                now = job.done.get_obj().value
                advance(now - done)
                done = now
                for receiver in [receiver for receiver in running if receiver in ready]:
                    try:
                        report = receiver.recv()
                    except (EOFError, OSError):
                        processes[receiver].join()
                        code = processes[receiver].exitcode
                        raise RuntimeError(
                            f"a process that wrote {title} died with exit code {code}"
                            + (" (killed; too little memory?)" if code == -SIGKILL else "")
                        ) from None
                    if not isinstance(report, Rejection):
                        allocations += report
                        running.remove(receiver)
                        continue
                    if not rejected and on_error == "abort":
                        print(f"{printable(str(report))}; looking for others", file=sys.stderr)
                    rejected.append(report)
        rejected.sort(key=lambda rejection: rejection.index)
        if rejected and on_error == "abort":
            raise DataError(list(map(str, rejected)))
        if len(rejected) == self.num_samples:
            raise ValueError(f"no sample of {title} can be read; the first: {rejected[0]}")
        return allocations, rejected

    def _complete(self, allocations: NDArray[np.void], rejected: list[Rejection]) -> None:
        """Write the metadata and the allocation table, without gaps for rejected samples."""
        kept = np.ones(self.num_samples, bool)
        kept[[rejection.index for rejection in rejected]] = False
        shared = bytes(self.metadata_sm.buf)
        metadata = np.frombuffer(shared, self.metadata_type, self.num_samples)
        allocations["sample_id"] = (np.cumsum(kept) - 1)[allocations["sample_id"]]
        with open(self.fname, "r+b") as file:
            file.seek(self.metadata_start)
            file.write(metadata[kept].tobytes())
            file.seek(0, os.SEEK_END)
            self.header["alloc_table_ptr"] = file.tell()
            self.header["num_samples"] = kept.sum()
            file.write(np.sort(allocations, order="sample_id").tobytes())
            file.seek(0)
            file.write(self.header.tobytes())
            file.flush()
            os.fsync(file.fileno())


def shrink(pixels: NDArray[np.uint8], max_resolution: int | None) -> NDArray[np.uint8]:
    """Shrink an image whose longer side is above ``max_resolution``.

    As FFCV's own ``resizer``, which rounds the shorter side of a long thin image to zero.

    Raises:
        ValueError: If a side is too long for a .beton.
    """
    import cv2  # after ffcv_api, which says what to install

    height, width = pixels.shape[:2]
    longer = max(height, width)
    if max_resolution is not None and longer > max_resolution:
        ratio = max_resolution / longer
        size = max(1, int(ratio * width)), max(1, int(ratio * height))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    if max(pixels.shape[:2]) > MAX_SIDE:
        raise ValueError(f"a side has more than {MAX_SIDE:,} pixels; give a max_resolution")
    return pixels


@dataclass
class Job:
    """What the processes of a writer share: the writer, the dataset and counters."""

    writer: GuardedWriter
    dataset: Samples
    names: Sequence[str] | None
    as_jpeg: NDArray[np.bool_] | None
    allocator: Any
    next_sample: Any
    done: Any
    parent: int

    def run(self, reports: Connection) -> None:
        """Write chunks of samples; report each `Rejection` and, at the end, the allocations."""
        end_with_parent(self.parent)
        # The parent handles Ctrl-C: it kills its processes.
        signal(SIGINT, SIG_IGN)
        shared = self.writer.metadata_sm.buf
        metadata: NDArray[Any] = np.frombuffer(shared, self.writer.metadata_type)
        with self.allocator:
            while (start := self._next_chunk()) < len(self.dataset):
                for index in range(start, min(start + CHUNK, len(self.dataset))):
                    self._write(index, metadata, reports)
                    with self.done.get_lock():
                        self.done.value += 1
        reports.send(self.allocator.allocations)

    def _next_chunk(self) -> int:
        """Take the next chunk of samples."""
        with self.next_sample.get_lock():
            start = int(self.next_sample.value)
            self.next_sample.value += CHUNK
        return start

    def _write(self, index: int, metadata: NDArray[Any], reports: Connection) -> None:
        """Write one sample, or report why it cannot be written."""
        fields = self.writer.fields
        if self.as_jpeg is not None:
            fields["image"].write_mode = "jpg" if self.as_jpeg[index] else "raw"
        try:
            pixels, label = self.dataset[index]
            sample = shrink(pixels, self.writer.encoding.max_resolution), label
            row = sample, index, metadata.dtype.names, metadata
            ffcv_api.handle_sample(*row, self.allocator, fields)
        except Exception as error:  # reported with the name of the sample
            allocations = self.allocator.allocations
            while allocations and allocations[-1][0] == index:
                allocations.pop()
            name = self.names[index] if self.names else f"sample {index}"
            reason = str(error) or type(error).__name__
            if "page size" in reason:
                reason = "it is too large for a page; lower max_resolution or use the mode 'jpg'"
            reports.send(Rejection(index, name, reason))
