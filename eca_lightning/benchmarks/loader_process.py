"""Loaders in processes of their own that wait between their turns, so that rivals can alternate."""

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import torch

from eca_lightning.benchmarks.common import how_it_ended
from eca_lightning.benchmarks.loader_candidates import CONTENDERS, ContenderName, Turns, Workload


class Turn(NamedTuple):
    """One pass over the images of a workload.

    Attributes:
        seconds: Duration, from asking for the first batch until no batch is left.
        cpu_seconds: CPU time of the process and of its workers.
        first_batch: Seconds until the first batch came.
    """

    seconds: float
    cpu_seconds: float
    first_batch: float


class ContenderProcess:
    """A loader in a process of its own, which sleeps except in its turns.

    Args:
        name: The loader.
        work: What it does in a turn.
        log: File to which the process appends what it prints.
    """

    def __init__(self, name: ContenderName, work: Workload, log: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other_end = context.Pipe()
        # Not daemonic, because daemons may not have the children that a DataLoader needs.
        self._process = context.Process(
            target=_serve, args=(other_end, name, work, log), name=f"benchmark {name}"
        )
        self._process.start()
        # The copy here must go, or the end of the process would not be noticed.
        other_end.close()

    def turn(self, number: int, timeout: float) -> Turn:
        """Let the loader run through its images once.

        Args:
            number: Number of the turn, from 0; the first builds the loader.
            timeout: Seconds to wait.

        Returns:
            What was measured.

        Raises:
            RuntimeError: It failed, died or gave no answer in time.
        """
        try:
            self._pipe.send(number)
            if not self._pipe.poll(timeout):
                raise RuntimeError(f"no answer for {timeout:g} s")
            answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(10.0)
            raise RuntimeError(f"its process {how_it_ended(self._process.exitcode)}") from None
        if isinstance(answer, str):
            raise RuntimeError(answer)
        turn: Turn = answer
        return turn

    def close(self) -> None:
        """Let the process end, which frees its workers' semaphores; kill it if it does not."""
        self._pipe.close()
        self._process.join(5.0)
        try:
            os.killpg(self._process.pid or 0, signal.SIGKILL)
        except ProcessLookupError:
            self._process.kill()
        self._process.join()


def _serve(pipe: Connection, name: ContenderName, work: Workload, log: Path) -> None:
    """Build a loader and give it a turn for each number that comes; the body of the process."""
    # A session of its own, by which its workers are found to be timed and to be killed.
    os.setsid()
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    turns: Turns | None = None
    while True:
        try:
            number = pipe.recv()
        except EOFError:
            return
        try:
            turns = turns or CONTENDERS[name].build(work)
            pipe.send(_run(turns, number, work))
        except Exception as error:  # whatever it is, it is this loader's result
            # The last line, as torch puts a worker's whole traceback into the message.
            message = str(error).strip().rpartition("\n")[2]
            pipe.send(message if "\n" in str(error).strip() else f"{type(error).__name__}: {error}")


def _run(turns: Turns, number: int, work: Workload) -> Turn:
    expected = (work.batch_size, 3, work.image_size, work.image_size)
    cpu = session_cpu_seconds()
    begin = time.perf_counter()
    first_batch = 0.0
    batches = 0
    for images, *_ in turns(number):
        if images.dtype != torch.uint8 or images.shape != expected:
            raise ValueError(f"a batch is {images.dtype} of shape {tuple(images.shape)}")
        batches += 1
        first_batch = first_batch or time.perf_counter() - begin
    seconds = time.perf_counter() - begin
    if batches != work.batches:
        raise ValueError(f"there were {batches} batches instead of {work.batches}")
    return Turn(seconds, session_cpu_seconds() - cpu, first_batch)


def session_cpu_seconds() -> float:
    """CPU time of all processes of this session, in seconds, from Linux's /proc.

    Unlike the clocks of the operating system for children, it counts those that still run, such as
    the workers of a DataLoader.
    """
    session, ticks = str(os.getsid(0)), 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # Field 2, the command in parentheses, may hold blanks; 6 is the session, and from 14
            # come the user and system times of the process and of its children that have ended.
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[3] == session:
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")
