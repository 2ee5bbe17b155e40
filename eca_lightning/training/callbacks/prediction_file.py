"""Base of the callbacks that write what ``eca-lightning predict`` has predicted."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info

from eca_lightning.training.resuming import require_writable
from eca_lightning.utils.distributed import gather_objects


class PredictionFile(BasePredictionWriter, ABC):
    """Write the predictions of all ranks to one file, when all images are done.

    Files that could not be read are named in the log.

    Args:
        output: The file. Default: ``default_name`` in the run's folder.

    Attributes:
        task: Class of the modules whose predictions it writes; of others it writes nothing.
        default_name: Name of the file in the run's folder.
        parts: What ``write_on_batch_end`` appends: the predictions of this rank.
        paths: The files of the images, where the data has some.
    """

    task: ClassVar[type[LightningModule]]
    default_name: ClassVar[str]

    def __init__(self, output: Path | None) -> None:
        super().__init__(write_interval="batch")
        self.output = output
        self.file = Path()
        self.paths: Sequence[Path] | None = None
        self.parts: list[Any] = []

    @abstractmethod
    def write(self, parts: list[Any], unreadable: Mapping[int, str], pl_module: Any) -> str:
        """Write the file, in the order of the data, and return what was written, for the log.

        Args:
            parts: The predictions of all ranks.
            unreadable: Why images could not be read, by their index.
            pl_module: The task.
        """

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the file, on all ranks, as a logger may ask them all for its folder.

        Raises:
            OSError: If it could not be written once all is predicted.
        """
        folder = trainer.log_dir or trainer.default_root_dir
        self.file = self.output or Path(folder, self.default_name)
        self.paths = getattr(getattr(trainer.predict_dataloaders, "dataset", None), "paths", None)
        self.parts = []
        if trainer.is_global_zero and isinstance(pl_module, self.task):
            require_writable(self.file.parent, "--output")

    def on_predict_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        """Keep the predictions of a batch."""
        if isinstance(pl_module, self.task):
            super().on_predict_batch_end(trainer, pl_module, *args)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather the predictions of all ranks and write them, if the task has not refused them."""
        if not isinstance(pl_module, self.task):
            return
        own: dict[int, str] = getattr(trainer.predict_dataloaders, "unreadable", {})
        gathered = gather_objects(trainer, (self.parts, own))
        self.parts = []
        if not trainer.is_global_zero:
            return
        parts = [part for predicted, _ in gathered for part in predicted]
        unreadable = dict(sorted(pair for _, failed in gathered for pair in failed.items()))
        written = self.write(parts, unreadable, pl_module)
        rank_zero_info(f"{written}: {self.file}")
        for reason in unreadable.values():
            rank_zero_info(reason)
        if unreadable:
            rank_zero_info(f"{len(unreadable)} images could not be read and were skipped")
