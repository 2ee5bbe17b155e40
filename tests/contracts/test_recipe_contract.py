"""All that recipes are made of resumes in the middle of an epoch as if nothing had happened."""

from functools import partial

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import BackboneFinetuning, ModelCheckpoint
from PIL import Image
from thorough import thorough

from eca_lightning import (
    ExponentialMovingAverage,
    FocalLoss,
    ImageClassifier,
    ImageFolderDataModule,
    WarmupThenDecay,
)
from eca_lightning.backbones import BackboneConfig
from eca_lightning.classification.finetuning import FineTuning
from eca_lightning.classification.mixing import Mixing

pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Forty pictures of noise in two classes: five batches an epoch."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for name in ("first", "second"):
        (folder / name).mkdir()
        for number in range(20):
            pixels = generator.integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:02}.png")
    options = {"batch_size": 8, "image_size": 16, "resize_size": 16, "num_workers": 0}
    return partial(ImageFolderDataModule, train=folder, val=folder, flip=True, **options)


def quiet_trainer(folder, callbacks, **options):
    return Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )


def train(data, folder, checkpoint=None, *, model=None, trainer=None, callbacks=tuple, **options):
    """Two epochs, with a checkpoint every second step; the model and its trainer."""
    seed_everything(0, verbose=False)
    backbone = BackboneConfig("resnet20", "eca", num_classes=2)
    classifier = ImageClassifier(**({"backbone": backbone} | (model or {})))
    saver = ModelCheckpoint(folder, "{step}", every_n_train_steps=2, save_top_k=-1)
    run = quiet_trainer(folder, [saver, *callbacks()], max_epochs=2, **(trainer or {}))
    run.fit(classifier, datamodule=data(**options), ckpt_path=checkpoint)
    return classifier, run


def schedule(**options):
    """Options of a model with a schedule that goes by steps."""

    def build(optimizer, **horizon):
        return WarmupThenDecay(optimizer, **horizon, **options)

    return {"lr_scheduler": build, "lr_interval": "step"}


def lamb(parameters):
    return pytest.importorskip("timm.optim").Lamb(parameters, lr=5e-3, weight_decay=0.02)


def average():
    return [ExponentialMovingAverage(0.7, every_n_steps=3)]


RECIPES = {
    "linear": {"model": schedule(decay="linear", warmup_epochs=0.6)},
    "cosine": {"model": schedule(decay="cosine", warmup_epochs=0.6, warmup="cosine")},
    "step": {"model": schedule(decay="step", milestones=[0.6, 1], gamma=0.5)},
    "exponential": {"model": schedule(decay="exponential", gamma=0.5)},
    "mixing": {
        "model": {
            "mixing": Mixing(mixup=0.2, cutmix=1.0, probability=0.8),
            "loss": "binary_cross_entropy",
            "label_smoothing": 0.1,
        }
    },
    "dropout": {"model": {"backbone": BackboneConfig("mobilenet_v2", num_classes=2)}},
    "lamb": {"model": {"optimizer": lamb, "no_decay_norm_bias": True}},
    "average": {"callbacks": average},
    "accumulation": {
        "model": schedule(warmup_epochs=1),
        "trainer": {"accumulate_grad_batches": 2},
    },
    "freezing": {
        "model": {"finetuning": FineTuning(2, unfreeze_epoch=1, layer_decay=0.7)},
        "callbacks": average,
        "steps": (2, 6),
    },
    "callback": {
        "model": schedule(),
        "callbacks": lambda: [BackboneFinetuning(1)],
        "steps": (2, 6),
    },
    "imbalance": {"balanced_sampling": True, "model": {"loss": FocalLoss(1.5)}},
    "clipping": {"trainer": {"gradient_clip_val": 0.1}},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        *("mixing", "average", "accumulation", "linear"),
        *thorough("cosine", "step", "exponential", "dropout", "lamb", "clipping"),
    ],
)
def test_resumes_in_mid_epoch_to_the_same_weights(data, tmp_path, recipe):
    options = dict(RECIPES[recipe])
    steps = options.pop("steps", (2,))
    straight, _ = train(data, tmp_path / "straight", **options)
    expected = straight.state_dict()
    for step in steps:
        checkpoint = tmp_path / "straight" / f"step={step}.ckpt"
        resumed, _ = train(data, tmp_path / "resumed", checkpoint, **options)
        found = resumed.state_dict().items()
        assert not [key for key, value in found if not torch.equal(value, expected[key])], step


@pytest.mark.slow
def test_an_average_is_validated_and_saved(data, tmp_path):
    scores = ModelCheckpoint(tmp_path, "last", every_n_epochs=1)
    _, run = train(data, tmp_path, callbacks=lambda: [*average(), scores])
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    weight = "backbone.fc.weight"
    averaged, trained = checkpoint["state_dict"], checkpoint["current_model_state"]
    assert averaged.keys() == trained.keys()
    assert not torch.equal(averaged[weight], trained[weight])
    loaded = ImageClassifier.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert torch.equal(loaded.state_dict()[weight], averaged[weight])
    (figures,) = quiet_trainer(tmp_path, []).validate(loaded, datamodule=data(), verbose=False)
    assert figures == {name: run.callback_metrics[name].item() for name in figures}


@pytest.mark.slow
def test_checkpoints_every_few_steps_lie_between_accumulated_batches(data, tmp_path):
    """Gradients that wait for their step are in no checkpoint."""
    train(data, tmp_path, **RECIPES["accumulation"])
    for path in tmp_path.glob("*.ckpt"):
        loop = torch.load(path, weights_only=True)["loops"]["fit_loop"]
        batches = loop["epoch_loop.batch_progress"]["current"]["processed"]
        assert batches in (2, 4, 5), path.name
