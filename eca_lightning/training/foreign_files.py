"""Keep what a checkpoint names within the run's own folder."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor


def forget_foreign_files(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Cut the saved states of ModelCheckpoints to the files in the folders that they write to.

    Lightning removes, loads and uploads whatever files are named there.

    Raises:
        ValueError: If a state is not one of a ModelCheckpoint.
    """
    states = checkpoint.get("callbacks", {})
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.state_key in states:
            states[callback.state_key] = _own_state(callback, states[callback.state_key])


def _own_state(callback: ModelCheckpoint, state: dict[str, Any]) -> dict[str, Any]:
    saved = state.get("best_k_models", {})
    if not isinstance(saved, dict):
        raise ValueError(f"the checkpoint's state of {callback.state_key} is damaged")
    scores = {path: score for path, score in saved.items() if _is_in(path, callback.dirpath)}
    if not all(isinstance(score, Tensor) and score.numel() == 1 for score in scores.values()):
        raise ValueError(f"the checkpoint's scores of {callback.state_key} are no numbers")
    worst, best = (max, min) if callback.mode == "min" else (min, max)
    names = ("kth_best_model_path", "best_model_path", "last_model_path")
    own = {name: str(state.get(name, "")) for name in names}
    own = {name: path if _is_in(path, callback.dirpath) else "" for name, path in own.items()}
    if state.get("kth_best_model_path") and own["kth_best_model_path"] not in scores:
        own["kth_best_model_path"] = worst(scores, key=lambda path: scores[path], default="")
    if not own["best_model_path"]:
        own["best_model_path"] = best(scores, key=lambda path: scores[path], default="")
    return {
        "dirpath": state.get("dirpath"),
        "best_k_models": scores,
        "kth_value": scores.get(own["kth_best_model_path"], callback.kth_value),
        "best_model_score": scores.get(own["best_model_path"]),
        **own,
    }


def _is_in(path: Any, folder: Any) -> bool:
    """Whether a checkpoint lies in a folder, whatever links there are on the way."""
    if "://" in f"{path}{folder}":
        return str(path).rpartition("/")[0] == str(folder).rstrip("/")
    try:
        inside = Path(path).resolve().is_relative_to(Path(folder).resolve())
    except (OSError, RuntimeError, TypeError, ValueError):  # no path, or a ring of links
        return False
    return inside and str(path).endswith(".ckpt")
