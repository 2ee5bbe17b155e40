"""What evaluation does to images goes with the weights to all that takes them."""

import csv
import json

import numpy as np
import pytest
import torch
import yaml
from command import error_of
from PIL import Image

from eca_lightning import ImageClassifier, load_classifier
from eca_lightning.cli import main
from eca_lightning.data.folder.preprocessing import Preprocessing
from eca_lightning.lightning_cli import lightning_cli
from eca_lightning.utils.run_folder import expand_run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_a_program")]
COLORS = {"blue": (20, 40, 220), "green": (30, 200, 50), "red": (220, 30, 30)}
CENTER = {"image_size": 24, "resize_size": 32, "eval_crop": "center_crop"}
FULL = {"eval_crop": "full", "train_crop": "full"}


def write_images(folder, size, count):
    """Write images of one color each, with some noise."""
    rng = np.random.default_rng(0)
    for name, color in COLORS.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 30, (*size(number), 3)) + np.array(color) * 0.85
            image = Image.fromarray(pixels.astype(np.uint8))
            image.save(folder / name / f"{number}.png")
    return folder


def train(folder, epochs, **data):
    """Train for some epochs, and return the run's folder and its config."""
    images = write_images(folder / "images", lambda _: (16, 20), 4)
    options = {"train": str(images), "val": str(images), "batch_size": 3, "num_workers": 0} | data
    backbone = {"name": "resnet20", "attention": "eca", "num_classes": 3}
    sgd = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.02, "momentum": 0.5}}
    model = {"backbone": backbone, "optimizer": sgd}
    config = {
        "model": {"class_path": "ImageClassifier", "init_args": model},
        "data": {"class_path": "ImageFolderDataModule", "init_args": options},
        "trainer": {"accelerator": "cpu", "max_epochs": epochs, "enable_progress_bar": False},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    logger = ["--trainer.logger.save_dir", str(folder), "--trainer.logger.name", "run"]
    main(["fit", "--config", str(path), *logger])
    write_images(folder / "new", lambda number: [(40, 30), (16, 20), (33, 64)][number], 3)
    return folder / "run" / "version_0", path


@pytest.fixture(scope="module")
def centered(tmp_path_factory):
    return train(tmp_path_factory.mktemp("centered"), 2, **CENTER)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole"), 8, **FULL)


def predict(run, *arguments):
    """Return the rows of a prediction of the new images."""
    folder = run.parents[1]
    output = ["--data.predict", str(folder / "new"), "--output", str(folder / "new.csv")]
    main(["predict", *map(str, arguments), *output])
    with (folder / "new.csv").open() as file:
        return list(csv.DictReader(file))


def probabilities(model, transform, rows):
    images = torch.stack([transform(row["image"]) for row in rows])
    with torch.inference_mode():
        return model(images).softmax(1).sort(dim=1, descending=True).values


def assert_as_transformed(rows, model, transform):
    shown = torch.tensor([[float(row[f"probability_{k}"]) for k in (1, 2, 3)] for row in rows])
    torch.testing.assert_close(shown, probabilities(model, transform, rows), atol=2e-6, rtol=0)


def test_whole_images_of_any_size_are_predicted(whole):
    run, config = whole
    rows = predict(run, "--config", config, "--ckpt_path", run / "checkpoints/best.ckpt")
    assert len(rows) == 9
    assert all(not row["error"] and row["class_1"] in row["image"] for row in rows)
    model = load_classifier(run / "checkpoints/best.ckpt")
    assert model.transform.image_size == (16, 20)  # as they are stored
    assert_as_transformed(rows, model, model.transform)
    assert rows == predict(run, "--run", run)


def test_whole_images_of_any_size_are_scored(whole):
    run, _ = whole
    new = str(run.parents[1] / "new")
    for command, split in (("validate", "val"), ("test", "test")):
        arguments = expand_run([command, "--run", str(run), f"--data.{split}", new])
        assert lightning_cli(arguments).trainer.callback_metrics[f"{split}/top1"] == 1
    assert not list(run.parent.glob("version_1"))  # its scores stand with the run


def test_a_command_without_them_uses_those_of_the_weights(centered, tmp_path):
    run, config = centered
    other = yaml.safe_load(config.read_text())
    for name in CENTER:
        del other["data"]["init_args"][name]
    bare = tmp_path / "bare.yaml"
    bare.write_text(yaml.safe_dump(other))
    best = run / "checkpoints/best.ckpt"
    rows = predict(run, "--config", bare, "--ckpt_path", best)
    model = load_classifier(best)
    assert model.transform == Preprocessing("center_crop", (24, 24), 32)
    assert_as_transformed(rows, model, model.transform)
    # What a command gives wins; a size alone keeps the fraction that is cropped.
    rows = predict(run, "--config", bare, "--ckpt_path", best, "--data.image_size", 30)
    assert_as_transformed(rows, model, Preprocessing("center_crop", (30, 30), 40))


def test_imports_and_the_hub_keep_them(centered, tmp_path):
    best = centered[0] / "checkpoints/best.ckpt"
    main(["import", str(best), str(tmp_path / "imported.ckpt")])
    known = Preprocessing("center_crop", (24, 24), 32)
    model = load_classifier(tmp_path / "imported.ckpt")
    assert model.transform == known
    model.save_pretrained(tmp_path / "hub")
    assert ImageClassifier.from_pretrained(tmp_path / "hub").transform == known
    assert load_classifier(tmp_path / "hub" / "model.safetensors").transform == known
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    assert config["preprocessing"] == {
        **CENTER,
        "image_size": [24, 24],
        "interpolation": "bilinear",
    }


def test_exports_describe_them(centered, tmp_path):
    main(["export", "--run", str(centered[0].parent), str(tmp_path / "eca.safetensors")])
    described = json.loads((tmp_path / "eca.json").read_text())["preprocessing"]
    assert Preprocessing.from_dict(described) == Preprocessing("center_crop", (24, 24), 32)


def test_a_strangers_values_are_refused(whole, tmp_path, capsys):
    checkpoint = torch.load(whole[0] / "checkpoints/best.ckpt", weights_only=True)
    checkpoint["preprocessing"]["image_size"] = [10**9, 10**9]
    torch.save(checkpoint, tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match=r"bad.ckpt: preprocessing\.image_size must be"):
        load_classifier(tmp_path / "bad.ckpt")
    arguments = ["predict", "--run", whole[0], "--ckpt_path", tmp_path / "bad.ckpt"]
    assert "preprocessing.image_size must be" in error_of(capsys, *arguments)


def test_a_folder_without_a_run(tmp_path, capsys):
    for command in ("validate", "test", "predict"):
        error = error_of(capsys, command, "--run", tmp_path)
        assert error.startswith(f"--run: {tmp_path} holds no run with a checkpoint: give")
    assert "does not exist" in error_of(capsys, "export", "--run", tmp_path / "gone", "a.onnx")
    assert "give the folder of a run" in error_of(capsys, "predict", "--run")
