"""Helpers of the callbacks that write to TensorBoard."""

from typing import TYPE_CHECKING, Any

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
    """Return the writer of :func:`tensorboard_logger`.

    Ranks other than zero get one that writes nothing, so that all ranks call the same collective
    operations.
    """
    logger = tensorboard_logger(trainer)
    return logger.experiment if logger else None


def is_logging_step(trainer: Trainer, step: int) -> bool:
    """Whether the metrics of an optimizer step, counted from 1, are logged."""
    untyped: Any = trainer
    interval = untyped.log_every_n_steps
    return interval > 0 and step % interval == 0
