"""Write the predictions of a classifier to a table."""

from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Trainer
from numpy.typing import NDArray
from torch import Tensor

from eca_lightning.classification.task import ImageClassifier
from eca_lightning.data.epoch_loader import IndexedLoader
from eca_lightning.training.callbacks.prediction_file import PredictionFile
from eca_lightning.utils.checks import printable, require
from eca_lightning.utils.tables import Columns, Row, check_table, write_table

Best = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]
"""Indices of images (N,), their most probable classes and the probabilities, both (N, top)."""


class PredictionWriter(PredictionFile):
    """Write the table of ``eca-lightning predict``: one row per image, with its top classes.

    Columns: ``image`` (path, or index where the data has no paths), then ``class_1``,
    ``probability_1`` and so on, the most probable first, of equal ones the lower class, as accuracy
    counts them, and ``error``. An image that could not be
    read has a row without classes, whose ``error`` gives the reason.

    Args:
        output: The file to write: .csv, .jsonl (JSON lines) or .parquet. Default:
            ``predictions.csv`` in the run's folder.
        top: How many classes to write for each image.
    """

    task = ImageClassifier
    default_name = "predictions.csv"

    def __init__(self, output: Path | None = None, top: int = 5) -> None:
        super().__init__(output)
        require(top >= 1, "--top", "at least 1", top)
        if output is not None:
            check_table(output, "--output")
        self.top = top

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: Any,
        prediction: Tensor,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        *args: Any,
    ) -> None:
        """Keep the top classes of a batch; rows with index -1 only fill up a batch."""
        loader: Any = trainer.predict_dataloaders
        if not batch_indices and not isinstance(loader, IndexedLoader):
            raise ValueError(
                "predictions need a loader that names the images of its batches, but "
                f"{type(loader).__name__} is neither a torch DataLoader of a map-style dataset nor "
                "has batch_indices"
            )
        # Lightning knows the indices of torch's loaders.
        indices = np.asarray(batch_indices or loader.batch_indices(batch_idx))
        # torch.topk does not say which of equal ones it takes.
        ordered = prediction.sort(dim=1, descending=True, stable=True)
        labels, probabilities = (part[:, : self.top].cpu().numpy() for part in ordered[::-1])
        real = indices >= 0
        self.parts.append((indices[real], labels[real], probabilities[real]))

    def write(self, parts: list[Best], unreadable: Mapping[int, str], pl_module: Any) -> str:
        """Write the table."""
        names = pl_module.class_names
        columns: dict[str, type] = {"image": str if self.paths else int}
        for k in range(min(self.top, pl_module.num_classes)):
            columns |= {f"class_{k + 1}": str if names else int, f"probability_{k + 1}": float}
        columns["error"] = str
        write_table(self.file, columns, _rows(columns, parts, unreadable, names, self.paths))
        return f"{sum(len(part[0]) for part in parts)} predictions"


def _rows(
    columns: Columns,
    parts: Sequence[Best],
    unreadable: Mapping[int, str],
    names: Sequence[str] | None,
    paths: Sequence[Path] | None,
) -> Iterator[Row]:
    """Yield the rows of the table, in the order of the data."""
    read = (row for part in parts for row in zip(*part, strict=True))
    failed = ((index, (), ()) for index in unreadable)
    for index, labels, probabilities in sorted((*read, *failed), key=itemgetter(0)):
        row: Row = dict.fromkeys(columns)
        row["image"] = printable(str(paths[index])) if paths else int(index)
        for k, (label, probability) in enumerate(zip(labels, probabilities, strict=True), start=1):
            row[f"class_{k}"] = names[label] if names else int(label)
            row[f"probability_{k}"] = round(float(probability), 6)
        if index in unreadable:
            row["error"] = printable(unreadable[index])
        yield row
