"""Show the progress of a run: a bar on a terminal, lines in a log."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from math import inf
from time import perf_counter
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.utilities import rank_zero_info
from rich.console import Console

from eca_lightning.training.callbacks.summaries import is_logging_step

_FIRST_LINE = 20.0  # seconds: who starts a run wants to see that it goes
_NEXT_LINES = 120.0


class ProgressBar(RichProgressBar):
    """Show the progress of a run: a bar on a terminal; elsewhere lines, as a log holds.

    There is a line at each validation, after the first 20 seconds, and every two minutes. Metrics
    of training are those of the last step that was logged: Lightning reads what is logged with
    ``prog_bar`` at every step, for which the host waits for the GPU.

    Args:
        metrics: Names of metrics of training to show.
    """

    def __init__(
        self, metrics: Sequence[str] = ("train/loss", "train/images_per_s", "train/data_wait")
    ) -> None:
        super().__init__()
        self.metrics = tuple(metrics)
        self._shown: dict[str, float] = {}
        self._lines: _Lines | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose between the bar and lines."""
        super().setup(trainer, pl_module, stage)
        console = Console()
        if self.is_enabled and not (console.is_terminal or console.is_jupyter):
            self.disable()
            self._lines = _Lines()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> Any:
        """Return the metrics of training and validation."""
        self._read(trainer)
        shown = {**self._shown, **super().get_metrics(trainer, pl_module)}
        shown.pop("v_num", None)  # cut short, "version_0" would be "on_0"
        return shown

    def _read(self, trainer: Trainer) -> None:
        if trainer.training and is_logging_step(trainer, trainer.global_step):
            logged = trainer.callback_metrics
            self._shown = {name: logged[name].item() for name in self.metrics if name in logged}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Read the metrics of a logged step; write a line if one is due."""
        super().on_train_batch_end(trainer, pl_module, *args)
        if self._lines:
            self._read(trainer)
            self._lines.tick(*_place(trainer), self._shown)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a line with the scores as well."""
        super().on_validation_end(trainer, pl_module)
        if self._lines and trainer.state.fn == "fit" and not trainer.sanity_checking:
            logged = trainer.callback_metrics
            names = [name for name in logged if name.startswith("val/")]
            # Those of single classes, such as val/recall/cat, would fill the log.
            scores = {name: logged[name].item() for name in names if name.count("/") == 1}
            self._lines.write(*_place(trainer), {**self._shown, **scores})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read no metrics: rank zero alone would gather from the others, and wait for ever."""
        self.refresh()

    def on_validation_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Write a line if one is due, unless it is a validation amid training."""
        super().on_validation_batch_end(trainer, *args, **kwargs)
        if trainer.state.fn == "validate":
            self._evaluated("validation", sum(trainer.num_val_batches), args)

    def on_test_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Write a line if one is due."""
        super().on_test_batch_end(trainer, *args, **kwargs)
        self._evaluated("test", sum(trainer.num_test_batches), args)

    def on_predict_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Write a line if one is due."""
        super().on_predict_batch_end(trainer, *args, **kwargs)
        self._evaluated("prediction", sum(trainer.num_predict_batches), args)

    def _evaluated(self, what: str, total: float, arguments: Sequence[Any]) -> None:
        if self._lines:
            done = arguments[3] + 1  # model, outputs, batch, and its index
            self._lines.tick(f"{what}, batch {done:,} of {total:,}", done, total, {})


def _place(trainer: Trainer) -> tuple[str, int, float]:
    """Describe where a run of training is, and count its batches: those done and all."""
    loop: Any = trainer.fit_loop
    epoch, an_epoch = trainer.current_epoch, trainer.num_training_batches
    epochs = max(trainer.max_epochs or 0, 0)  # 0 if only the steps are limited
    done, total = loop.epoch_loop.batch_progress.current.ready, inf
    where = f"epoch {epoch + 1}" + (f" of {epochs}" if epochs else "")
    where += f", batch {done:,} of {an_epoch:,}"
    if an_epoch < inf:
        done += epoch * int(an_epoch)
        total = epochs * an_epoch if epochs else inf
    if trainer.max_steps > 0:
        total = min(total, trainer.max_steps * trainer.accumulate_grad_batches)
    return where, done, total


class _Lines:
    """Lines on the progress of one command, at most one in two minutes by its clock."""

    def __init__(self) -> None:
        self._due_at = perf_counter() + _FIRST_LINE
        self._first: tuple[int, float] | None = None  # a batch that was done, and when

    def tick(self, what: str, done: int, total: float, metrics: Mapping[str, float]) -> None:
        """Write a line if one is due, after a batch."""
        if self._first is None:  # which compiles and warms up, and so is no measure
            self._first = done, perf_counter()
        if perf_counter() >= self._due_at:
            self.write(what, done, total, metrics)

    def write(self, what: str, done: int, total: float, metrics: Mapping[str, float]) -> None:
        """Write a line, with the time that is left at the mean pace so far."""
        now = perf_counter()
        self._due_at = now + _NEXT_LINES
        shown = [
            f"{name} {value:{',.0f' if value >= 100 else '.4g'}}" for name, value in metrics.items()
        ]
        first, since = self._first or (done, now)
        if first < done < total < inf:
            seconds = round((total - done) * (now - since) / (done - first))
            shown.append(f"{timedelta(seconds=seconds)} left")
        rank_zero_info(f"{what}: {', '.join(shown)}")
