"""Files are there whole, or as they were before."""

import os

import pytest

from eca_lightning.utils.atomic import atomic_write


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
