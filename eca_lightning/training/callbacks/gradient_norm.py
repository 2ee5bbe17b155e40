"""Log the global L2 norm of the gradients."""

from typing import Any

from lightning.pytorch import Callback
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from eca_lightning.training.callbacks.summaries import is_logging_step


class GradientNormMonitor(Callback):
    """Log ``train/gradient_norm``: the L2 norm of all gradients together, before clipping.

    It is computed at the logger's interval only, of the mean over ranks and accumulated batches,
    without the scale of the loss in float16 training.
    """

    logged_metrics = ("train/gradient_norm",)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Optimizer) -> None:
        """Log the norm if the next step is logged."""
        if not is_logging_step(trainer, trainer.global_step + 1):
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        # Lightning has unscaled the gradients, except for optimizers that do it on their own.
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            norm = norm / scaler.get_scale()
        pl_module.log("train/gradient_norm", norm)
