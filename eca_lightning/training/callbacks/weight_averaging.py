"""Keep an exponential moving average of the weights.

Lightning's EMAWeightAveraging computes ``decay * average + (1 - decay) * weight``, which rounds
even where the two are equal: over a long run with a decay of 0.99998 the mean that images are
normalized with moves by 1e-3 of itself. Its base class lets the average be an interpolation, which
leaves equal values as they are and takes one kernel for many parameters.
"""

from collections.abc import Sequence

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class ExponentialMovingAverage(WeightAveraging):
    """Validate and save an average of the weights rather than the last ones.

    Batch norm's statistics are averaged as well. A checkpoint holds the averages as its weights,
    and the trained weights beside them, from which ``fit --ckpt_path`` resumes.

    Args:
        decay: Weight of the old average in the new one. torchvision's recipes give the decay per
            image: their ``model_ema_decay`` d corresponds to
            ``1 - (1 - d) * images per step * every_n_steps / epochs``.
        every_n_steps: Optimizer steps from one update to the next; the first is after step 1.
        warmup: Weigh the old average in update n by at most ``(1 + n) / (10 + n)``, as TensorFlow's
            ExponentialMovingAverage does, so that a run which is short for the decay ends with an
            average of its last tenth rather than of its beginning.

    Raises:
        ValueError: If a value is out of range.
    """

    def __init__(self, decay: float = 0.999, every_n_steps: int = 1, warmup: bool = False) -> None:
        if every_n_steps < 1:
            raise ValueError(
                f"ExponentialMovingAverage: every_n_steps must be at least 1, got {every_n_steps}"
            )
        get_ema_multi_avg_fn(decay)  # raises for a decay that is out of range

        def update(averages: Sequence[Tensor], weights: Sequence[Tensor], updates: int) -> None:
            # With bf16-true and the like, Lightning copies the model before it converts it.
            alike = [w.to(a.dtype) for a, w in zip(averages, weights, strict=True)]
            n = int(self._average_model.n_averaged)  # type: ignore[union-attr]  # on the host
            interpolate = get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)) if warmup else decay)
            interpolate(averages, alike, updates)

        super().__init__(multi_avg_fn=update)
        self.every_n_steps = every_n_steps

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move the average to the device, where Lightning's stays on the host; not its counter."""
        if self._average_model is not None:
            self._average_model.module.to(pl_module.device)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Whether to update after an optimizer step, from 0, or an epoch."""
        return step_idx is not None and step_idx % self.every_n_steps == 0
