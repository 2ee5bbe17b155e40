"""eca-lightning as its user types it: a whole small run, and one clear error for each mistake."""

import csv
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from command import fails
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from thorough import thorough

from eca_lightning import ImageClassifier
from eca_lightning.cli import COMMANDS, main

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_a_program")]

CONFIGS = Path(__file__).parents[1] / "configs"
CLASSES = ("blue", "green", "red")


def write_images(folder, per_class):
    """Pictures of noise, each class brightest in a channel of its own."""
    generator = np.random.default_rng(per_class)
    for index, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = generator.integers(0, 128, (20, 20, 3), dtype=np.uint8)
            pixels[..., 2 - index] += 127
            Image.fromarray(pixels).save(folder / name / f"{number:02}.png")


def config(folder, **data):
    """A small run on the pictures, written to a file."""
    sets = {"train": str(folder / "train.beton"), "val": str(folder / "val.beton")}
    options = {"batch_size": 10, "num_workers": 1, "train_crop": "full", "eval_crop": "full"}
    run = yaml.safe_load((CONFIGS / "quickstart.yaml").read_text())
    backbone = {"name": "shallow.basic_blocks", "attention": "eca", "num_classes": 3}
    backbone["stem"] = "small"
    run["model"]["init_args"]["backbone"] = backbone
    run["data"] = {
        "class_path": "eca_lightning.FFCVDataModule",
        "init_args": sets | options | data,
    }
    run["trainer"] |= {"max_epochs": 3, "accelerator": "cpu", "log_every_n_steps": 1}
    run["trainer"]["val_check_interval"] = 1.0
    run["trainer"]["logger"] = {"init_args": {"save_dir": str(folder / "runs")}}
    run["reports"] = str(CONFIGS / "reports" / "classification.yaml")
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(run))
    return path


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Pictures, their .beton files and a finished run."""
    folder = tmp_path_factory.mktemp("work")
    for split, per_class in (("train", 20), ("val", 7)):
        write_images(folder / "images" / split, per_class)
    source, output = str(folder / "images"), str(folder)
    main(["data", "write", "image-folder", "--source", source, "--output", output, "--mode", "raw"])
    main(["fit", "--config", str(config(folder))])
    return folder


def best(work):
    return work / "runs" / "small" / "version_0" / "checkpoints" / "best.ckpt"


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


def test_predict_names_every_image_of_a_folder(work, tmp_path):
    folder, table = work / "images" / "val", tmp_path / "photos.csv"
    options = ["--data.predict", str(folder), "--output", str(table)]
    checkpoint = ["--ckpt_path", str(best(work)), "--data.num_workers", "0"]
    main(["predict", "--config", str(work / "small.yaml"), *options, *checkpoint])
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == sorted(str(path) for path in folder.rglob("*.png"))
    right = [Path(row["image"]).parent.name == row["class_1"] for row in rows]
    assert sum(right) / len(right) > 0.9
    chances = [float(row[f"probability_{k}"]) for row in rows[:1] for k in (1, 2, 3)]
    assert sum(chances) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("source", ["list", *thorough("glob", "image")])
def test_predict_takes_images_in_other_ways(work, tmp_path, source):
    folder = work / "images" / "val"
    expected = sorted((folder / "red").iterdir())
    (tmp_path / "list.txt").write_text("\n".join(map(str, expected)))
    if source == "image":
        del expected[1:]
    sources = {"glob": folder / "r*" / "*.png", "list": "list.txt", "image": expected[0]}
    options = ["--data.predict", str(sources[source]), "--output", "table.jsonl"]
    checkpoint = ["--ckpt_path", str(best(work)), "--data.num_workers", "0"]
    main(["predict", "--config", str(work / "small.yaml"), *options, *checkpoint])
    rows = [json.loads(line) for line in (tmp_path / "table.jsonl").read_text().splitlines()]
    assert [row["image"] for row in rows] == list(map(str, expected))
    assert {row["class_1"] for row in rows} == {"red"}


def test_predict_goes_on_without_what_it_cannot_read(work, tmp_path, capsys):
    good = work / "images" / "val" / "red" / "00.png"
    (tmp_path / "bad.png").write_text("no image")
    (tmp_path / "list.txt").write_text(f"bad.png\n{good}\n")
    run = ["predict", "--config", str(work / "small.yaml"), "--data.predict", "list.txt"]
    run += ["--ckpt_path", str(best(work)), "--output", "table.jsonl"]
    main(run)
    bad, read = map(json.loads, (tmp_path / "table.jsonl").read_text().splitlines())
    assert (bad["image"], bad["class_1"]) == ("bad.png", None)
    assert "cannot read the image bad.png" in bad["error"]
    assert (read["image"], read["class_1"], read["error"]) == (str(good), "red", None)
    (tmp_path / "table.jsonl").unlink()
    error = fails(capsys, *run, "--data.on_unreadable", "raise")
    assert "error: data.predict: cannot read the image bad.png" in error
    assert not (tmp_path / "table.jsonl").exists()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--data.predict", "*.tiff", "data.predict: *.tiff matches no image"),
        ("--output", "table.xls", "let table.xls end in .csv, .jsonl, .parquet"),
    ],
)
def test_predict_says_at_once_what_is_wrong(work, capsys, option, value, message):
    run = ["predict", "--config", work / "small.yaml", "--ckpt_path", best(work)]
    assert message in fails(capsys, *run, option, value)


def test_predict_reads_a_beton_too(work, tmp_path):
    table = tmp_path / "table.csv"
    options = ["--data.predict", str(work / "val.beton"), "--output", str(table)]
    main(
        ["predict", "--config", str(work / "small.yaml"), *options, "--ckpt_path", str(best(work))]
    )
    with table.open() as file:
        assert [row["image"] for row in csv.DictReader(file)] == [str(i) for i in range(21)]


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


def same_weights(*paths):
    first, *others = (torch.load(path, weights_only=True)["state_dict"] for path in paths)
    return all(torch.equal(other[key], first[key]) for other in others for key in first)


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


def test_data_info_and_verify(work, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    main(["data", "info", str(work)])
    main(["data", "verify", str(work / "val.beton")])
    printed = capsys.readouterr().out
    assert "train.beton" in printed
    assert "all 21 samples are good" in printed


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    assert "usage: eca-lightning" in capsys.readouterr().out


def test_help_lists_the_commands_without_importing_torch():
    code = "import sys; from eca_lightning.cli import main; main(['--help']); "
    code += "sys.exit('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(f"  {command} " in shown.stdout for command in COMMANDS)


def test_unknown_command(capsys):
    error = fails(capsys, "tain")
    assert "unknown command 'tain'" in error
    assert "known: fit, validate, test, predict, data, " in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["fit", "--model.backbone.atention", "eca"], "--backbone.atention"),
        (["fit", "--data.batch_size", "many"], "batch_size"),
        (["fit", "--trainer.max_epochs", "many"], "trainer.max_epochs"),
        (["fit", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["fit", "--data", "ImageFolder"], "ImageFolder"),
        (["fit", "--top", "3"], "unrecognized arguments: --top 3"),
        (["predict", "--annotated", "true"], "--annotated is not for ImageClassifier"),
        (["predict", "--min_score", "0.3"], "--min_score is not for ImageClassifier"),
        (["fit", "--trainer.max_epochs", "null"], "trainer.max_epochs is not set: add a schedule"),
    ],
)
def test_bad_options_are_one_line(work, capsys, options, message):
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([options[0], "--config", str(work / "small.yaml"), *options[1:]])
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("eca-lightning: error: ")
    assert message in error
    assert len(error) < 300


def printed(capsys, *arguments):
    """The resolved options of a run."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["fit", *arguments, "--print_config"])
    assert stop.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


FFCV = ["--config", str(CONFIGS / "imagenet" / "resnet50_ffcv.yaml")]
FFCV40 = ["--config", str(CONFIGS / "schedules" / "ffcv40.yaml")]
GPU8 = ["--config", str(CONFIGS / "trainer" / "gpu8.yaml")]
ECA = ["--model.backbone.attention", "eca"]


@pytest.mark.parametrize("last", [[*ECA, *GPU8, *FFCV40], [*FFCV40, *GPU8, *ECA]])
def test_axes_compose_in_any_order(capsys, last):
    run = printed(capsys, *FFCV, *last)
    assert run["model"]["init_args"]["backbone"]["attention"] == "eca"
    assert (run["trainer"]["devices"], run["trainer"]["max_epochs"]) == (8, 40)
    (resizing,) = run["trainer"]["callbacks"]
    assert resizing["class_path"] == "eca_lightning.ProgressiveResizing"
    logger = run["trainer"]["logger"]["init_args"]
    assert (logger["save_dir"], logger["name"]) == ("runs", "resnet50_ffcv-ffcv40-eca")


@pytest.mark.parametrize("option", ["--trainer.logger.name", "--trainer.logger.init_args.name"])
def test_another_name_and_logger(capsys, option):
    run = printed(capsys, *FFCV, option, "mine")
    assert run["trainer"]["logger"]["init_args"]["name"] == "mine"
    assert run["trainer"]["logger"]["class_path"].endswith(".RunLogger")
    run = printed(capsys, *FFCV, "--trainer.logger", "CSVLogger")
    assert run["trainer"]["logger"]["class_path"].endswith(".CSVLogger")
    assert run["trainer"]["logger"]["init_args"]["name"] == "resnet50_ffcv"
    assert printed(capsys, *FFCV, "--trainer.logger", "false")["trainer"]["logger"] is False


def test_callbacks_are_appended_to_those_of_files_before(capsys):
    v2 = ["--config", str(CONFIGS / "imagenet" / "resnet50_v2.yaml")]
    callback = ["--trainer.callbacks+=ProgressiveResizing", "--trainer.callbacks.min_size=64"]
    for last, size in ((FFCV40, 160), (callback, 64)):
        callbacks = printed(capsys, *v2, *last)["trainer"]["callbacks"]
        names = [c["class_path"].rpartition(".")[2] for c in callbacks]
        assert names == ["ProgressiveResizing", "ExponentialMovingAverage", "ProgressiveResizing"]
        assert callbacks[2]["init_args"]["min_size"] == size


def test_hyphens_are_underscores_and_short_names_classes(capsys):
    options = ["--data", "ImageFolderDataModule", "--data.batch-size", "9", "--seed-everything=3"]
    run = printed(capsys, *FFCV, *options)
    assert run["data"]["class_path"] == "eca_lightning.ImageFolderDataModule"
    assert run["data"]["init_args"]["batch_size"] == 9
    assert run["seed_everything"] == 3


@pytest.mark.parametrize("option", ["--data.train", "--data.val"])
def test_missing_data_set(work, capsys, option):
    error = fails(capsys, "fit", "--config", work / "small.yaml", option, "nowhere.beton")
    assert "nowhere.beton" in error
    assert "eca-lightning data write" in error


def test_truncated_beton(work, capsys, tmp_path):
    broken = tmp_path / "broken.beton"
    broken.write_bytes((work / "train.beton").read_bytes()[:-1000])
    error = fails(capsys, "fit", "--config", work / "small.yaml", "--data.train", broken)
    assert str(broken) in error


def test_empty_class_folder(work, capsys, tmp_path):
    write_images(tmp_path / "images", 2)
    (tmp_path / "images" / "yellow").mkdir()
    options = ["--source", tmp_path / "images", "--output", tmp_path / "out.beton"]
    error = fails(capsys, "data", "write", "image-folder", *options)
    assert "yellow" in error
    assert not list(tmp_path.glob("out*"))


def test_file_that_is_no_image(work, capsys, tmp_path):
    write_images(tmp_path / "images", 2)
    (tmp_path / "images" / "red" / "notes.jpg").write_text("not a picture")
    options = ["--source", tmp_path / "images", "--output", tmp_path / "out.beton"]
    error = fails(capsys, "data", "write", "image-folder", *options)
    assert "notes.jpg" in error
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.backbone.attention", "ecaa"], "did you mean 'eca'?"),
        (["--model.backbone.name", "resnet51"], "resnet18, resnet34, resnet50"),
        (["--model.backbone.attention_options.kernel", "4"], "odd"),
        (["--data.batch_size", "0"], "batch_size must be at least 1"),
        (["--model.backbone.num_classes", "5"], "num_classes to 3"),
        (["--ckpt_path", "nowhere.ckpt"], "checkpoint not found: nowhere.ckpt"),
    ],
)
def test_bad_options(work, capsys, options, message):
    assert message in fails(capsys, "fit", "--config", work / "small.yaml", *options)


def test_checkpoint_of_another_architecture(work, capsys):
    options = ["--model.backbone.attention", "se", "--ckpt_path", best(work)]
    error = fails(capsys, "validate", "--config", work / "small.yaml", *options)
    assert "attention is 'eca' in the checkpoint and 'se' here" in error


def test_damaged_checkpoint(work, capsys, tmp_path):
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes(best(work).read_bytes()[:5000])
    error = fails(capsys, "validate", "--config", work / "small.yaml", "--ckpt_path", damaged)
    assert "damaged.ckpt is damaged or not a checkpoint" in error


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("command", ["validate", "predict", "import", "export"])
def test_code_in_a_checkpoint_is_not_run(work, capsys, tmp_path, command):
    trap, sprung = tmp_path / "trap.ckpt", tmp_path / "sprung"
    torch.save({"state_dict": {"fc.bias": torch.zeros(3)}, "args": Trap(sprung)}, trap)
    run = [command, "--config", work / "small.yaml", "--ckpt_path", trap]
    if command in ("import", "export"):
        run = [command, trap, tmp_path / ("new.ckpt" if command == "import" else "new.pt2")]
    assert "trap.ckpt" in fails(capsys, *run, *["--data.predict", work] * (command == "predict"))
    assert [path.name for path in tmp_path.iterdir()] == ["trap.ckpt"]


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


def test_a_bug_keeps_its_traceback(monkeypatch):
    def broken():
        int("seven")

    monkeypatch.setattr("eca_lightning.paper.command.models", broken)
    with pytest.raises(ValueError, match="seven"):
        main(["models"])
