"""Files are there whole, or as they were before."""

import errno
import multiprocessing
import os
import signal
import time

import pytest

from eca_lightning.utils.atomic import atomic_write, end_with_parent, exclusive_write, lock


def test_a_file_gets_its_name_when_it_is_done(tmp_path):
    path = tmp_path / "new" / "table.csv"
    with atomic_write(path) as part:
        part.write_text("whole")
        assert part.name == "table.csv"
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("before")

    def fill_the_disk():
        with atomic_write(path) as part:
            part.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fill_the_disk()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_what_goes_with_a_file_is_there_before_it(tmp_path, monkeypatch):
    moved, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (moved.append(b.name), replace(a, b)))
    with atomic_write(tmp_path / "model.bin") as part:
        for name in ("model.json", "model.bin", "a.json"):
            part.with_name(name).write_text(name)
    assert moved == ["a.json", "model.json", "model.bin"]
    assert {path.read_text() for path in tmp_path.iterdir()} == set(moved)


def test_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "table.csv"
    with atomic_write(path) as first, atomic_write(path) as second:
        second.write_text("second")
        first.write_text("first")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_second_writer_is_refused_and_told_who_writes(tmp_path):
    path = tmp_path / "new" / "table.csv"
    with exclusive_write(path) as part:
        part.write_text("first")
        with pytest.raises(BlockingIOError, match=rf"table.csv .* process {os.getpid()} on .*wait"):
            exclusive_write(path).__enter__()
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]
    with exclusive_write(path) as part:
        part.write_text("second")
    assert path.read_text() == "second"


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    message = r"table\.csv has no locks: let no other process write it"
    with pytest.warns(match=message), exclusive_write(tmp_path / "table.csv") as part:
        part.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_a_dead_holder_blocks_nobody_and_what_it_left_is_removed(tmp_path):
    def hold(ready):
        with exclusive_write(tmp_path / "table.csv") as part:
            part.write_text("half")
            ready.set()
            time.sleep(60)

    context = multiprocessing.get_context("fork")
    ready = context.Event()
    holder = context.Process(target=hold, args=(ready,))
    holder.start()
    assert ready.wait(20)
    message = rf"table\.csv is being written by process {holder.pid} on "
    with pytest.raises(BlockingIOError, match=message), lock(tmp_path / "table.csv"):
        pass
    holder.kill()
    holder.join()
    assert len(list(tmp_path.iterdir())) == 2  # the lock and the half file
    with exclusive_write(tmp_path / "table.csv") as part:
        part.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_a_child_ends_with_its_parent():
    context = multiprocessing.get_context("fork")
    reading, writing = os.pipe()

    def child(parent):
        end_with_parent(parent)
        os.write(writing, b"%d" % os.getpid())
        time.sleep(60)

    def parent():
        context.Process(target=child, args=(os.getpid(),)).start()
        time.sleep(60)

    process = context.Process(target=parent)
    process.start()
    pid = int(os.read(reading, 20))
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    for _ in range(600):
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().split()[2] == "Z":
                    return
        except FileNotFoundError:
            return
        time.sleep(0.05)
    pytest.fail(f"process {pid} lives on")
