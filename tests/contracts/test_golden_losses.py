"""The losses of three short runs are those of the day when they were written down.

A change that moves them changes what every recipe trains, so that they are written anew only on
purpose, by ``WRITE_GOLDEN=1 pytest tests/contracts/test_golden_losses.py``, with a word in the
commit about why they moved.
"""

import os
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything

from eca_lightning import ExponentialMovingAverage, ImageClassifier, WarmupThenDecay
from eca_lightning.backbones import BackboneConfig
from eca_lightning.classification.mixing import Mixing

GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = 1e-5  # relative; other processors sum in another order


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-4)


def triangle(optimizer, **horizon):
    return WarmupThenDecay(
        optimizer, **horizon, decay="linear", warmup_epochs=2, start_fraction=1e-4
    )


def cosine(optimizer, **horizon):
    return WarmupThenDecay(optimizer, **horizon, decay="cosine", warmup_epochs=1)


def paper():
    """The paper's: SGD, and a tenth of the learning rate from an epoch on."""
    backbone = BackboneConfig("resnet20", "eca", num_classes=3)
    schedule = torch.optim.lr_scheduler.StepLR
    model = ImageClassifier(backbone, sgd, lambda optimizer: schedule(optimizer, 2, 0.1))
    return model, []


def ffcv():
    """FFCV's: a triangle, label smoothing, blur pooling, mirror images in validation."""
    model = ImageClassifier(
        BackboneConfig("resnet20", "eca", num_classes=3, blur_pool=True),
        sgd,
        triangle,
        lr_interval="step",
        no_decay_norm_bias=True,
        label_smoothing=0.1,
        flip_tta=True,
    )
    return model, []


def modern():
    """A modern one: binary cross-entropy on mixtures, a cosine, the average of the weights."""
    model = ImageClassifier(
        BackboneConfig("resnet20", "eca", num_classes=3),
        sgd,
        cosine,
        lr_interval="step",
        no_decay_norm_bias=True,
        loss="binary_cross_entropy",
        mixing=Mixing(mixup=0.1, cutmix=1.0),
    )
    return model, [ExponentialMovingAverage(0.8, every_n_steps=2)]


class Losses(Callback):
    """Remembers the loss of each training step."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.values.append(outputs["loss"].item())


def losses(recipe, data, folder):
    """The training losses of 20 steps, and the validation's after them."""
    seed_everything(0, verbose=False)
    model, callbacks = recipe()
    seen = Losses()
    trainer = Trainer(
        accelerator="cpu",
        precision="64-true",  # in float32, the order of a sum decides which ReLU lets through
        default_root_dir=folder,
        max_epochs=4,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[seen, *callbacks],
    )
    trainer.fit(model, datamodule=data)
    return [*seen.values, trainer.callback_metrics["val/loss"].item()]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [paper, ffcv, modern], ids=lambda recipe: recipe.__name__)
def test_losses_are_the_golden_ones(recipe, tiny_data, tmp_path):
    found = losses(recipe, tiny_data, tmp_path)
    path = GOLDEN / f"{recipe.__name__}.txt"
    if os.environ.get("WRITE_GOLDEN"):
        path.write_text("".join(f"{value:.9g}\n" for value in found))
    golden = [float(line) for line in path.read_text().splitlines()]
    assert len(golden) == 21
    assert found == pytest.approx(golden, rel=TOLERANCE)
