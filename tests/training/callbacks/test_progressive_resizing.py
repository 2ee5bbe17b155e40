"""The sizes of progressive resizing, on both kinds of data, resumed as well."""

import csv

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from eca_lightning import (
    FFCVDataModule,
    ImageClassifier,
    ImageFolderDataModule,
    ProgressiveResizing,
)
from eca_lightning.backbones import BackboneConfig
from eca_lightning.data.datasets.image_folder import write_image_folder


class Seen(Callback):
    """Remembers the shapes of the training batches."""

    def __init__(self):
        self.sizes = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.sizes.append((trainer.current_epoch, *batch[0].shape[2:]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for name, level in (("dark", 40), ("light", 200)):
        (folder / name).mkdir()
        for i in range(4):
            Image.new("RGB", (50 + i, 40), (level,) * 3).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(params=["folder", "ffcv", "two processes"])
def data(request, folder, tmp_path):
    options = {"batch_size": 4, "num_workers": 0, "seed": 0}
    if request.param == "ffcv":
        pytest.importorskip("ffcv")
        write_image_folder(folder, tmp_path / "images.beton", mode="raw", num_workers=1)
        return FFCVDataModule(train=tmp_path / "images.beton", **options)
    if request.param == "two processes":
        options["num_workers"] = 2
    return ImageFolderDataModule(train=folder, **options)


def fit(data, folder, epochs, checkpoint=None, **when):
    seen = Seen()
    torch.manual_seed(0)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=CSVLogger(folder, name="logs"),
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            ProgressiveResizing(32, 64, start_epoch=1, end_epoch=3, multiple=16),
            ModelCheckpoint(folder, "last", **when),
            seen,
        ],
    )
    model = ImageClassifier(BackboneConfig("resnet20", num_classes=2))
    trainer.fit(model, datamodule=data, ckpt_path=checkpoint)
    return seen.sizes, trainer.logger.log_dir


@pytest.mark.slow
def test_batches_grow_and_the_size_is_logged(data, tmp_path):
    sizes, logs = fit(data, tmp_path, epochs=4)
    expected = {0: 32, 1: 32, 2: 48, 3: 64}
    assert sizes == [(epoch, size, size) for epoch, size in expected.items() for _ in range(2)]
    with open(f"{logs}/metrics.csv") as file:
        logged = {row["train/image_size"] for row in csv.DictReader(file)} - {""}
    assert sorted(map(float, logged)) == [32, 48, 64]


@pytest.mark.slow
def test_resumed_run_goes_on_with_the_right_size(folder, tmp_path):
    data = ImageFolderDataModule(train=folder, batch_size=4, num_workers=0, seed=0)
    fit(data, tmp_path, epochs=2)
    sizes, _ = fit(data, tmp_path, epochs=4, checkpoint=tmp_path / "last.ckpt")
    assert sizes == [(2, 48, 48)] * 2 + [(3, 64, 64)] * 2


@pytest.mark.slow
def test_run_resumed_in_mid_epoch_goes_on_with_the_right_size(folder, tmp_path):
    data = ImageFolderDataModule(train=folder, batch_size=4, num_workers=0, seed=0)
    fit(data, tmp_path, epochs=3, every_n_train_steps=5)
    data = ImageFolderDataModule(train=folder, batch_size=4, num_workers=0, seed=0)
    sizes, _ = fit(data, tmp_path, epochs=4, checkpoint=tmp_path / "last.ckpt")
    assert sizes == [(2, 48, 48)] + [(3, 64, 64)] * 2


def test_sizes_are_those_of_ffcvs_recipe():
    """16 epochs of its ResNet-50: 160 up to epoch 11, 192 from 13 on, 5.5 x 32 between them."""
    callback = ProgressiveResizing(160, 192, start_epoch=11, end_epoch=13)
    assert [callback.size(epoch) for epoch in range(16)] == [160] * 12 + [192] * 4


def test_a_jump_needs_no_ramp():
    callback = ProgressiveResizing(128, 224, start_epoch=5, end_epoch=5)
    assert [callback.size(epoch) for epoch in (0, 4, 5, 9)] == [128, 128, 224, 224]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_size": 0}, r"min_size must be at least 1, got 0"),
        ({"min_size": 224, "max_size": 192}, r"max_size must be at least 224, got 192"),
        ({"min_size": 32, "start_epoch": -1}, r"start_epoch must be at least 0, got -1"),
        ({"min_size": 32, "start_epoch": 9, "end_epoch": 8}, r"end_epoch must be at least 9"),
        ({"min_size": 150}, "multiples of 32"),
    ],
)
def test_impossible_schedules_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ProgressiveResizing(**options)
