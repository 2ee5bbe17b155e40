"""Which checkpoint ``--ckpt_path auto`` takes."""

import os
from types import SimpleNamespace

import pytest
import torch
from jsonargparse import Namespace

from eca_lightning.training.resuming import (
    SameStart,
    checkpoint_folder,
    newest_checkpoint,
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


def options(save_dir=None, **others):
    logger = {"save_dir": str(save_dir), "name": "run", "version": others.pop("version", None)}
    values = {"trainer.logger": Namespace(init_args=Namespace(logger)) if save_dir else False}
    filled = Namespace()
    for key, value in (values | others).items():
        filled[key] = value
    return filled


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


def test_the_version_that_was_saved_to_last(tmp_path):
    assert checkpoint_folder(options(tmp_path)) == tmp_path / "run" / "version_0" / "checkpoints"
    for version, age in ((0, 30), (1, 10), (2, 20)):
        save(tmp_path / "run" / f"version_{version}" / "checkpoints" / "last.ckpt", age)
    (tmp_path / "run" / "version_3" / "checkpoints").mkdir(parents=True)
    assert checkpoint_folder(options(tmp_path)).parent.name == "version_1"


@pytest.mark.parametrize(("version", "name"), [(4, "version_4"), ("seed_4", "seed_4")])
def test_a_version_that_is_given(tmp_path, version, name):
    folder = checkpoint_folder(options(tmp_path, version=version))
    assert folder == tmp_path / "run" / name / "checkpoints"


def test_other_places(tmp_path):
    given = {"last_checkpoint.dirpath": "a", "checkpoint.dirpath": "b"}
    assert str(checkpoint_folder(options(tmp_path, **given))) == "a"
    assert str(checkpoint_folder(options(tmp_path, **{"checkpoint.dirpath": "b"}))) == "b"
    assert str(checkpoint_folder(options(None))) == "checkpoints"
    root = options(None, **{"trainer.default_root_dir": "c"})
    assert str(checkpoint_folder(root)) == "c/checkpoints"
    with pytest.raises(ValueError, match="a folder that is the run's own"):
        checkpoint_folder(Namespace(trainer=Namespace(logger=True)))


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
