"""What runs do on GPUs unless told: choose cuDNN's algorithms by time and fuse the optimizer."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch.optim import SGD, Optimizer

from eca_lightning.utils.checks import require

_IMPLEMENTATIONS = ("foreach", "fused")
"""Options of torch's optimizers; None is torch's own choice."""


def set_benchmark(trainer_options: dict[str, Any], model: LightningModule) -> None:
    """Let cuDNN choose algorithms by their time if the images of the model have equal sizes.

    Raises:
        ValueError: If that is asked for together with exact repetition.
    """
    exact, fast = trainer_options.get("deterministic"), trainer_options.get("benchmark")
    require(not (exact and fast), "trainer.benchmark", "false with trainer.deterministic", fast)
    if fast is None:
        trainer_options["benchmark"] = not exact and getattr(model, "equal_sizes", False)


def fused_where_possible(optimizer: Optimizer, trainer: Trainer) -> Optimizer:
    """Return an optimizer of one kernel for all weights in place of SGD on GPUs.

    It is as given if an implementation is chosen, or gradients are clipped, which Lightning's mixed
    precision refuses to do before optimizers that can remove the scale of the loss themselves.

    Raises:
        ValueError: If gradients are to be clipped of a fused optimizer in mixed precision.
    """
    groups = optimizer.param_groups
    if trainer.gradient_clip_val:
        mixed = isinstance(trainer.precision_plugin, MixedPrecision)
        if mixed and any(group.get("fused") for group in groups):
            raise ValueError(
                "trainer.gradient_clip_val: Lightning clips no gradients of a fused optimizer in "
                "mixed precision: leave fused out of model.optimizer"
            )
        return optimizer
    chosen = any(group.get(name) is not None for group in groups for name in _IMPLEMENTATIONS)
    on_gpu = trainer.strategy.root_device.type == "cuda"
    if type(optimizer) is not SGD or chosen or not on_gpu:
        return optimizer
    plain = [{k: v for k, v in group.items() if k not in _IMPLEMENTATIONS} for group in groups]
    return SGD(plain, **optimizer.defaults | {"fused": True})
