"""The average against its definition, and that it leaves constants alone."""

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from thorough import thorough

from eca_lightning import ExponentialMovingAverage, ImageClassifier
from eca_lightning.backbones import BackboneConfig


class Weights(Callback):
    """Remembers a weight and a statistic of batch norm after each step, in float64."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        network = pl_module.backbone
        pair = (network.fc.weight, network.bn1.running_mean)
        self.values.append([t.detach().double().clone() for t in pair])


@pytest.mark.parametrize(
    ("every", "precision"), [(2, "bf16-true"), *thorough((1, "32-true"), (2, "32-true"))]
)
@pytest.mark.parametrize("warmup", [False, True])
def test_is_the_definition_and_constants_stay(tiny_data, tmp_path, every, precision, warmup):
    seen = Weights()
    torch.manual_seed(0)
    model = ImageClassifier(BackboneConfig("resnet20", num_classes=3))
    mean = model.mean.clone()
    trainer = Trainer(
        accelerator="cpu",
        precision=precision,
        default_root_dir=tmp_path,
        max_epochs=2,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[seen, ExponentialMovingAverage(0.8, every, warmup)],
    )
    trainer.fit(model, datamodule=tiny_data)
    expected = seen.values[0]
    for n, values in enumerate(seen.values[every::every], start=1):
        d = min(0.8, (1 + n) / (10 + n)) if warmup else 0.8
        expected = [d * e + (1 - d) * v for e, v in zip(expected, values, strict=True)]
    rtol, atol = (1e-2, 1e-3) if "bf16" in precision else (1e-5, 1e-6)
    found = (model.backbone.fc.weight, model.backbone.bn1.running_mean)
    for tensor, value in zip(found, expected, strict=True):
        torch.testing.assert_close(tensor.detach().double(), value, rtol=rtol, atol=atol)
    assert torch.equal(model.mean, mean.to(model.mean.dtype))


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match="every_n_steps must be at least 1"):
        ExponentialMovingAverage(every_n_steps=0)
    with pytest.raises(ValueError, match="decay"):
        ExponentialMovingAverage(decay=1.5)
