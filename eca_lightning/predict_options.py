"""The options of commands that do not train, and what writes its predictions."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule

from eca_lightning import DetectionWriter, PredictionWriter

PREDICT_OPTIONS: dict[str, tuple[type, str]] = {
    "output": (Path, "file to write: .csv, .jsonl or .parquet (classifier), .json (detector)"),
    "top": (int, "classifier: number of classes to write for each image"),
    "annotated": (bool, "detector: whether to write annotated images"),
    "min_score": (float, "detector: minimum score of the objects that are drawn"),
}
"""The type of each option, and its help."""

EVALUATION_OPTIONS: dict[str, tuple[type, str]] = {
    "run": (Path, "a run's folder, for its config and best checkpoint; other options win"),
    "rename_classes": (bool, "take the data's class names where they differ from the checkpoint's"),
}
"""The same of ``validate``, ``test`` and ``predict``."""


def prediction_writer(model: LightningModule, options: Mapping[str, Any]) -> list[Callback]:
    """Create the writer that fits a model; none for models of other packages.

    Args:
        model: The model.
        options: Values of `PREDICT_OPTIONS`; None if an option is not given.

    Raises:
        ValueError: If an option is given that the writer does not have.
    """
    given = {name: value for name, value in options.items() if value is not None}
    writers: tuple[Any, ...] = (PredictionWriter, DetectionWriter)
    writer = next((w for w in writers if isinstance(model, w.task)), None)
    known = inspect.signature(writer).parameters if writer else {}
    for name in given.keys() - known.keys():
        raise ValueError(f"--{name} is not for {type(model).__name__}: leave it out")
    return [writer(**given)] if writer else []
