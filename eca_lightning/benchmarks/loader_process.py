"""Loaders in processes of their own, which sleep while another one is timed."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch

from eca_lightning.benchmarks.common import describe_exit
from eca_lightning.benchmarks.loader_candidates import LOADERS, Batches, LoaderName, Workload

PATIENCE = 5.0
"""Seconds to wait for a process to end before it is killed."""


class Timing(NamedTuple):
    """Seconds of one pass over the images, of CPU time with workers, and until the first batch."""

    seconds: float
    cpu_seconds: float
    first_batch: float


class LoaderProcess:
    """A loader in a process of its own, whose output is appended to a log."""

    def __init__(self, name: LoaderName, work: Workload, log: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other_end = context.Pipe()
        # Not daemonic: a daemon cannot start the workers of a DataLoader.
        self._process = context.Process(
            target=_serve, args=(other_end, name, work, log), name=f"benchmark {name}"
        )
        self._process.start()
        # With a copy open here, the end of the process would go unnoticed.
        other_end.close()

    def time(self, number: int, timeout: float) -> Timing:
        """Time the repeat of this number, from 0; the first builds the loader.

        Raises:
            RuntimeError: If the loader failed, died or did not answer in time.
        """
        try:
            self._pipe.send(number)
            if not self._pipe.poll(timeout):
                raise RuntimeError(f"no answer for {timeout:g} s")
            answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(10.0)
            raise RuntimeError(f"its process {describe_exit(self._process.exitcode)}") from None
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return Timing(*answer)

    def close(self) -> None:
        """Let the process end, so that it frees its workers' semaphores; kill it if it hangs."""
        self._pipe.close()
        self._process.join(PATIENCE)
        try:
            os.killpg(self._process.pid or 0, signal.SIGKILL)
        except ProcessLookupError:
            self._process.kill()
        self._process.join()


def _serve(pipe: Connection, name: LoaderName, work: Workload, log: Path) -> None:
    """Run a loader once for each number that is received; the body of the process."""
    # A session of its own identifies its workers, to measure their CPU time and to kill them.
    os.setsid()
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    batches: Batches | None = None
    while True:
        try:
            number = pipe.recv()
        except EOFError:
            return
        try:
            batches = batches or LOADERS[name].build(work)
            pipe.send(_run(batches(number), work))
        except Exception as error:  # any error is the result of this loader
            # The last line, as torch puts a worker's whole traceback into the message.
            message = str(error).strip().rpartition("\n")[2]
            pipe.send(message if "\n" in str(error).strip() else f"{type(error).__name__}: {error}")


def _run(batches: Iterable[Any], work: Workload) -> Timing:
    expected = (work.batch_size, 3, work.image_size, work.image_size)
    cpu = session_cpu_seconds()
    begin = time.perf_counter()
    first_batch = 0.0
    count = 0
    for images, *_ in batches:
        if images.dtype != torch.uint8 or images.shape != expected:
            raise ValueError(f"a batch is {images.dtype} of shape {tuple(images.shape)}")
        count += 1
        first_batch = first_batch or time.perf_counter() - begin
    seconds = time.perf_counter() - begin
    if count != work.batches:
        raise ValueError(f"there were {count} batches instead of {work.batches}")
    return Timing(seconds, session_cpu_seconds() - cpu, first_batch)


def session_cpu_seconds() -> float:
    """Return the CPU time of all processes of this session, in seconds, from Linux's /proc.

    Unlike os.times, it includes children that still run, such as the workers of a DataLoader.
    """
    session, ticks = str(os.getsid(0)), 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # Field 2, the command in parentheses, may have spaces; 6 is the session, and from 14
            # on are user and system times of the process and of its children that have ended.
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[3] == session:
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")
