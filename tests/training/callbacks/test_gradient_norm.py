"""The logged length of the gradient, beside one taken by hand."""

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from thorough import thorough

from eca_lightning import GradientNormMonitor


class ByHand(Callback):
    """Norms in float64, of all steps."""

    def __init__(self):
        self.norms = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        gradients = [p.grad.double().flatten() for p in pl_module.parameters()]
        self.norms.append(torch.cat(gradients).norm().item())


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"gradient_clip_val": 1e-3}, *thorough({}, {"accumulate_grad_batches": 2})],
    ids=["clipped", "plain", "accumulated"],
)
def test_is_the_norm_before_clipping(fit, options):
    by_hand = ByHand()
    events = fit(GradientNormMonitor(), by_hand, limit_val_batches=0, **options)
    assert events.scalars("train/gradient_norm") == pytest.approx(by_hand.norms, rel=1e-5)
    assert min(by_hand.norms) > 1e-3


def test_only_logged_steps_are_measured_in_a_resumed_run_as_well(fit, tmp_path):
    by_hand, every_second = ByHand(), {"log_every_n_steps": 2, "limit_val_batches": 0}
    first = fit(GradientNormMonitor(), by_hand, ModelCheckpoint(tmp_path, "last"), **every_second)
    checkpoint = tmp_path / "last.ckpt"
    second = fit(
        GradientNormMonitor(), by_hand, max_epochs=2, checkpoint=checkpoint, **every_second
    )
    norms = first.scalars("train/gradient_norm") + second.scalars("train/gradient_norm")
    assert norms == pytest.approx(by_hand.norms[1::2], rel=1e-5)  # steps 2, 4, ..., 10


def test_the_scale_of_float16_training_is_left_out(fit, classifier):
    norms = {}
    for scale in (1.0, 1024.0):
        model = classifier(optimizer=lambda p: torch.optim.SGD(p, lr=1e-3, fused=True))
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        precision = MixedPrecision("16-mixed", "cpu", scaler)
        options = {"plugins": precision, "limit_train_batches": 1, "limit_val_batches": 0}
        (norms[scale],) = fit(GradientNormMonitor(), model=model, **options).scalars(
            "train/gradient_norm"
        )
    assert norms[1024.0] == pytest.approx(norms[1.0], rel=0.05)
