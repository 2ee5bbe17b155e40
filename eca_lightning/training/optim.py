"""Optimizers and schedules: parameter groups, scaled learning rates and the length of a run."""

import math
from typing import Any

from lightning.pytorch import Trainer
from torch import nn
from torch.nn.modules.batchnorm import _NormBase


def images_per_step(trainer: Trainer) -> int:
    """Count the images of an optimizer step, over all ranks and accumulated batches.

    Raises:
        ValueError: If the data module has no ``batch_size``.
    """
    batch_size = getattr(getattr(trainer, "datamodule", None), "batch_size", None)
    if batch_size is None:
        raise ValueError(
            "lr_base_batch_size needs a data module with a batch_size: "
            "give one, or leave lr_base_batch_size out"
        )
    return batch_size * trainer.world_size * trainer.accumulate_grad_batches


def parameter_groups(module: nn.Module, no_decay_norm_bias: bool) -> list[dict[str, Any]]:
    """Sort the trainable parameters of a module into groups for an optimizer, each into one.

    With ``no_decay_norm_bias`` all parameters of normalization layers, and the biases of all
    others, are in a second group with weight decay 0. Layers are recognized by type, not by name.
    """
    decayed: dict[nn.Parameter, None] = {}  # dictionaries keep the order and drop shared ones
    exempt: dict[nn.Parameter, None] = {}
    norms = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
    for layer in module.modules():
        for parameter in layer.parameters(recurse=False):
            is_bias = parameter is getattr(layer, "bias", None)
            spared = no_decay_norm_bias and (is_bias or isinstance(layer, norms))
            if parameter.requires_grad:
                (exempt if spared else decayed)[parameter] = None
    groups: list[dict[str, Any]] = [{"params": list(decayed)}]
    if exempt:
        groups.append({"params": list(exempt), "weight_decay": 0.0})
    return groups


def horizon_in_steps(trainer: Trainer) -> dict[str, int]:
    """Count the optimizer steps: ``total_steps`` of the run and ``steps_per_epoch``.

    Raises:
        ValueError: If the length of the run or of its training set is unknown.
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
