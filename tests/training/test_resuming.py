"""Which checkpoint ``--ckpt_path auto`` takes."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from jsonargparse import Namespace

from eca_lightning.training.resuming import (
    SameStart,
    newest_checkpoint,
    place_run,
    require_writable,
)

WHOLE = {"state_dict": {}, "loops": {}, "optimizer_states": [], "lr_schedulers": []}


def save(path, age, content=WHOLE):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def damage(path):
    times = path.stat().st_atime, path.stat().st_mtime
    path.write_bytes(path.read_bytes()[:-10])
    os.utime(path, times)


def options(*loggers, ckpt_path="auto", **others):
    filled = Namespace(ckpt_path=ckpt_path)
    filled["trainer.logger"] = list(loggers) if loggers else False
    for key, value in others.items():
        filled[key.replace("__", ".")] = value
    return filled


def logger(kind="TensorBoardLogger", **arguments):
    return Namespace(class_path=f"lightning.pytorch.loggers.{kind}", init_args=Namespace(arguments))


def in_folder(save_dir, version=None, kind="TensorBoardLogger"):
    return logger(kind, save_dir=str(save_dir), name="run", version=version, purge_step=None)


def test_the_newest_one_that_is_whole(tmp_path):
    assert newest_checkpoint(tmp_path / "nowhere") is None
    assert newest_checkpoint(tmp_path) is None
    oldest = save(tmp_path / "best.ckpt", age=30)
    previous = save(tmp_path / "last-previous.ckpt", age=20)
    last = save(tmp_path / "last.ckpt", age=10)
    (tmp_path / ".last.ckpt.part").write_bytes(b"what a kill left")
    save(tmp_path / "weights.ckpt", age=5, content={"state_dict": {}})
    with pytest.warns(UserWarning, match=r"weights\.ckpt holds weights alone"):
        assert newest_checkpoint(tmp_path) == last
    damage(last)
    with pytest.warns(UserWarning, match=r"last\.ckpt is damaged .*Going on from the one before"):
        assert newest_checkpoint(tmp_path) == previous
    damage(previous)
    with pytest.warns(UserWarning, match=r"last-previous\.ckpt is damaged"):
        assert newest_checkpoint(tmp_path) == oldest


def test_damaged_ones_alone_are_no_reason_to_start_afresh(tmp_path):
    damage(save(tmp_path / "last.ckpt", age=10))
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged .*To start afresh, move"):
        newest_checkpoint(tmp_path)


@pytest.mark.parametrize("kind", ["TensorBoardLogger", "CSVLogger", "WandbLogger"])
def test_the_version_that_was_saved_to_last(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)

    def place(**more):
        if kind == "WandbLogger":
            return options(logger(kind, id=None, save_dir="."), **more)
        return options(in_folder("runs", kind=kind), **more)

    runs = Path("runs") / "run"
    assert place_run(place(), "run")[0] == runs / "version_0"
    for version, age in ((0, 30), (1, 10), (2, 20)):
        save(runs / f"version_{version}" / "checkpoints" / "last.ckpt", age)
    (runs / "version_3" / "checkpoints").mkdir(parents=True)
    (runs / "version_1" / "loggers.json").write_text('{"WandbLogger": ["abc"]}')
    parsed = place()
    folder, given = place_run(parsed, "run")
    assert folder == runs / "version_1"
    assert parsed["checkpoint.dirpath"] == str(folder / "checkpoints")
    assert parsed["ckpt_path"] == str(folder / "checkpoints" / "last.ckpt")
    (entry,) = parsed["trainer.logger"]
    assert entry["init_args"][{"WandbLogger": "id"}.get(kind, "version")] in ("abc", "version_1")
    assert (given["ckpt_path"], given["checkpoint.dirpath"]) == ("auto", None)
    assert place_run(place(ckpt_path=None), "run")[0] == runs / "version_4"


@pytest.mark.parametrize(("version", "name"), [(4, "version_4"), ("seed_4", "seed_4")])
def test_a_version_that_is_given(tmp_path, version, name):
    folder, _ = place_run(options(in_folder(tmp_path, version)), "other")
    assert folder == tmp_path / "run" / name


def test_other_places(tmp_path):
    save(tmp_path / "a" / "last.ckpt", age=1)
    parsed = options(last_checkpoint__dirpath=tmp_path / "a", checkpoint__dirpath="b")
    place_run(parsed, "run")
    assert parsed["ckpt_path"] == str(tmp_path / "a" / "last.ckpt")
    assert parsed["checkpoint.dirpath"] == "b"
    assert place_run(options(), "run")[0] == Path()
    assert place_run(options(trainer__default_root_dir="c"), "run")[0] == Path("c")


def test_a_folder_that_cannot_be_written_to_is_refused_and_named(tmp_path):
    require_writable(tmp_path / "new" / "run")
    assert not list((tmp_path / "new" / "run").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write to the run's folder .*file/run"):
        require_writable(tmp_path / "file" / "run")


def test_ranks_that_see_different_checkpoints_do_not_start(monkeypatch):
    def gather(steps, own):
        steps[:] = [own, of_the_other]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    two_ranks = SimpleNamespace(world_size=2)
    of_the_other = 7
    SameStart(7).setup(two_ranks, None, "fit")
    of_the_other = -1
    with pytest.raises(ValueError, match="rank 0: step 7, rank 1: none"):
        SameStart(7).setup(two_ranks, None, "fit")
    SameStart(7).setup(SimpleNamespace(world_size=1), None, "fit")
