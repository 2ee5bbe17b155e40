"""Optimizers and schedules: parameter groups, scaled learning rates and the length of a run."""

import math
from collections.abc import Callable
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def build_optimizer(
    module: LightningModule,
    optimizer: Callable[[list[dict[str, Any]]], Optimizer],
    lr_scheduler: Callable[..., Any] | None,
    lr_interval: Literal["epoch", "step"],
    lr_base_batch_size: int | None,
    no_decay_norm_bias: bool,
) -> OptimizerLRScheduler:
    """Build what a task's ``configure_optimizers`` returns.

    Args:
        module: The task, which a trainer is about to fit.
        optimizer: Builds the optimizer from parameter groups.
        lr_scheduler: Builds the schedule from the optimizer; none if None.
        lr_interval: How often the schedule advances. With ``step`` it is also given what
            :func:`horizon_in_steps` returns.
        lr_base_batch_size: Images a step that the optimizer's learning rate belongs to; if None,
            it is not scaled to the run's.
        no_decay_norm_bias: As for :func:`parameter_groups`.

    Raises:
        ValueError: If the run lacks what scaling or schedule must know.
    """
    built = optimizer(parameter_groups(module, no_decay_norm_bias))
    if lr_base_batch_size is not None:
        batch = images_a_step(module.trainer)
        lr = scale_learning_rate(built, batch, lr_base_batch_size)
        rank_zero_info(
            f"learning rate {lr:.4g}: scaled from {lr_base_batch_size} images a step "
            f"to this run's {batch}"
        )
    if lr_scheduler is None:
        return {"optimizer": built}
    horizon = horizon_in_steps(module.trainer) if lr_interval == "step" else {}
    schedule = lr_scheduler(built, **horizon)
    return {
        "optimizer": built,
        "lr_scheduler": {
            "scheduler": schedule,
            "interval": lr_interval,
            "monitor": getattr(schedule, "monitor", None),  # ReduceLROnPlateau has one
        },
    }


def images_a_step(trainer: Trainer) -> int:
    """Count the images of an optimizer step, over all ranks and accumulated batches.

    Raises:
        ValueError: If the data does not tell its batch size.
    """
    batch_size = getattr(getattr(trainer, "datamodule", None), "batch_size", None)
    if batch_size is None:
        raise ValueError(
            "lr_base_batch_size needs a data module with a batch_size: "
            "give one, or leave lr_base_batch_size out"
        )
    return batch_size * trainer.world_size * trainer.accumulate_grad_batches


def parameter_groups(module: nn.Module, no_decay_norm_bias: bool) -> list[dict[str, Any]]:
    """Sort the trainable parameters of a module into groups for an optimizer.

    Args:
        module: The module to be trained.
        no_decay_norm_bias: Put all parameters of normalization layers, and the biases of all
            others, into a group of their own with weight decay 0. Layers are told by their type,
            so that no naming habit can defeat it.

    Returns:
        One group, or two with the exempt one last; no parameter is in both.
    """
    decayed: dict[nn.Parameter, None] = {}  # dictionaries keep the order and drop shared ones
    exempt: dict[nn.Parameter, None] = {}
    for layer in module.modules():
        for parameter in layer.parameters(recurse=False):
            is_bias = parameter is getattr(layer, "bias", None)
            spared = no_decay_norm_bias and (is_bias or isinstance(layer, _NORMS))
            if parameter.requires_grad:
                (exempt if spared else decayed)[parameter] = None
    groups: list[dict[str, Any]] = [{"params": list(decayed)}]
    if exempt:
        groups.append({"params": list(exempt), "weight_decay": 0.0})
    return groups


def scale_learning_rate(optimizer: Optimizer, batch: int, reference_batch: int) -> float:
    """Apply the linear scaling rule (Goyal et al., arXiv 1706.02677) to every group, in place.

    Args:
        optimizer: Its learning rates belong to ``reference_batch``.
        batch: Images that one optimizer step sees, over all ranks and accumulated batches.
        reference_batch: Images a step that the learning rate was chosen for.

    Returns:
        The scaled learning rate of the first group.
    """
    for group in optimizer.param_groups:
        group["lr"] *= batch / reference_batch
    return optimizer.param_groups[0]["lr"]


def horizon_in_steps(trainer: Trainer) -> dict[str, int]:
    """Count the optimizer steps that a schedule is stretched over.

    Args:
        trainer: A trainer that is about to fit.

    Returns:
        ``total_steps`` of the run and ``steps_per_epoch``.

    Raises:
        ValueError: If the run or its training set has no known end.
    """
    total_steps = trainer.estimated_stepping_batches  # sets num_training_batches as well
    batches = trainer.num_training_batches
    if math.isinf(total_steps) or math.isinf(batches):
        raise ValueError(
            "lr_interval: step needs a run and a training set of known length: "
            "set trainer.max_epochs, or leave lr_interval out"
        )
    # Lightning steps after the last batch of an epoch, however few batches it has accumulated.
    steps_per_epoch = math.ceil(batches / trainer.accumulate_grad_batches)
    return {"total_steps": int(total_steps), "steps_per_epoch": steps_per_epoch}
