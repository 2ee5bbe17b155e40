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
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from eca_lightning.data.ffcv import ffcv_api
from eca_lightning.data.ffcv.format import ALLOCATION_TYPE
from eca_lightning.data.ffcv.samples import PackedField, Samples, StoredField, encode_sample
from eca_lightning.data.ffcv.sidecar import Encoding
from eca_lightning.utils.atomic import end_with_parent
from eca_lightning.utils.checks import DataError, printable
from eca_lightning.utils.reports import progress

CHUNK = 32
"""Samples that a process takes at a time."""

PAGE_SIZE = 1 << 23
"""Bytes of a page, FFCV's default; an image must fit in one."""

OnError = Literal["abort", "skip"]


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
        image = PackedField() if encoding.mode == "packed" else ffcv_api.RGBImageField()
        fields = {"image": image, "label": ffcv_api.IntField()}
        super().__init__(str(path), fields, PAGE_SIZE, num_workers)
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
        # Fork, so that the dataset need not be pickled and nothing is imported again.
        context = get_context("fork")
        job = Job(
            writer=self,
            dataset=dataset,
            names=names,
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
                    if isinstance(report, OSError):
                        raise report
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


@dataclass
class Job:
    """What the processes of a writer share: the writer, the dataset and counters."""

    writer: GuardedWriter
    dataset: Samples
    names: Sequence[str] | None
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
        try:
            with self.allocator:
                while (start := self._next_chunk()) < len(self.dataset):
                    for index in range(start, min(start + CHUNK, len(self.dataset))):
                        self._write(index, metadata, reports)
                        with self.done.get_lock():
                            self.done.value += 1
        except OSError as error:  # of the disk
            reports.send(error)
        else:
            reports.send(self.allocator.allocations)

    def _next_chunk(self) -> int:
        """Take the next chunk of samples."""
        with self.next_sample.get_lock():
            start = int(self.next_sample.value)
            self.next_sample.value += CHUNK
        return start

    def _write(self, index: int, metadata: NDArray[Any], reports: Connection) -> None:
        """Write one sample, or report why it cannot be written."""
        fields = {"image": StoredField(), "label": ffcv_api.IntField()}
        sample = None
        try:
            sample = encode_sample(self.dataset, index, self.writer.encoding)
            row = sample, index, metadata.dtype.names, metadata
            ffcv_api.handle_sample(*row, self.allocator, fields)
        except Exception as error:  # reported with the name of the sample
            if sample is not None and isinstance(error, OSError):
                raise
            allocations = self.allocator.allocations
            while allocations and allocations[-1][0] == index:
                allocations.pop()
            name = self.names[index] if self.names else f"sample {index}"
            reason = str(error) or type(error).__name__
            if "page size" in reason:
                reason = "it is too large for a page; lower max_resolution, or use the mode 'jpg'"
            reports.send(Rejection(index, name, reason))
