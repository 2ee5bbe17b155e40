"""Keep an exponential moving average of the weights.

Lightning's EMAWeightAveraging computes ``decay * average + (1 - decay) * weight``, which rounds
even where the two are equal: over a long run with a decay of 0.99998 the mean that images are
normalized with moves by 1e-3 of itself. Here the average is an interpolation, which leaves equal
values as they are and takes one kernel for many parameters. Lightning also counts updates on the
device, and the host waits for that count at each.
"""

from itertools import chain
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import nn

from eca_lightning.utils.checks import require


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
        name = type(self).__name__
        require(0 <= decay <= 1, f"{name}: decay", "from 0 to 1", decay)
        require(every_n_steps >= 1, f"{name}: every_n_steps", "at least 1", every_n_steps)
        super().__init__()
        self.decay, self.every_n_steps, self.warmup = decay, every_n_steps, warmup

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Update the average after an optimizer step."""
        step = trainer.global_step - 1
        if trainer.global_step > self._latest_update_step and step % self.every_n_steps == 0:
            self._latest_update_step = trainer.global_step
            self._update(pl_module, step // self.every_n_steps)

    @torch.no_grad()
    def _update(self, pl_module: LightningModule, number: int) -> None:
        decay = min(self.decay, (1 + number) / (10 + number)) if self.warmup else self.decay
        average: Any = self._average_model
        pairs = list(zip(_tensors(average.module), _tensors(pl_module), strict=True))
        if number == 0:
            for old, new in pairs:
                old.copy_(new)
            return
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        averages = [old for old, _ in floats]
        # With bf16-true and the like, Lightning copies the model before it converts it.
        torch._foreach_lerp_(averages, [new.to(old.dtype) for old, new in floats], 1 - decay)
        for old, new in pairs:
            if not old.is_floating_point():  # a count
                old.copy_(old * decay + new * (1 - decay))


def _tensors(module: nn.Module) -> Any:
    return chain(module.parameters(), module.buffers())
