"""Write figures and texts to the loggers of a run, to each by its own API."""

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor


class Summaries:
    """The loggers of a run; each is given what it can show, on rank zero.

    Args:
        loggers: The loggers.
        step: Step to write at.
    """

    def __init__(self, loggers: list[Logger], step: int) -> None:
        self.loggers = loggers
        self.step = step

    def add_scalars(self, scalars: dict[str, Any]) -> None:
        """Write numbers by their names."""
        for logger in self.loggers:
            logger.log_metrics({name: float(value) for name, value in scalars.items()}, self.step)

    def add_text(self, tag: str, text: str) -> None:
        """Write a text in Markdown."""
        for logger in self.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text(tag, text, self.step)
            elif isinstance(logger, WandbLogger):
                from wandb import Html

                logger.log_metrics({tag: Html(f"<pre>{escape(text)}</pre>")}, self.step)
            elif isinstance(logger, MLFlowLogger):
                logger.experiment.log_text(logger.run_id, text, f"{tag}/{self.step:08}.md")

    def add_figure(self, tag: str, figure: "Figure") -> None:
        """Write a figure."""
        for logger in self.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure(tag, figure, self.step)
            elif isinstance(logger, WandbLogger):
                logger.log_image(tag, [figure], self.step)
            elif isinstance(logger, MLFlowLogger):
                logger.experiment.log_figure(logger.run_id, figure, f"{tag}/{self.step:08}.png")

    def add_histogram(self, tag: str, values: "Tensor", bins: np.ndarray) -> None:
        """Write a histogram; MLflow and CSV files have none."""
        for logger in self.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_histogram(tag, values, self.step, bins=bins)
            elif isinstance(logger, WandbLogger):
                from wandb import Histogram

                counted = Histogram(np_histogram=np.histogram(values.numpy(), bins))
                logger.log_metrics({tag: counted}, self.step)

    def add_custom_scalars(self, layout: dict[str, Any]) -> None:
        """Write the layout of TensorBoard's Custom Scalars page."""
        for logger in self.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_custom_scalars(layout)


def logged_step(trainer: Trainer) -> int:
    """Return the step at which Lightning logs a validation: that of the last training batch."""
    return max(trainer.global_step - 1, 0)


def summary_writer(trainer: Trainer) -> Summaries | None:
    """Return what writes to the run's loggers; None without any, and in the sanity check."""
    is_on = trainer.loggers and not trainer.sanity_checking
    return Summaries(trainer.loggers, logged_step(trainer)) if is_on else None


def is_logging_step(trainer: Trainer, step: int) -> bool:
    """Whether the metrics of an optimizer step, counted from 1, are logged."""
    interval = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return interval > 0 and step % interval == 0
