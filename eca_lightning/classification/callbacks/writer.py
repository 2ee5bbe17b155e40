"""Predictions as a table."""

from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch import Tensor

from eca_lightning.classification.task import ImageClassifier
from eca_lightning.data.epoch_loader import IndexedLoader
from eca_lightning.training.callbacks.unreadable import report_unreadable, unreadable_files
from eca_lightning.utils.distributed import gather_objects
from eca_lightning.utils.tables import Columns, Row, check_table, write_table

Best = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]
"""Indices of images (N,), and their best classes and the chances of these, both (N, top)."""


class PredictionWriter(BasePredictionWriter):
    """Writes ``eca-lightning predict``'s table: a row an image, its best classes and their chances.

    Columns: ``image`` (path, or index where the data has no paths), then ``class_1``,
    ``probability_1`` and so on, the most probable first, and ``error``. An image that could not be
    read has a row as well, whose ``error`` says why and which has no classes. The file
    appears when all images are done. It is for classifiers: other models' predictions are left to
    other callbacks.

    Args:
        output: The file to write: .csv, .jsonl (JSON lines) or .parquet. Default:
            ``predictions.csv`` in the run's folder.
        top: How many classes to write for each image.
    """

    def __init__(self, output: Path | None = None, top: int = 5) -> None:
        super().__init__(write_interval="batch")
        if top < 1:
            raise ValueError(f"predictions.top must be at least 1, got {top}")
        if output is not None:
            check_table(output, "predictions.output")
        self.output = output
        self.top = top
        self._file = Path()
        self._best: list[Best] = []

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out where to write, which all ranks must ask for together."""
        self._file = self.output or (
            Path(trainer.log_dir or trainer.default_root_dir) / "predictions.csv"
        )
        self._best = []

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
        """Keep the best of a batch; rows with index -1 only fill up a batch and are left out."""
        if not isinstance(pl_module, ImageClassifier):
            return
        loader: Any = trainer.predict_dataloaders
        if not batch_indices and not isinstance(loader, IndexedLoader):
            raise ValueError(
                "predictions need a loader that names the images of its batches, but "
                f"{type(loader).__name__} is neither a torch DataLoader of a map-style dataset nor "
                "has batch_indices"
            )
        # Lightning knows the indices of torch's loaders.
        indices = np.asarray(batch_indices or loader.batch_indices(batch_idx))
        top = torch.topk(prediction, min(self.top, prediction.shape[1]))
        real = indices >= 0
        labels, chances = top.indices.cpu().numpy(), top.values.cpu().numpy()
        self._best.append((indices[real], labels[real], chances[real]))

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Collect the rows of all ranks and write them, in the order of the data."""
        if not isinstance(pl_module, ImageClassifier):
            return
        best = [part for parts in gather_objects(trainer, self._best) for part in parts]
        unreadable = unreadable_files(trainer)
        self._best = []
        if not trainer.is_global_zero:
            return
        dataset = getattr(trainer.predict_dataloaders, "dataset", None)
        paths = getattr(dataset, "paths", None)
        names = pl_module.class_names
        columns: dict[str, type] = {"image": str if paths else int}
        for k in range(min(self.top, pl_module.hparams["backbone"]["num_classes"])):
            columns |= {f"class_{k + 1}": str if names else int, f"probability_{k + 1}": float}
        columns["error"] = str
        write_table(self._file, columns, _rows(columns, best, unreadable, names, paths))
        rank_zero_info(f"{sum(len(part[0]) for part in best)} predictions: {self._file}")
        report_unreadable(unreadable)


def _rows(
    columns: Columns,
    best: Sequence[Best],
    unreadable: Mapping[int, str],
    names: Sequence[str] | None,
    paths: Sequence[Path] | None,
) -> Iterator[Row]:
    """The rows of the table, in the order of the data."""
    read = (row for batch in best for row in zip(*batch, strict=True))
    failed = ((index, (), ()) for index in unreadable)
    for index, labels, chances in sorted((*read, *failed), key=itemgetter(0)):
        row: Row = dict.fromkeys(columns)
        row["image"] = _printable(str(paths[index])) if paths else int(index)
        for k, (label, chance) in enumerate(zip(labels, chances, strict=True), start=1):
            row[f"class_{k}"] = names[label] if names else int(label)
            row[f"probability_{k}"] = round(float(chance), 6)
        if index in unreadable:
            row["error"] = _printable(unreadable[index])
        yield row


def _printable(text: str) -> str:
    r"""Replace bytes of file names that are no UTF-8 by escapes such as ``\xff``."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
