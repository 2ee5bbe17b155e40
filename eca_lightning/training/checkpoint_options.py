"""The options of a model that a command leaves out are those of its checkpoint."""

import json
from collections.abc import Mapping, Sequence
from pkgutil import resolve_name
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.utilities import rank_zero_info

from eca_lightning.training.architecture import foreign_paths
from eca_lightning.training.task import VisionTask


def complete_model(
    parser: ArgumentParser,
    arguments: Sequence[str],
    options: Namespace,
    checkpoint: Mapping[str, Any],
) -> Namespace:
    """Parse a command again, its checkpoint's options as a config before all that it gives.

    Nothing that the checkpoint names is imported: the class of the model is the command's, and what
    is no plain data is left out. Models of other packages keep the options of the command.

    Args:
        parser: The parser of the commands.
        arguments: The command line.
        options: What it was parsed to, with ``ckpt_path`` and ``model``.
        checkpoint: Content of the checkpoint.

    Returns:
        The options of the model.

    Raises:
        ValueError: If the checkpoint's options are not the model's, or the command gives another
            architecture.
    """
    path, model = options["ckpt_path"], options["model"]
    task = resolve_name(model["class_path"])
    if not (isinstance(task, type) and issubclass(task, VisionTask)):
        return model
    saved = checkpoint.get("hyper_parameters", {})
    if not isinstance(saved.get(task.network_option), dict):
        raise ValueError(f"{path} holds {task.missing_network}")
    name = str(saved.get("_class_path", model["class_path"]))
    if name.rpartition(".")[2] not in [base.__name__ for base in task.__mro__]:
        raise ValueError(f"{path} is of {name}, and this run's model is {model['class_path']}")
    known = {k: v for k, v in task.saved_options(checkpoint).items() if _is_plain(v)}
    given = _init_args(model)
    kept = checkpoint.get("optimizer_options", {})
    for name in ("optimizer", "lr_scheduler"):
        ours, theirs = given.get(name), kept.get(name)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            is_same = theirs.get("class_path") == ours.get("class_path")  # never another
            known |= {name: theirs} if is_same and _is_plain(theirs.get("init_args")) else {}
    config = json.dumps({"model": {"class_path": model["class_path"], "init_args": known}})
    try:
        parsed = parser.parse_args([arguments[0], "--config", config, *arguments[1:]])
    except ValueError as error:
        raise ValueError(f"the options in {path} do not fit {task.__name__}: {error}") from error
    completed = parsed[arguments[0]]["model"]
    count = (
        f"init_args.{task.network_option}.num_classes"  # null in the config of a run: the data's
    )
    if completed.get(count, 0) is None:
        completed[count] = saved[task.network_option].get("num_classes")
    network = _init_args(completed)[task.network_option]
    ours = foreign_paths(given[task.network_option])
    for key, value in foreign_paths(network).items():
        if key not in ours:
            raise ValueError(
                f"{path} names {value} of another package, which is not imported unless you "
                f"trust it: give --model.{task.network_option}.{key} {value}"
            )
    if differences := task.architecture_differences(saved, _init_args(completed)):
        raise ValueError(f"{path} is of another architecture: {differences}")
    _report(str(path), _flat(given), _flat(_init_args(completed)), _flat(known))
    return completed


def _report(path: str, given: Any, completed: Any, saved: Any) -> None:
    """Say which options come from the checkpoint, and which of the command's differ from it."""
    taken = [f"{key} {value}" for key, value in completed.items() if value != given.get(key)]
    if taken:
        rank_zero_info(f"from {path}, as the command does not give them: {', '.join(taken)}")
    other = [
        f"{key} {completed[key]} ({value} in the checkpoint)"
        for key, value in saved.items()
        if key in completed and completed[key] != value
    ]
    if other:
        rank_zero_info(f"given otherwise than in {path}: {', '.join(other)}")


def _init_args(model: Namespace) -> dict[str, Any]:
    return json.loads(
        json.dumps(model["init_args"].as_dict() if "init_args" in model else {}, default=str)
    )


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in options.items():
        name = prefix + key.replace("init_args", "")
        flat |= (
            _flat(value, f"{name}.".replace("..", "."))
            if isinstance(value, dict)
            else {name: value}
        )
    return flat


def _is_plain(value: Any, depth: int = 20) -> bool:
    """Whether a value is made of numbers and text alone, and names no class to create."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value) or "class_path" in value:
            return False
        value = list(value.values())
    if isinstance(value, list | tuple):
        return depth > 0 and all(_is_plain(entry, depth - 1) for entry in value)
    return value is None or isinstance(value, str | int | float)
