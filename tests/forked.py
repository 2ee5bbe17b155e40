"""Processes that are forked from one which has imported everything.

A fresh interpreter spends ten seconds of CPU time on imports; the fork server does so once.
"""

import multiprocessing
import os
import socket
import sys
import time
from multiprocessing import forkserver
from pathlib import Path

import pytest

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "torch._dynamo",  # which the first step of an optimizer imports
        "eca_lightning.lightning_cli",
        "eca_lightning.data.ffcv.loader",
        "eca_lightning.detection.task",
        "faster_coco_eval",
        "tensorboard.backend.event_processing.event_accumulator",
        "torch.utils.tensorboard",
        "frozen",
    ]
)
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2", "NUMBA_OPT": "0"}
"""Of the fork server: Numba's compiler is quick, and does without the optimizations of LLVM."""
# Its slow code must not be what numba has cached for the package's users.
_ENVIRONMENT["NUMBA_CACHE_DIR"] = str(Path(__file__).parents[1] / ".pytest_cache" / "numba")


def fork_context():
    """Return the context of ``multiprocessing`` that forks from the server, which it starts."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _ENVIRONMENT.items():
            patch.setenv(name, value)
        forkserver.ensure_running()
    return _CONTEXT


def forked(function, *arguments):
    """Return a process, not yet started, that calls a function of an importable module."""
    return fork_context().Process(target=function, args=arguments)


def run_forked(folder, function, *arguments, ranks=1):
    """Call a function in another process, or in several as torchrun starts the ranks of a run.

    Args:
        folder: Where the processes write: ``rank0.out``, ``rank0.log`` for errors, and so on.
        function: A function of an importable module.
        *arguments: Its arguments, after the process has been set up.
        ranks: Number of processes.

    Returns:
        What the first process has printed.
    """
    folder.mkdir(exist_ok=True, parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        forked(_be_rank, rank, ranks, port, folder, function, arguments) for rank in range(ranks)
    ]
    try:
        for process in processes:
            process.start()
        # A rank that fails leaves the others waiting for it.
        while {process.exitcode for process in processes} - {0} == {None}:
            time.sleep(0.02)
        codes = [process.exitcode for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.join()
    logs = [(folder / f"rank{rank}.log").read_text() for rank in range(ranks)]
    assert codes == [0] * ranks, "\n".join(text[-3000:] for text in logs)
    return (folder / "rank0.out").read_text()


def start_forked(folder, function, *arguments, patience):
    """Call a function in another process; kill it if it has not ended after some seconds.

    Returns:
        Its exit status, negative for a signal, and what it has printed, errors last.
    """
    process = forked(_be_rank, 0, 1, None, folder, function, arguments)
    process.start()
    process.join(patience)
    process.kill()
    process.join()
    said = [(folder / f"rank0.{suffix}").read_text(errors="replace") for suffix in ("out", "log")]
    return process.exitcode, "".join(said)


def _be_rank(rank, ranks, port, folder, function, arguments):
    for stream, suffix in ((1, "out"), (2, "log")):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(folder / f"rank{rank}.{suffix}", flags), stream)
    if ranks > 1:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(ranks),
            "LOCAL_WORLD_SIZE": str(ranks),
            "GROUP_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "TORCHELASTIC_RUN_ID": "test",
        }
    function(*arguments)


def run_without(packages, code):
    """Run code in a forked process that imports the package afresh, where others are missing."""
    gone = {"eca_lightning", *packages}
    for name in [name for name in sys.modules if name.partition(".")[0] in gone]:
        del sys.modules[name]
    sys.modules.update(dict.fromkeys(packages))
    exec(code, {})
