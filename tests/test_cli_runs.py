"""A whole small run as its user types it: trained, scored, stopped and gone on with."""

import multiprocessing
import os
import re
import shutil
import signal
import subprocess

import pytest
import torch
import yaml
from command import fails
from small_run import CLASSES, best, same_weights
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from eca_lightning import ImageClassifier
from eca_lightning.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_a_program")]


def test_fit_learns_and_leaves_a_checkpoint_that_stands_alone(work):
    model = ImageClassifier.load_from_checkpoint(best(work), weights_only=True)
    assert model.class_names == list(CLASSES)
    saved = torch.load(best(work), weights_only=True)["hyper_parameters"]
    assert saved["_class_path"] == "eca_lightning.ImageClassifier"
    names = sorted(path.name for path in best(work).parent.iterdir())
    assert names == ["best.ckpt", "last-previous.ckpt", "last.ckpt"]


def test_tensorboard_has_the_curves(work):
    events = EventAccumulator(str(best(work).parents[1]))
    events.Reload()
    scalars = events.Tags()["scalars"]
    for name in ("train/loss", "train/top1", "val/loss", "val/top1", "val/top5", "train/lr"):
        assert name in scalars
    assert "hp_metric" not in scalars
    assert len(events.Scalars("val/top1")) == 3


def test_validate_repeats_the_figure_of_training(work, capsys):
    events = EventAccumulator(str(best(work).parents[1]))
    events.Reload()
    reached = max(event.value for event in events.Scalars("val/top1"))
    assert reached > 0.9
    capsys.readouterr()
    runs = set(best(work).parents[2].iterdir())
    main(["validate", "--config", str(work / "small.yaml"), "--ckpt_path", str(best(work))])
    assert set(best(work).parents[2].iterdir()) == runs  # no run that holds one point
    (printed,) = re.findall(r"val/top1\D*([\d.]+)", capsys.readouterr().out)
    assert f"{float(printed):.4f}" == f"{reached:.4f}"


def test_test_scores_another_set(work, capsys):
    options = ["--data.test", str(work / "val.beton"), "--ckpt_path", str(best(work))]
    main(["test", "--config", str(work / "small.yaml"), *options])
    assert "test/top1" in capsys.readouterr().out


@pytest.mark.thorough  # as a run that goes on by itself, below
def test_interrupted_run_goes_on_as_if_it_had_not_been(work, tmp_path, monkeypatch):
    def stop_in_the_second_epoch(self):
        if self.current_epoch == 1:
            raise KeyError("power cut")

    command = ["fit", "--config", str(work / "small.yaml"), "--trainer.logger.save_dir"]
    with monkeypatch.context() as patch:
        patch.setattr(ImageClassifier, "on_train_epoch_end", stop_in_the_second_epoch)
        with pytest.raises(KeyError, match="power cut"):
            main([*command, str(tmp_path)])
    (last,) = tmp_path.rglob("last.ckpt")
    main([*command, str(tmp_path / "again"), "--ckpt_path", str(last)])
    (resumed,) = (tmp_path / "again").rglob("last.ckpt")
    assert same_weights(resumed, best(work).with_name("last.ckpt"))


def test_auto_starts_afresh_and_goes_on_in_the_same_folder(work, tmp_path, monkeypatch):
    def stop_in_the_second_epoch(self, batch, batch_index):
        if self.global_step == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    command = ["fit", "--config", str(work / "small.yaml"), "--ckpt_path", "auto"]
    command += ["--trainer.logger.save_dir", str(tmp_path), "--async_checkpoints", "true"]
    with monkeypatch.context() as patch:
        patch.setattr(ImageClassifier, "on_train_batch_start", stop_in_the_second_epoch)
        with pytest.raises(SystemExit) as stop:
            main(command)
    assert stop.value.code == 143
    (last,) = tmp_path.rglob("last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == 9
    main(command)
    assert [path.name for path in (tmp_path / "small").iterdir()] == ["version_0"]
    assert same_weights(last, best(work).with_name("last.ckpt"))
    config = yaml.safe_load((tmp_path / "small" / "version_0" / "config.yaml").read_text())
    assert config["ckpt_path"] == "auto"
    assert config["trainer"]["logger"]["init_args"]["version"] is None
    before = last.stat().st_mtime_ns
    main(command)  # what restarts a run that is finished does no harm
    assert last.stat().st_mtime_ns == before


def test_auto_takes_the_one_before_a_damaged_one_and_says_so(work, tmp_path):
    run = tmp_path / "small" / "version_3"
    shutil.copytree(best(work).parents[1], run)
    last = run / "checkpoints" / "last.ckpt"
    command = ["fit", "--config", str(work / "small.yaml"), "--ckpt_path", "auto"]
    command += ["--trainer.logger.save_dir", str(tmp_path)]
    os.truncate(last, last.stat().st_size // 2)
    with pytest.warns(UserWarning, match=r"last\.ckpt is damaged .*Going on from the one before"):
        main(command)
    assert same_weights(last, best(work).with_name("last.ckpt"))


def test_auto_is_for_fit(work, capsys):
    error = fails(capsys, "validate", "--config", work / "small.yaml", "--ckpt_path", "auto")
    assert "--ckpt_path auto is for fit" in error


def test_folder_that_cannot_be_written_to(work, capsys, tmp_path):
    (tmp_path / "file").touch()
    options = ["--trainer.logger.save_dir", tmp_path / "file"]
    error = fails(capsys, "fit", "--config", work / "small.yaml", *options)
    assert "cannot write to the run's folder" in error


def test_disk_that_cannot_be_written_to(work, capsys, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this process may not mount file systems")
    try:
        options = ["--trainer.logger.save_dir", disk]
        error = fails(capsys, "fit", "--config", work / "small.yaml", *options)
        assert "Read-only file system" in error
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_trial_run_leaves_nothing_and_points_nowhere(work, tmp_path, capsys):
    options = ["--trainer.logger.save_dir", str(tmp_path), "--trainer.fast_dev_run", "1"]
    main(["fit", "--config", str(work / "small.yaml"), *options])
    assert "tensorboard" not in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_one_cycle_cannot_be_prolonged(work, capsys, tmp_path):
    last = best(work).with_name("last.ckpt")
    options = ["--trainer.logger.save_dir", tmp_path, "--trainer.max_epochs", "4"]
    error = fails(capsys, "fit", "--config", work / "small.yaml", "--ckpt_path", last, *options)
    assert "18 steps and this run's 24" in error


def test_a_lost_worker_process_is_named_and_the_run_goes_on(work, capsys, tmp_path, monkeypatch):
    def lose_a_worker(self, batch, batch_index):
        if self.global_step == 8:
            for child in multiprocessing.active_children():
                child.kill()

    folder = yaml.safe_load((work / "small.yaml").read_text())
    folder["data"]["class_path"] = "eca_lightning.ImageFolderDataModule"
    images = {split: str(work / "images" / split) for split in ("train", "val")}
    folder["data"]["init_args"] |= images | {"num_workers": 1}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(folder))
    command = ["fit", "--config", str(tmp_path / "small.yaml"), "--ckpt_path", "auto"]
    command += ["--trainer.logger.save_dir", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(ImageClassifier, "on_train_batch_start", lose_a_worker)
        error = fails(capsys, *command)
    assert re.search(r"error: DataLoader worker .*fewer data.num_workers", error)
    (last,) = tmp_path.rglob("last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == 6
    main([*command, "--data.num_workers", "0"])
    assert torch.load(last, weights_only=True)["global_step"] == 18
