"""Keep the checkpoint from which a run resumes, and stop at a signal.

Lightning's ModelCheckpoint does not fit. In mid-epoch it saves before a validation that the resumed
run then skips; at a time interval it saves while gradients are accumulated, which are lost.
Lightning's signal handlers act at any place: several ranks wait for one another at different
places, and under Slurm they save within a step, to a folder where another run finds the file.
"""

import os
import signal
import subprocess
import threading
import time
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from eca_lightning.training.checkpoint_io import LAST, forget_foreign_files


class LastCheckpoint(Checkpoint):
    """Keep ``last.ckpt``, from which a run resumes as if it had not been stopped.

    It is written before each validation and at the end of each epoch, and also at intervals of
    steps or time, never while gradients are accumulated. SIGTERM and SIGUSR1 end the run at the
    next such place, or within a validation, whose checkpoint is written already; all ranks agree on
    it, whichever got the signal. The exit status is 128 plus the signal's number, which asks
    launchers to start the run again. At SIGUSR1 a Slurm job is requeued; not at SIGTERM, which
    ``scancel`` sends.

    Args:
        dirpath: Folder of the file. Default: that of the run's other checkpoints.
        every_n_train_steps: Interval in optimizer steps.
        train_time_interval: Interval in time.

    Raises:
        ValueError: If ``every_n_train_steps`` is below 1.
    """

    def __init__(
        self,
        dirpath: Path | None = None,
        every_n_train_steps: int | None = None,
        train_time_interval: timedelta | None = None,
    ) -> None:
        if every_n_train_steps is not None and every_n_train_steps < 1:
            raise ValueError(
                f"last_checkpoint.every_n_train_steps must be at least 1, got {every_n_train_steps}"
            )
        self.dirpath = dirpath
        self.every_n_train_steps = every_n_train_steps
        self.train_time_interval = train_time_interval
        self._path = Path(LAST)
        self._signal, self._validation_follows = 0, False
        self._saved_step: int | None = None
        self._saved_at = 0.0
        self._group: Any = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the folder, once the other checkpoints have theirs."""
        others = (c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint))
        default = Path(trainer.log_dir or trainer.default_root_dir, "checkpoints")
        self._path = Path(self.dirpath or next((c.dirpath for c in others), None) or default, LAST)
        self._signal = 0
        self._saved_step = None
        connector: Any = trainer._accelerator_connector
        if isinstance(connector.cluster_environment, SLURMEnvironment):
            # A signal that comes before ours are set ends the rank: nothing is trained yet, and
            # Lightning's handler would save to another folder.
            connector.cluster_environment.auto_requeue = False
        if trainer.world_size > 1 and self._group is None:
            # Through the hosts: an exchange between GPUs would wait for all their work.
            self._group = torch.distributed.new_group(backend="gloo")

    def on_sanity_check_start(self, *args: Any, **kwargs: Any) -> None:
        """Handle the signals in place of Lightning, which has just set its handlers."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGUSR1):
                signal.signal(number, self._receive)  # Lightning restores the old ones

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Handle the signals, start the clock, and check when validations come."""
        self.on_sanity_check_start()
        self._saved_at = time.monotonic()
        _check_validation_interval(trainer)
        # Lightning's own agreement on SIGTERM, which it does not get, waits for the GPU each batch.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._signal = number

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Save or stop, unless gradients are accumulated or a better place follows."""
        loop: Any = trainer.fit_loop.epoch_loop
        elsewhere = loop._should_accumulate() or loop.batch_progress.is_last_batch
        if elsewhere or loop._should_check_val_fx(trainer.fit_loop._data_fetcher):
            return
        due, number = self._agree(trainer)
        if due or number:
            self._save(trainer)
        self._stop(trainer, number)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save before the validation, so that a stop within it loses nothing."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._validation_follows = True
            self._save(trainer)
            self._validation_follows = False
            self._stop(trainer, self._agree(trainer)[1])

    def on_validation_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Stop, without the metrics of this validation."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._stop(trainer, self._agree(trainer)[1])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end of an epoch."""
        self._save(trainer)
        self._stop(trainer, self._agree(trainer)[1])

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: Any) -> None:
        """Have the resumed run do the validation that follows."""
        if self._validation_follows:
            # As if stopped in its first batch, which Lightning then starts again.
            stopped = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
            progress = {"total": stopped, "current": {**stopped}, "is_last_batch": False}
            checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"] = progress

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: Any) -> None:
        """Let no checkpoint name files outside of this run's folders."""
        forget_foreign_files(trainer, checkpoint)

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Log from where the run can be resumed."""
        if self._saved_step is not None and not isinstance(exception, SystemExit):
            rank_zero_info(
                f"The run ended at step {trainer.global_step}. {self._path} is of step "
                f"{self._saved_step}: resume from it with --ckpt_path auto"
            )

    def _agree(self, trainer: Trainer) -> tuple[bool, int]:
        """Return whether to save, and the signal to stop at or 0, the same on all ranks."""
        step, interval = trainer.global_step, self.train_time_interval
        due = interval is not None and time.monotonic() - self._saved_at >= interval.total_seconds()
        if self.every_n_train_steps is not None:
            due |= step % self.every_n_train_steps == 0 and step != self._saved_step
        if trainer.world_size == 1:
            return due, self._signal
        wishes = torch.tensor([int(due), self._signal])
        torch.distributed.all_reduce(wishes, torch.distributed.ReduceOp.MAX, self._group)
        save, number = wishes.tolist()
        return bool(save), number

    def _save(self, trainer: Trainer) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(self._path, weights_only=False)
            self._saved_step, self._saved_at = trainer.global_step, time.monotonic()

    def _stop(self, trainer: Trainer, number: int) -> None:
        """Exit with the status of the signal, if there was one."""
        if not number:
            return
        trainer.strategy.checkpoint_io.teardown()  # waits for what is written in the background
        trainer.strategy.barrier()
        rank_zero_info(
            f"{signal.Signals(number).name}: {self._path} is of step {trainer.global_step}; "
            "resume with the same command and --ckpt_path auto"
        )
        if number == signal.SIGUSR1 and trainer.is_global_zero and "SLURM_JOB_ID" in os.environ:
            _requeue()
        environment = getattr(trainer.strategy, "cluster_environment", None)
        if isinstance(environment, LightningEnvironment) and trainer.local_rank:
            # The first process has started this one, and is killed if it sees it fail.
            raise SystemExit(0)
        raise SystemExit(128 + number)


def _requeue() -> None:
    """Requeue this process's Slurm job."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or error
        rank_zero_warn(f"Slurm did not requeue job {job}: {reason}")
    else:
        rank_zero_info(f"Slurm has requeued job {job}")


def _check_validation_interval(trainer: Trainer) -> None:
    """Raise a ValueError if a validation would come while gradients are accumulated."""
    untyped: Any = trainer
    window, every = untyped.accumulate_grad_batches, untyped.val_check_batch
    batches = untyped.num_training_batches  # after which no gradients are accumulated
    if window == 1 or not untyped.enable_validation or every == float("inf"):
        return
    across_epochs = untyped.check_val_every_n_epoch is None and batches % window
    if every is not None and (every % batches == 0 or not (every % window or across_epochs)):
        return
    when = "at a time interval" if every is None else f"every {every} of {batches} batches"
    raise ValueError(
        f"a validation {when} comes while the gradients of {window} batches are accumulated, and "
        "its checkpoint would lose them: set trainer.val_check_interval to a number of batches, a "
        f"multiple of {window}"
    )
