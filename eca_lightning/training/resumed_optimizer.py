"""When a run resumes, the options of its optimizer and schedule are those that it was given.

torch restores them together with the state: a learning rate of the new command would be lost.
"""

from copy import deepcopy
from typing import Any

from torch.optim import Optimizer

_REMEDY = (
    "resume with the same, or start a new run from the weights alone, from which "
    "'eca-lightning import' makes a checkpoint"
)


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
        groups = zip(saved["groups"], given["groups"], state["param_groups"], strict=True)
        for old, new, group in groups:
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
