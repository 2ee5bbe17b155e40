"""A command that is killed at any moment leaves nothing half-written, no process, no shared memory.

``KILLED_COMMANDS`` is the number of moments at which each command is killed.
"""

import mmap
import os
import random
import time
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

import pytest
import torch
import yaml
from command import be_program, noise_run
from forked import forked
from thorough import thorough

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

MOMENTS = int(os.environ.get("KILLED_COMMANDS", "1"))
COMMANDS = {
    "write": "data write image-folder --source images --output train.beton --num-workers 2",
    "fit": "fit --config run.yaml --ckpt_path auto",
    "export": "export trained.ckpt new.safetensors",
    "import": "import trained.ckpt new.ckpt",
    "compare": "compare grid.yaml --output compared",
}
LATEST = {"write": 3, "fit": 6, "export": 2, "import": 2, "compare": 14}
"""Seconds after which each is killed, at most; a cell of a comparison is a fresh program."""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    config = noise_run(folder, per_class=40, batch_size=12, num_workers=1)
    config["trainer"]["max_epochs"] = 2
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    grid = {"base": "run.yaml", "variants": {"a": {}}, "seeds": [0], "references": ["a"]}
    (folder / "grid.yaml").write_text(yaml.safe_dump(grid))
    finish(folder, "fit --config run.yaml --checkpoint.dirpath first")
    (folder / "first" / "best.ckpt").rename(folder / "trained.ckpt")
    return folder


def start(folder, command):
    """Start a command in a process that has imported everything, and in a session of its own."""
    process = forked(be_program, folder, command.split())
    process.start()
    return process


def finish(folder, command):
    process = start(folder, command)
    process.join(300)
    assert process.exitcode == 0, (folder / "log.txt").read_text()[-2000:]


def alive(session):
    """The processes of a session that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = stat.read_text().rpartition(") ")[2].split()[:4]
        except OSError:
            continue
        if int(of) == session and state != "Z":
            found.append(stat.parent.name)
    return found


def shared_memory(session):
    """The files in /dev/shm that the processes of a session have mapped: others use it as well."""
    mapped = set()
    for process in alive(session):
        with suppress(OSError):  # it has just ended
            lines = Path(f"/proc/{process}/maps").read_text().splitlines()
            mapped |= {line.split()[4] for line in lines}
    return {file.path for file in os.scandir("/dev/shm") if str(file.inode()) in mapped}


def test_shared_memory_of_a_session_is_seen():
    with NamedTemporaryFile(dir="/dev/shm") as mine, NamedTemporaryFile(dir="/dev/shm") as other:
        mine.truncate(mmap.PAGESIZE)
        with mmap.mmap(mine.fileno(), 0):
            seen = shared_memory(os.getsid(0))
    assert mine.name in seen
    assert other.name not in seen


def check_files(folder):
    """What has its name is whole."""
    from eca_lightning.data.ffcv.format import check_beton

    for path in folder.rglob("*"):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if path.suffix == ".ckpt":
            torch.load(path, weights_only=True)
        elif path.suffix == ".beton":
            assert check_beton(path).sidecar is not None
        elif path.suffix == ".safetensors":
            from safetensors.torch import load_file

            load_file(path)
            assert path.with_suffix(".json").is_file()


@pytest.mark.parametrize("name", ["write", "fit", "export", "import", *thorough("compare")])
def test_killed_and_started_again(work, name):
    if name == "write":
        pytest.importorskip("ffcv")
    generator = random.Random(name)
    for _ in range(MOMENTS):
        process = start(work, COMMANDS[name])
        time.sleep(generator.uniform(0, LATEST[name]))
        memory = shared_memory(process.pid)
        process.kill()
        process.join()
        patience = time.monotonic() + 20
        while alive(process.pid) and time.monotonic() < patience:
            time.sleep(0.1)
        assert not alive(process.pid)
        assert not [file for file in memory if os.path.exists(file)]
        check_files(work)
    finish(work, COMMANDS[name])
    check_files(work)
    assert not list(work.rglob(".*.part"))
