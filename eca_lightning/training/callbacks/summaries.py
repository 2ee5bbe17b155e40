"""Helpers of the callbacks that write to TensorBoard."""

from typing import TYPE_CHECKING

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

if TYPE_CHECKING:  # its import takes half a second, which only a run that writes needs
    from torch.utils.tensorboard import SummaryWriter


def tensorboard_logger(trainer: Trainer) -> TensorBoardLogger | None:
    """Return the run's TensorBoard logger; None without one and in the sanity check."""
    if trainer.sanity_checking:
        return None
    loggers = (logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger))
    return next(loggers, None)


def summary_writer(trainer: Trainer) -> "SummaryWriter | None":
    """Return the logger's writer; on ranks other than zero, it is one that writes nothing."""
    logger = tensorboard_logger(trainer)
    return logger.experiment if logger else None


def is_logging_step(trainer: Trainer, step: int) -> bool:
    """Whether the metrics of an optimizer step, counted from 1, are logged."""
    interval = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return interval > 0 and step % interval == 0
