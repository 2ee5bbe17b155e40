"""Copies of .beton files to a node's own disk: whole or not at all, once for all that ask."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy/stage_betons.sh"
NAMES = ["train.beton", "train.beton.json", "val.beton", "val.beton.json"]


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        (folder / name).write_bytes(os.urandom(50_000 + number))
    (folder / "notes.txt").write_text("not for the nodes")
    return folder


@pytest.fixture
def target(tmp_path):
    return tmp_path / "scratch/data set"


@pytest.fixture
def fake_cp(tmp_path, monkeypatch):
    """A function that puts a command of the test's own in the place of cp."""

    def replace(command):
        stub = tmp_path / "bin/cp"
        stub.parent.mkdir()
        stub.write_text(f"#!/bin/sh\n{command}\n")
        stub.chmod(0o755)
        monkeypatch.setenv("PATH", f"{stub.parent}:{os.environ['PATH']}")

    return replace


def start(source, target, limit="unlimited"):
    """Call the script, with a limit of KiB a file."""
    command = f'ulimit -f {limit}; exec bash "$@"'
    return subprocess.Popen(
        ["bash", "-c", command, "bash", str(SCRIPT), str(source), str(target)],
        text=True,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def stage(source, target, **options):
    process = start(source, target, **options)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def assert_whole(source, target):
    assert {path.name for path in target.iterdir()} == {*NAMES, ".lock"}
    for name in NAMES:
        assert (target / name).read_bytes() == (source / name).read_bytes()


def test_copies_the_betons_and_what_describes_them(source, target):
    assert stage(source, target) == (0, "")
    assert_whole(source, target)


def test_copies_again_only_what_has_changed(source, target):
    stage(source, target)
    before = {name: (target / name).stat().st_ino for name in NAMES}
    (source / "val.beton").write_bytes(os.urandom(50_002))  # the size that it had
    os.utime(source / "val.beton", (1e9, 1e9))
    assert stage(source, target) == (0, "")
    assert_whole(source, target)
    after = {name: (target / name).stat().st_ino for name in NAMES}
    assert {name for name in NAMES if before[name] != after[name]} == {"val.beton"}


def test_of_several_at_a_time_one_copies(source, target, tmp_path, fake_cp):
    fake_cp(f'echo "$*" >> {tmp_path}/copied; sleep 0.1; exec /bin/cp "$@"')
    processes = [start(source, target) for _ in range(4)]
    assert [process.wait(timeout=60) for process in processes] == [0] * 4
    assert len((tmp_path / "copied").read_text().splitlines()) == len(NAMES)
    assert_whole(source, target)


def test_a_copy_that_was_killed_is_made_anew(source, target, tmp_path, fake_cp):
    fake_cp(f"head -c 20000 {source}/train.beton > '{target}/train.beton.part'; sleep 60")
    process = start(source, target)
    part = target / "train.beton.part"
    while not part.exists() or part.stat().st_size < 20_000:
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (target / "train.beton").exists()
    (tmp_path / "bin/cp").unlink()
    assert stage(source, target) == (0, "")
    assert_whole(source, target)


def test_a_copy_without_room_says_so_and_leaves_the_older_file(source, target):
    target.mkdir(parents=True)
    (target / "train.beton").write_text("older")
    status, errors = stage(source, target, limit=20)  # KiB, of the 49 that the first file has
    assert status == 1
    assert f"is there room in {target}?" in errors
    assert (target / "train.beton").read_text() == "older"
    assert not (target / "train.beton.part").exists()


def test_a_copy_of_another_size_is_refused(source, target, fake_cp):
    fake_cp('/bin/cp "$@"; for copy; do :; done; echo more >> "$copy"')
    status, errors = stage(source, target)
    assert status == 1
    assert "changed while it was copied" in errors
    assert [path.name for path in target.iterdir()] == [".lock"]


def test_a_folder_without_betons_is_refused(tmp_path, target):
    status, errors = stage(tmp_path, target)
    assert status == 2
    assert f"there is no .beton in {tmp_path}" in errors
    assert not target.exists()
