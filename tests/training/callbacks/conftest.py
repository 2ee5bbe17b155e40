"""Small runs and what they leave on TensorBoard."""

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from eca_lightning.backbones import BackboneConfig
from eca_lightning.tasks import ImageClassifier


class Events:
    """The events in a folder."""

    def __init__(self, folder):
        self.events = EventAccumulator(str(folder), size_guidance={"tensors": 0, "images": 0})
        self.events.Reload()

    def tags(self, kind):
        return self.events.Tags()[kind]

    def scalars(self, tag):
        return [event.value for event in self.events.Scalars(tag)]

    def steps(self, tag):
        return [event.step for event in self.events.Scalars(tag)]

    def texts(self, tag):
        events = self.events.Tensors(f"{tag}/text_summary")
        return [event.tensor_proto.string_val[0].decode() for event in events]


@pytest.fixture
def classifier():
    """A small ECA-Net for three classes, always with the same weights."""

    def make(attention="eca", **options):
        torch.manual_seed(0)
        return ImageClassifier(BackboneConfig("resnet20", attention, num_classes=3), **options)

    return make


@pytest.fixture
def make_trainer(tmp_path):
    """A quiet trainer on the CPU that logs each step to TensorBoard."""

    def make(*callbacks, **options):
        defaults = {
            "accelerator": "cpu",
            "max_epochs": 1,
            "log_every_n_steps": 1,
            "num_sanity_val_steps": 0,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": tmp_path,
        }
        if "logger" not in options:
            defaults["logger"] = TensorBoardLogger(tmp_path, default_hp_metric=False)
        return Trainer(**(defaults | options), callbacks=list(callbacks))

    return make


@pytest.fixture
def fit(make_trainer, classifier, tiny_data):
    """Train with some callbacks and return what TensorBoard got."""

    def run(*callbacks, model=None, checkpoint=None, **options):
        trainer = make_trainer(*callbacks, **options)
        trainer.fit(model or classifier(), datamodule=tiny_data, ckpt_path=checkpoint)
        return Events(trainer.logger.log_dir)

    return run
