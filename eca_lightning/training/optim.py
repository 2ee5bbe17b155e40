"""Optimizers and schedules: parameter groups, the length of a run, what resuming keeps."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from types import MappingProxyType
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from eca_lightning.utils.checks import require

_REMEDY = (
    "resume with the same, or start a new run from the weights alone, a classifier with "
    "--model.weights CHECKPOINT in place of --ckpt_path"
)


@contextmanager
def naming(option: str) -> Iterator[None]:
    """Name the option where torch refuses a value in it, such as a negative learning rate."""
    try:
        yield
    except (ArithmeticError, TypeError, ValueError) as error:
        raise ValueError(f"{option}: {error}") from error


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


def parameter_groups(
    module: nn.Module,
    no_decay_norm_bias: bool,
    lr_scales: Mapping[nn.Parameter, float] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """Sort the trainable parameters of a module into groups for an optimizer, each into one.

    With ``no_decay_norm_bias`` all parameters of normalization layers, and the biases of all
    others, are in groups with weight decay 0. Layers are recognized by type, not by name. A group
    whose learning rate is not the optimizer's has an ``lr_scale``, for `set_rates`.
    """
    sorted_: dict[tuple[bool, float], list[nn.Parameter]] = {(False, 1.0): []}
    seen: set[nn.Parameter] = set()  # to drop shared ones
    norms = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
    for layer in module.modules():
        for parameter in layer.parameters(recurse=False):
            is_bias = parameter is getattr(layer, "bias", None)
            spared = no_decay_norm_bias and (is_bias or isinstance(layer, norms))
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                key = (spared, lr_scales.get(parameter, 1.0))
                sorted_.setdefault(key, []).append(parameter)
    groups: list[dict[str, Any]] = []
    for (spared, scale), parameters in sorted_.items():
        options = {"weight_decay": 0.0} if spared else {}
        options |= {"lr_scale": scale} if scale != 1 else {}
        groups.append({"params": parameters, **options})
    return [group for group in groups if group["params"]] or groups


def set_rates(
    optimizer: Optimizer, found: float | None, base_batch_size: int | None, trainer: Trainer
) -> None:
    """Set the learning rates to what was found, or scale them to the batch, and by their groups.

    Args:
        optimizer: The optimizer, as it was built from its options.
        found: The rate that a search has found, if there was one.
        base_batch_size: Batch size that the optimizer's rate belongs to, if it is to be scaled.
        trainer: The trainer.

    Raises:
        ValueError: If the data module has no ``batch_size``, or the rate is NaN or infinite.
    """
    given, factor = optimizer.param_groups[0]["lr"], 1.0
    require(math.isfinite(given), "model.optimizer.lr", "a number", given)
    if not found and base_batch_size is not None:  # Goyal et al., arXiv 1706.02677
        batch = images_per_step(trainer)
        factor = batch / base_batch_size
        rank_zero_info(
            f"learning rate {given * factor:.4g}: scaled from {base_batch_size} images per step "
            f"to {batch}"
        )
    for group in optimizer.param_groups:
        group["lr"] = (found or group["lr"] * factor) * group.get("lr_scale", 1.0)


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


def built_options(optimizer: Optimizer, schedule: Any, interval: str) -> dict[str, Any]:
    """Describe an optimizer and its schedule before the first step, as plain data.

    Args:
        optimizer: The optimizer.
        schedule: Its learning rate schedule, or None.
        interval: What the schedule counts, ``step`` or ``epoch``.
    """
    groups = [
        {key: value for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]
    return {
        "optimizer": type(optimizer).__name__,
        "lr_scheduler": schedule and type(schedule).__name__,
        "lr_interval": schedule and interval,
        "tensors": [len(group["params"]) for group in optimizer.param_groups],
        "groups": deepcopy(groups),
        "schedule": deepcopy(schedule.state_dict()) if schedule else {},
    }


def keep_given_options(
    saved: dict[str, Any], given: dict[str, Any], checkpoint: dict[str, Any]
) -> list[str]:
    """Replace in a checkpoint's states, before they are restored, what this run gives otherwise.

    Progress, such as momenta and the number of steps, is kept; a learning rate that was decayed is
    so by the same factor.

    Args:
        saved: `built_options` of the run that wrote the checkpoint.
        given: Those of this run.
        checkpoint: Its ``optimizer_states`` and ``lr_schedulers`` are changed in place.

    Returns:
        The options that differ, each in a few words.

    Raises:
        ValueError: If the states are of another optimizer, schedule or set of trained weights.
    """
    for name in ("optimizer", "lr_scheduler", "lr_interval"):
        if saved[name] != given[name]:
            raise ValueError(
                f"model.{name} is {saved[name]} in the checkpoint and {given[name]} here: {_REMEDY}"
            )
    if saved["tensors"] != given["tensors"]:
        raise ValueError(
            f"the checkpoint trains groups of {saved['tensors']} tensors, and this run of "
            f"{given['tensors']} (no_decay_norm_bias, trainable_layers): {_REMEDY}"
        )
    old_steps, steps = (built["schedule"].get("total_steps") for built in (saved, given))
    if old_steps != steps:
        raise ValueError(
            f"the checkpoint's schedule has {old_steps} steps and this run's {steps}: "
            "resume with the same schedule, epochs, batch size and number of ranks"
        )
    changed: dict[str, None] = {}
    for state in checkpoint["optimizer_states"]:
        pairs = zip(saved["groups"], given["groups"], strict=True)
        # Behind them are groups that callbacks have added.
        for (old, new), group in zip(pairs, state["param_groups"], strict=False):
            peak = "initial_lr" if "initial_lr" in new else "lr"
            group["lr"] = _scaled(group["lr"], old[peak], new[peak])
            if old[peak] != new[peak]:
                changed[f"learning rate {old[peak]:.4g} -> {new[peak]:.4g}"] = None
            group |= _updated(old, new, group, ("lr", peak), changed) | {peak: new[peak]}
    for state in checkpoint["lr_schedulers"]:
        state |= _updated(saved["schedule"], given["schedule"], state, (), changed)
    return list(changed)


def _scaled(progress: Any, old: Any, new: Any) -> Any:
    return progress if old == new else progress / old * new if old else new


def _updated(
    old: Any, new: Any, state: Any, kept: tuple[str, ...], changed: dict[str, None]
) -> Any:
    """Return a state with the values that differ between the old and the new options."""
    updated = dict(state)
    for key in [key for key in new if key not in kept and new[key] != old.get(key)]:
        nested = isinstance(new[key], list) and len(new[key]) == len(old.get(key) or ())
        if key == "_last_lr":
            updated[key] = [_scaled(*lr) for lr in zip(state[key], old[key], new[key], strict=True)]
        elif nested and all(isinstance(entry, dict) for entry in new[key]):
            parts = zip(old[key], new[key], state[key], strict=True)
            updated[key] = [_updated(*part, (), changed) for part in parts]
        else:
            updated[key] = new[key]
            if not key.startswith("_") and key != "base_lrs":
                changed[f"{key} {old.get(key)} -> {new[key]}"] = None
    return updated
