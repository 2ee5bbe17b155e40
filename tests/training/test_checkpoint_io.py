"""Checkpoints are whole whatever happens, and a damaged one is found out."""

import os
import subprocess
from contextlib import suppress

import pytest
import torch
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from tiny_run import At, train

from eca_lightning import LastCheckpoint
from eca_lightning.training.checkpoint_io import AtomicCheckpointIO, read_checkpoint


def content(number):
    return {"step": number, "weights": torch.full((1000,), float(number))}


def number_in(path):
    saved = read_checkpoint(path)
    assert torch.equal(saved["weights"], content(saved["step"])["weights"])
    return saved["step"]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this process may not mount file systems")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_the_last_one_leaves_its_predecessor(tmp_path):
    writer = AtomicCheckpointIO()
    for number in (1, 2, 3):
        writer.save_checkpoint(content(number), tmp_path / "run" / "last.ckpt")
        writer.save_checkpoint(content(number), tmp_path / "run" / "best.ckpt")
    assert names(tmp_path / "run") == ["best.ckpt", "last-previous.ckpt", "last.ckpt"]
    numbers = [number_in(tmp_path / "run" / name) for name in names(tmp_path / "run")]
    assert numbers == [3, 2, 3]


@pytest.mark.parametrize("renames", range(4))
def test_a_whole_one_is_there_whenever_writing_is_cut_short(tmp_path, monkeypatch, renames):
    """Cut short after the data, and after each of the renames; the old one may be damaged."""
    writer, done = AtomicCheckpointIO(), []
    for number in (1, 2):
        writer.save_checkpoint(content(number), tmp_path / "last.ckpt")
    rename = os.replace

    def cut(source, target):
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(rename(source, target))

    monkeypatch.setattr(os, "replace", cut)
    (tmp_path / "last.ckpt").write_bytes(b"damaged")
    try:
        writer.save_checkpoint(content(3), tmp_path / "last.ckpt")
    except KeyboardInterrupt:
        assert renames < 3
    found = [path for path in tmp_path.glob("*.ckpt") if path.read_bytes() != b"damaged"]
    assert {number_in(path) for path in found} & {1, 3}
    monkeypatch.undo()
    writer.save_checkpoint(content(4), tmp_path / "last.ckpt")
    assert number_in(tmp_path / "last.ckpt") == 4


def test_data_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *args, name=name, real=real: (calls.append(name), real(*args))
        )
    AtomicCheckpointIO().save_checkpoint(content(1), tmp_path / "best.ckpt")
    assert calls == ["fsync", "replace", "fsync"]  # the file, its name, the folder


def test_a_full_disk_is_named_and_costs_nothing(tiny_disk):
    writer = AtomicCheckpointIO()
    writer.save_checkpoint(content(1), tiny_disk / "last.ckpt")
    big = {"weights": torch.zeros(100_000)}
    with pytest.raises(OSError, match=r"cannot write .*last\.ckpt: No space left on device"):
        writer.save_checkpoint(big, tiny_disk / "last.ckpt")
    assert names(tiny_disk) == ["last.ckpt"]
    assert number_in(tiny_disk / "last.ckpt") == 1


def test_a_run_on_a_disk_that_fills_up_ends_and_goes_on_when_there_is_room(tiny_disk):
    straight, _ = train(tiny_disk.parent / "straight", LastCheckpoint())
    filler = tiny_disk / "filler"

    def fill():
        with suppress(OSError), filler.open("wb") as file:
            file.write(bytes(1 << 20))

    trap = At("on_train_batch_start", 5, fill)
    _, ended_by = train(tiny_disk, LastCheckpoint(), trap, plugins=AtomicCheckpointIO())
    assert isinstance(ended_by, OSError)
    assert "No space left on device" in str(ended_by)
    filler.unlink()
    folder = tiny_disk / "checkpoints"
    assert read_checkpoint(folder / "last.ckpt")["global_step"] == 3
    resumed, ended_by = train(
        tiny_disk, LastCheckpoint(), checkpoint=folder / "last.ckpt", plugins=AtomicCheckpointIO()
    )
    assert ended_by is None
    weights = [trainer.model.state_dict() for trainer in (resumed, straight)]
    torch.testing.assert_close(*weights, rtol=0, atol=0)


def test_a_folder_that_cannot_be_is_named(tmp_path):
    (tmp_path / "run").write_text("a file in its place")
    with pytest.raises(OSError, match=r"cannot write .*last\.ckpt: (File exists|Not a directory)"):
        AtomicCheckpointIO().save_checkpoint(content(1), tmp_path / "run" / "last.ckpt")


def test_in_the_background_the_state_is_of_the_step_and_errors_come_out(tmp_path):
    writer = AsyncCheckpointIO(AtomicCheckpointIO())
    state = content(1)
    writer.save_checkpoint(state, tmp_path / "last.ckpt")
    state["weights"].zero_()
    writer.teardown()
    assert number_in(tmp_path / "last.ckpt") == 1
    (tmp_path / "file").touch()
    with suppress(OSError):  # it may come out at once
        writer.save_checkpoint(state, tmp_path / "file" / "last.ckpt")
    with pytest.raises(OSError, match="cannot write"):
        writer.teardown()


def test_any_truncation_and_any_damage_are_found(tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(content(1), path)
    whole = path.read_bytes()
    assert number_in(path) == 1
    middle = whole.index(content(1)["weights"].numpy().tobytes()) + 2000
    damaged = [whole[:size] for size in (0, 1, 500, len(whole) // 2, len(whole) - 1)]
    damaged += [whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]]
    damaged += [bytes(len(whole)), b"x" * 100]
    for bytes_left in damaged:
        path.write_bytes(bytes_left)
        with pytest.raises(ValueError, match=r"last\.ckpt is damaged or not a checkpoint"):
            read_checkpoint(path)
    with pytest.raises(FileNotFoundError, match="checkpoint not found"):
        read_checkpoint(tmp_path / "nowhere.ckpt")


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "attacked"),)

    torch.save({"step": Attack()}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="damaged or not a checkpoint"):
        read_checkpoint(tmp_path / "last.ckpt")
    assert not (tmp_path / "attacked").exists()
