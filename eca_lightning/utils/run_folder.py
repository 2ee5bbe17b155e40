"""The folder of a run, ``runs/NAME/version_N``: its config and its checkpoints."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

TAKE_RUN = {
    **dict.fromkeys(("validate", "test", "predict"), "ckpt_path"),
    **dict.fromkeys(("export", "attention"), ""),
}
"""The commands that take ``--run``, and the option for the checkpoint where it is one."""

_KEPT = ("seed_everything", "model", "data", "trainer", "reports")
_LAST = ("last.ckpt", "last-previous.ckpt")


RECORD = "run.json"
"""What a run notes of itself, see `eca_lightning.runs.record.RunRecord`."""

_KINDS: dict[str, Any] = {
    **dict.fromkeys(("command",), list),
    **dict.fromkeys(("weights", "started", "updated", "state", "mode"), str),
    **dict.fromkeys(("epochs", "steps"), int),
    **dict.fromkeys(("max_epochs",), int | None),
    "monitor": str | None,
    "best": dict,
}
_MAX_BYTES = 1 << 20


def read_record(run: Path) -> dict[str, Any]:
    """Read what a run has noted of itself.

    Raises:
        OSError: If it has not.
        ValueError: If the file is damaged.
    """
    path = run / RECORD
    if not path.is_file() or path.stat().st_size > _MAX_BYTES:
        raise FileNotFoundError(f"{path} is no file of a run")
    try:
        record = json.loads(path.read_text("utf-8"))
        fits = isinstance(record, dict) and all(
            isinstance(record[name], kind) for name, kind in _KINDS.items()
        )
        fits = fits and all(isinstance(value, int | float) for value in record["best"].values())
    except (ValueError, KeyError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error
    if not fits:
        raise ValueError(f"{path} is damaged")
    return record


def find_run(folder: Path, option: str = "--run") -> Path:
    """Return the folder of a run, or of several of one name the one with the newest checkpoint.

    Args:
        folder: ``runs/NAME/version_N`` or ``runs/NAME``.
        option: What names it, for the message.

    Raises:
        FileNotFoundError: If there is none with a checkpoint.
    """
    runs = [run for run in (folder, *folder.glob("version_*")) if _checkpoints(run)]
    if not runs:
        what = "holds no run with a checkpoint" if folder.is_dir() else "does not exist"
        raise FileNotFoundError(
            f"{option}: {folder} {what}: give the folder of a run, such as runs/NAME/version_0"
        )
    return max(runs, key=lambda run: max(path.stat().st_mtime_ns for path in _checkpoints(run)))


def best_checkpoint(run: Path) -> Path:
    """Return the best checkpoint of a run; of one without validation the last.

    Raises:
        ValueError: If it is not known which is the best.
    """
    found = _checkpoints(run)
    named = [path for path in found if path.name == "best.ckpt"]
    best = named or [path for path in found if path.name not in _LAST] or found[:1]
    if len(best) > 1:
        names = ", ".join(path.name for path in best[:3])
        raise ValueError(
            f"--run: {best[0].parent} holds {len(best)} checkpoints ({names}, ...): choose one "
            "with --ckpt_path"
        )
    return best[0]


def read_config(run: Path) -> dict[str, Any]:
    """Read the config of a run.

    Raises:
        FileNotFoundError: If the folder holds none.
        ValueError: If it is none.
    """
    from eca_lightning.utils.yaml_files import read_yaml  # late, so that help is quick

    path = run / "config.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"--run: {run} holds no config.yaml: give config and checkpoint")
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ValueError(f"--run: {path} is not the config of a run")
    return content


def expand_run(arguments: Sequence[str]) -> list[str]:
    """Put the config and the best checkpoint of a run in place of ``--run DIR``.

    They come before all other arguments, which replace them.

    Raises:
        ValueError: If there is no such run.
    """
    command, *others = arguments
    given = [i for i, argument in enumerate(others) if argument.partition("=")[0] == "--run"]
    if command not in TAKE_RUN or not given:
        return list(arguments)
    place = given[-1]
    _, equals, folder = others[place].partition("=")
    taken = 1 if equals else 2
    folder = folder or "".join(others[place + 1 : place + 2])
    if not folder or folder.startswith("-"):
        raise ValueError("--run: give the folder of a run, such as runs/NAME/version_0")
    run = find_run(Path(folder))
    del others[place : place + taken]
    best = str(best_checkpoint(run))
    if option := TAKE_RUN[command]:
        config = yaml.safe_dump(_config_for(run), sort_keys=False)
        return [command, "--config", config, f"--{option}", best, *others]
    data = [str(run / "config.yaml")] if command == "attention" else []
    return [command, best, *data, *others]


def _config_for(run: Path) -> dict[str, Any]:
    """Return what other commands than ``fit`` know of a run's config, logging to its folder."""
    config = {key: value for key, value in read_config(run).items() if key in _KEPT}
    trainer = config.get("trainer")
    loggers = trainer.get("logger") if isinstance(trainer, dict) else None
    path = run.absolute()
    place = {"save_dir": str(path.parents[1]), "name": path.parent.name, "version": path.name}
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        options = logger.get("init_args") if isinstance(logger, dict) else None
        if isinstance(options, dict) and options.keys() >= place.keys():
            options |= place
    return config


def _checkpoints(run: Path) -> list[Path]:
    """Return the checkpoints of a run, the last one first."""
    folder = run / "checkpoints"
    return sorted(folder.glob("*.ckpt"), key=lambda path: (path.name not in _LAST, path.name))
