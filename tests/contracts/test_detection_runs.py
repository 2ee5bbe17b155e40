"""A detector from the command line: a whole small run, and one clear error for each mistake."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from command import fails
from lightning.pytorch import Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_scenes import CATEGORY_IDS, CLASSES, scene, tiny_detector, write_coco

from eca_lightning import ImageClassifier, ObjectDetector
from eca_lightning.backbones import BackboneConfig
from eca_lightning.cli import main
from eca_lightning.lightning_cli import lightning_cli

pytestmark = pytest.mark.usefixtures("as_a_program")

CONFIGS = Path(__file__).parents[2] / "configs"


def config(folder, **data):
    """The quickstart of Mask R-CNN, made smaller, on other images."""
    run = yaml.safe_load((CONFIGS / "coco" / "quickstart_rcnn.yaml").read_text())
    options = run["model"]["init_args"]["detector"]
    tiny = tiny_detector("mask_rcnn", **data.pop("detector", {}))
    options |= {key: getattr(tiny, key) for key in options if key != "backbone"}
    options |= {
        "name": "mask_rcnn",
        "backbone": {"name": "shallow.basic_blocks", "attention": "eca"},
    }
    sets = {split: str(folder / split) for split in ("train", "val")}
    sets |= {f"{split}_annotations": str(folder / f"{split}.json") for split in ("train", "val")}
    run["data"] = {
        "class_path": "eca_lightning.CocoDataModule",
        "init_args": sets | {"batch_size": 4, "num_workers": 0, "masks": True} | data,
    }
    run["trainer"] |= {"max_epochs": 2, "accelerator": "cpu", "log_every_n_steps": 1}
    run["trainer"]["logger"] = {"init_args": {"save_dir": str(folder / "runs")}}
    run["reports"] = str(CONFIGS / "reports" / "detection.yaml")
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(run))
    return path


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Pictures, their annotations, a finished run and what it logged last."""
    folder = tmp_path_factory.mktemp("work")
    write_coco(folder, "train", [scene(i, objects=i % 4) for i in range(1, 25)])
    write_coco(folder, "val", [scene(i, objects=i % 4) for i in range(31, 38)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["eca-lightning"])
        main(["fit", "--config", str(config(folder))])
    return folder


def best(work):
    return work / "runs" / "small" / "version_0" / "checkpoints" / "best.ckpt"


@pytest.mark.slow
def test_fit_leaves_a_checkpoint_that_stands_alone(work):
    model = ObjectDetector.load_from_checkpoint(best(work), weights_only=True)
    assert model.class_names == CLASSES
    assert model.category_ids == CATEGORY_IDS
    names = sorted(path.name for path in best(work).parent.iterdir())
    assert names == ["best.ckpt", "last-previous.ckpt", "last.ckpt"]


@pytest.mark.slow
def test_tensorboard_has_the_curves_and_pictures(work):
    events = EventAccumulator(str(best(work).parents[1]))
    events.Reload()
    scalars = events.Tags()["scalars"]
    for name in ("train/loss", "train/loss_mask", "val/box_AP", "val/mask_AP50", "train/lr"):
        assert name in scalars
    assert len(events.Scalars("val/box_AP")) == 2
    assert events.Tags()["images"] == ["val/detections"]


@pytest.mark.slow
def test_validate_repeats_the_figures_of_training(work):
    events = EventAccumulator(str(best(work).parents[1]))
    events.Reload()
    reached = [event.value for event in events.Scalars("val/box_AP")]
    epoch = reached.index(max(reached))
    cli = lightning_cli(
        ["validate", "--config", str(work / "small.yaml"), "--ckpt_path", str(best(work))]
    )
    figures = cli.trainer.callback_metrics
    assert len(figures) == 24
    for name, value in figures.items():
        assert value.item() == events.Scalars(name)[epoch].value


@pytest.mark.slow
def test_predict_writes_what_it_finds_and_nothing_else(work, tmp_path):
    output = tmp_path / "out" / "found.json"
    options = ["--data.predict", str(work / "val"), "--output", str(output)]
    main(
        ["predict", "--config", str(work / "small.yaml"), *options, "--ckpt_path", str(best(work))]
    )
    results = json.loads(output.read_text())
    assert {result["category_id"] for result in results} <= set(CATEGORY_IDS)
    names = sorted(path.name for path in (work / "val").iterdir())
    assert all(result["file_name"] == names[result["image_id"]] for result in results)
    assert sorted(path.name for path in output.parent.iterdir()) == ["annotated", "found.json"]
    drawn = sorted(path.name for path in (output.parent / "annotated").iterdir())
    assert drawn == [f"{name}.jpg" for name in names]


@pytest.mark.slow
def test_another_detectors_checkpoint_is_named(work, capsys):
    options = ["--config", work / "small.yaml", "--model.detector.fpn_channels", "8"]
    error = fails(capsys, "validate", *options, "--ckpt_path", best(work))
    assert "fpn_channels is 16 in the checkpoint and 8 here" in error


@pytest.mark.slow
def test_a_classifiers_checkpoint_is_no_detectors(work, capsys, tmp_path):
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    trainer.strategy.connect(ImageClassifier(BackboneConfig("resnet20", "eca", num_classes=2)))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    options = ["--config", work / "small.yaml", "--ckpt_path", tmp_path / "model.ckpt"]
    assert "give them as model.backbone_weights" in fails(capsys, "fit", *options)


@pytest.mark.slow
def test_data_of_other_classes_and_missing_weights_are_named(work, capsys):
    run = ["fit", "--config", work / "small.yaml", "--trainer.logger", "false"]
    error = fails(capsys, *run, "--model.detector.num_classes", "80")
    assert "set model.detector.num_classes to 2" in error
    error = fails(capsys, *run, "--model.backbone_weights", "nowhere.pth")
    assert "nowhere.pth" in error


@pytest.mark.slow
@pytest.mark.thorough  # detection/test_task.py resumes a detector as well
def test_interrupted_run_goes_on_as_if_it_had_not_been(work, tmp_path, monkeypatch):
    """Stopped within an epoch: the loader goes on with the next batch, and draws are the same."""

    def stop_at_the_eighth(self, outputs, batch, batch_index):
        if self.global_step == 8:
            raise KeyError("power cut")

    run = ["fit", "--config", str(work / "small.yaml"), "--trainer.logger.save_dir", str(tmp_path)]
    every = ["--last_checkpoint.every_n_train_steps", "3"]
    with monkeypatch.context() as patch:
        patch.setattr(ObjectDetector, "on_train_batch_end", stop_at_the_eighth)
        with pytest.raises(KeyError, match="power cut"):
            lightning_cli([*run, *every])
    folder = tmp_path / "small"
    (stopped,) = folder.rglob("last.ckpt")
    assert torch.load(stopped, weights_only=True)["global_step"] == 6
    lightning_cli([*run, "--ckpt_path", str(stopped)])
    weights = [
        torch.load(path, weights_only=True)["state_dict"]
        for path in (
            best(work).with_name("last.ckpt"),
            folder / "version_1" / "checkpoints" / "last.ckpt",
        )
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
