"""Log images per second, and the fraction of the time that training waits for data.

Lightning's ThroughputMonitor does not fit: it synchronizes with the GPU at every step, does not
measure the data loading, counts batches of different sizes as equal, and needs a function that YAML
cannot hold.
"""

from time import perf_counter
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from eca_lightning.training.callbacks.summaries import is_logging_step

FETCH = "train_dataloader_next"
"""End of the name under which Lightning's loop profiles the loading of a batch."""


class SpeedMonitor(Callback):
    """Log ``train/images_per_s`` and ``train/data_wait``.

    Both are means over the steps since they were last logged. The images of all ranks are counted.
    The wait is the fraction of the time, from 0 to 1, in which the training loop only waits for the
    loader, on the rank that waits most: if it is far from 0, the GPU is idle, and the loader needs
    more workers or images that are cheaper to decode. Validation and checkpoints count for neither.
    """

    logged_metrics = ("train/images_per_s", "train/data_wait")

    def __init__(self) -> None:
        self._profiler: Any = None
        self._restart(step=0)

    def _restart(self, step: int, now: float | None = None) -> None:
        self._images, self._seconds, self._waited, self._asked_at = 0, 0.0, 0.0, 0.0
        self._running_since, self._logged_step = now, step

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Measure the time in which the loop, by its calls of the profiler, waits for data."""
        if stage != "fit" or self._profiler is not None:
            return
        profiler = self._profiler = trainer.profiler  # type: ignore[attr-defined]
        start, stop = profiler.start, profiler.stop

        def start_and_note(action_name: str) -> None:
            start(action_name)
            if action_name.endswith(FETCH):
                self._asked_at = perf_counter()
                if self._running_since is None:
                    self._running_since = self._asked_at

        def stop_and_note(action_name: str) -> None:
            if action_name.endswith(FETCH):
                self._waited += perf_counter() - self._asked_at
            stop(action_name)

        # Not a profiler around the profiler: the trainer and its user would miss the one they set.
        profiler.start, profiler.stop = start_and_note, stop_and_note

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        """Restore the profiler."""
        if self._profiler is not None:
            del self._profiler.start, self._profiler.stop
            self._profiler = None

    on_exception = teardown

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget another run."""
        self._restart(trainer.global_step)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock until the next training batch is loaded."""
        if self._running_since is not None:
            self._seconds += perf_counter() - self._running_since
            self._running_since = None

    on_train_epoch_end = on_validation_start

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Count the images of a batch, and log at the logger's interval."""
        self._images += len(batch[0])
        step = trainer.global_step  # unchanged while gradients are accumulated
        if step == self._logged_step or not is_logging_step(trainer, step):
            return
        now = perf_counter()
        seconds = (
            self._seconds + now - (now if self._running_since is None else self._running_since)
        )
        speed, wait = self._images / seconds, self._waited / seconds
        pl_module.log("train/images_per_s", speed, sync_dist=True, reduce_fx="sum")
        pl_module.log("train/data_wait", wait, sync_dist=True, reduce_fx="max")
        self._restart(step, now)
