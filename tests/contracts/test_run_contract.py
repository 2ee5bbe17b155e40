"""A run that is resumed at any step continues as if it had never stopped."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from thorough import thorough

from eca_lightning import FFCVDataModule, ImageClassifier, ImageFolderDataModule, WarmupThenDecay
from eca_lightning.backbones import BackboneConfig
from eca_lightning.data.datasets.image_folder import write_image_folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Seventy pictures of noise in two classes."""
    folder = tmp_path_factory.mktemp("run") / "images"
    generator = np.random.default_rng(0)
    for name in ("first", "second"):
        (folder / name).mkdir(parents=True)
        for number in range(35):
            pixels = generator.integers(0, 256, (30, 34, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:02}.png")
    return folder


@pytest.fixture
def make_data(request, images):
    options = {"batch_size": 10, "image_size": 24, "num_workers": 0, "flip": True}
    if request.param == "folder":
        return lambda: ImageFolderDataModule(train=images, **options)
    pytest.importorskip("ffcv")
    beton = images.parent / "images.beton"
    write_image_folder(images, beton, mode="jpg", num_workers=1)
    options["num_workers"] = 2 if "2" in request.param else 1
    return lambda: FFCVDataModule(train=beton, **options)


def train(data, folder, checkpoint=None, interval="step"):
    """Two epochs of seven steps, with a checkpoint every third step."""
    seed_everything(0, verbose=False)
    model = ImageClassifier(
        BackboneConfig("resnet20", "eca", num_classes=2),
        lr_scheduler=WarmupThenDecay if interval == "step" else None,
        lr_interval=interval,
    )
    saver = ModelCheckpoint(folder, "{step:02}", every_n_train_steps=3, save_top_k=-1)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        callbacks=[saver],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=data, ckpt_path=checkpoint)
    return model.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make_data", "interval"),
    [
        ("ffcv, 2 threads", "epoch"),
        ("folder", "step"),
        *thorough(("ffcv, 1 thread", "step"), ("folder", "epoch")),
    ],
    indirect=["make_data"],
)
def test_resumed_at_any_checkpoint_ends_with_the_same_weights(make_data, tmp_path, interval):
    straight = train(make_data(), tmp_path / "straight", interval=interval)
    checkpoints = sorted(Path(tmp_path / "straight").glob("*.ckpt"))
    assert len(checkpoints) == 4  # after steps 3, 6, 9 and 12; epochs end after 7 and 14
    for checkpoint in checkpoints:
        resumed = train(make_data(), tmp_path / checkpoint.stem, checkpoint, interval)
        differing = [key for key in straight if not torch.equal(straight[key], resumed[key])]
        assert not differing, checkpoint.name
