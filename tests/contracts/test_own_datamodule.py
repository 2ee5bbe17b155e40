"""A data module of a user's own: plain loaders of uint8 images and labels, and nothing else."""

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from command import noise_run
from lightning.pytorch import LightningDataModule
from thorough import first_of
from tiny_scenes import scene, tiny_detector, write_coco
from torch.utils.data import DataLoader, IterableDataset

import eca_lightning as eca
from eca_lightning.classification.mixing import Mixing

SAMPLES, BATCH = 22, 8
"""The last batch of an epoch is smaller."""


class Stream(IterableDataset):
    """The samples without indices or a length."""

    def __init__(self, samples):
        self.samples = samples

    def __iter__(self):
        return iter(self.samples)


class OwnData(LightningDataModule):
    """The least that Lightning asks of a data module."""

    def __init__(self, dataset=list):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        size = (SAMPLES, 3, 16, 16)
        images = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
        self.samples = dataset(zip(images, torch.arange(SAMPLES) % 3, strict=True))

    def loader(self):
        return DataLoader(self.samples, batch_size=BATCH)

    train_dataloader = val_dataloader = predict_dataloader = loader


FEATURES = {
    "step schedule": lambda: (
        {
            "lr_scheduler": lambda optimizer, **steps: eca.WarmupThenDecay(
                optimizer, warmup_epochs=1, **steps
            ),
            "lr_interval": "step",
            "no_decay_norm_bias": True,
        },
        [eca.LearningRateMonitor(), eca.GradientNormMonitor(), eca.SpeedMonitor()],
    ),
    "mixing, binary cross-entropy and flipped scores": lambda: (
        {
            "mixing": Mixing(mixup=0.2, cutmix=1.0),
            "loss": "binary_cross_entropy",
            "bce_target_threshold": 0.2,
            "label_smoothing": 0.1,
            "flip_tta": True,
        },
        [],
    ),
    "averaged weights": lambda: (
        {},
        [eca.ExponentialMovingAverage(decay=0.9, every_n_steps=2), eca.LastCheckpoint()],
    ),
    "reports": lambda: (
        {},
        [
            eca.CalibrationMonitor(),
            eca.ConfusionReport(),
            eca.WorstImages(),
            eca.AttentionMonitor(),
            eca.BestScores(),
            eca.RunDescription(),
        ],
    ),
}


@pytest.mark.parametrize("feature", first_of(FEATURES, 3))
def test_it_trains_with_what_recipes_are_made_of(feature, make_trainer, classifier):
    options, callbacks = FEATURES[feature]()
    trainer = make_trainer(*callbacks, eca.LossGuard(), max_epochs=2)
    trainer.fit(classifier(**options), datamodule=OwnData())
    assert trainer.global_step == 2 * math.ceil(SAMPLES / BATCH)
    assert torch.isfinite(trainer.callback_metrics["val/loss"])


def test_its_predictions_are_written_by_index(make_trainer, classifier, tmp_path):
    trainer = make_trainer(eca.PredictionWriter(tmp_path / "out.csv"))
    trainer.predict(classifier(), datamodule=OwnData(), return_predictions=False)
    with (tmp_path / "out.csv").open() as file:
        assert [int(row["image"]) for row in csv.DictReader(file)] == list(range(SAMPLES))


def test_a_loss_that_is_not_finite_is_reported_without_samples(make_trainer, classifier):
    model = classifier()
    torch.nn.init.constant_(next(model.backbone.parameters()), math.nan)
    trainer = make_trainer(eca.LossGuard())
    with pytest.raises(FloatingPointError, match="batch 0 of epoch 0"):
        trainer.fit(model, datamodule=OwnData())
    (report,) = json.loads(Path(trainer.log_dir, "non_finite_loss.json").read_text())
    assert (report["batch"], report["samples"], report["seed"]) == (0, None, None)


@pytest.mark.parametrize(
    ("options", "callbacks", "dataset", "message"),
    [
        ({"lr_base_batch_size": 256}, [], list, r"lr_base_batch_size needs .* batch_size"),
        (
            {"lr_interval": "step", "lr_scheduler": eca.WarmupThenDecay},
            [],
            Stream,
            r"lr_interval: step needs .* known length",
        ),
        (
            {},
            [eca.ProgressiveResizing(16, multiple=16)],
            list,
            r"ProgressiveResizing needs a training loader with set_image_size.*DataLoader lacks",
        ),
    ],
)
def test_what_it_lacks_is_named_in_one_line_at_the_start(
    options, callbacks, dataset, message, make_trainer, classifier
):
    trainer = make_trainer(*callbacks)
    with pytest.raises(ValueError, match=message) as error:
        trainer.fit(classifier(**options), datamodule=OwnData(dataset))
    assert "\n" not in str(error.value)
    assert trainer.global_step == 0


def test_predictions_of_images_without_indices_are_refused(make_trainer, classifier, tmp_path):
    trainer = make_trainer(eca.PredictionWriter(tmp_path / "out.csv"))
    with pytest.raises(ValueError, match="a torch DataLoader of a map-style dataset nor"):
        trainer.predict(classifier(), datamodule=OwnData(Stream), return_predictions=False)


def test_progressive_resizing_of_a_detector_is_refused(make_trainer, tmp_path):
    write_coco(tmp_path, "train", [scene(i, objects=2) for i in range(2)])
    data = eca.CocoDataModule(
        train=tmp_path / "train", train_annotations=tmp_path / "train.json", val=None, num_workers=0
    )
    trainer = make_trainer(eca.ProgressiveResizing(64))
    with pytest.raises(ValueError, match=r"set_image_size.*CocoLoader lacks"):
        trainer.fit(eca.ObjectDetector(tiny_detector()), datamodule=data)
    assert trainer.global_step == 0


def test_progressive_resizing_of_whole_images_is_refused(make_trainer, classifier, tmp_path):
    noise_run(tmp_path)  # images of one size
    data = eca.ImageFolderDataModule(
        train=tmp_path / "images", train_crop="full", batch_size=4, num_workers=0
    )
    trainer = make_trainer(eca.ProgressiveResizing(32))
    with pytest.raises(ValueError, match=r"set data\.train_crop to random_resized_crop"):
        trainer.fit(classifier(), datamodule=data)
    assert trainer.global_step == 0
