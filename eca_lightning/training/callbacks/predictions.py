"""Predictions as a table."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from eca_lightning.files import unfinished
from eca_lightning.tasks.classification import ImageClassifier


class PredictionWriter(BasePredictionWriter):
    """Writes ``eca-lightning predict``'s CSV: a row an image, its best classes and their chances.

    Columns: ``image`` (path, or index where the data has no paths), then ``class_1``,
    ``probability_1`` and so on, the most probable first. The file appears when all images are done.
    It is for classifiers: other models' predictions are left to other callbacks.

    Args:
        output: The CSV file to write. Default: ``predictions.csv`` in the run's folder.
        top: How many classes to write for each image.
    """

    def __init__(self, output: Path | None = None, top: int = 5) -> None:
        super().__init__(write_interval="batch")
        if top < 1:
            raise ValueError(f"predictions.top must be at least 1, got {top}")
        self.output = output
        self.top = top
        self._rows: dict[int, list[Any]] = {}

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Tensor,
        batch_indices: Sequence[int] | None,
        batch: tuple[Tensor, Tensor],
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Keep the rows of a batch; rows with index -1 only fill up a batch and are left out."""
        if not isinstance(pl_module, ImageClassifier):
            return
        names = pl_module.class_names
        loader: Any = trainer.predict_dataloaders
        # Lightning knows the indices of torch's loaders; ours say them.
        indices = batch_indices or loader.batch_indices(batch_idx)
        top = torch.topk(prediction, min(self.top, prediction.shape[1]))
        for index, chances, classes in zip(
            map(int, indices), top.values.tolist(), top.indices.tolist(), strict=True
        ):
            if index >= 0:
                self._rows[index] = [
                    cell
                    for chance, label in zip(chances, classes, strict=True)
                    for cell in (names[label] if names else label, f"{chance:.6f}")
                ]

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Collect the rows of all ranks and write them, in the order of the data."""
        rows = self._rows
        self._rows = {}
        if trainer.world_size > 1:
            of_ranks: list[dict[int, list[Any]]] = [{} for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(of_ranks, rows)
            rows = {index: row for part in of_ranks for index, row in part.items()}
        if trainer.is_global_zero and rows:
            folder = Path(trainer.log_dir or trainer.default_root_dir)
            self._write(self.output or folder / "predictions.csv", rows, _paths(trainer))

    def _write(
        self, output: Path, rows: dict[int, list[Any]], paths: Sequence[Path] | None
    ) -> None:
        columns = len(next(iter(rows.values()))) // 2
        header = [f"{what}_{k + 1}" for k in range(columns) for what in ("class", "probability")]
        with unfinished(output) as part, part.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image", *header])
            writer.writerows([paths[i] if paths else i, *rows[i]] for i in sorted(rows))
        rank_zero_info(f"{len(rows)} predictions: {output}")


def _paths(trainer: Trainer) -> Sequence[Path] | None:
    return getattr(getattr(trainer.predict_dataloaders, "dataset", None), "paths", None)
