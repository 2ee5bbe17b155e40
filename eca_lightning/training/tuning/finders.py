"""Find the learning rate and the batch size of a run by Lightning's finders, once.

What is found stands in the run's checkpoints, so that a resumed run goes on with it. Lightning's
callbacks search again, lose the state of the optimizer, and leave a schedule as it was.
"""

import math
from abc import ABC, abstractmethod
from itertools import chain
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning, BatchSizeFinder, LearningRateFinder
from lightning.pytorch.utilities import rank_zero_info
from torch.optim import Optimizer

from eca_lightning.utils.checks import require

_FINDERS = (LearningRateFinder, BatchSizeFinder)
_NEVER = 2**31


class _Once(ABC):
    """Mixin of a finder that searches in a new run, and keeps what it found."""

    option: str
    state_key: str
    found: float | None = None
    searched: bool = False

    def state_dict(self) -> dict[str, Any]:
        """Return what was found."""
        return {"found": self.found}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: Any) -> None:
        """Use what was found when the run began.

        Raises:
            ValueError: If nothing was.
        """
        if self.searched:  # the finder restores what was before the search
            return
        value = checkpoint["callbacks"].get(self.state_key, {}).get("found")
        if not isinstance(value, float | int) or not 0 < value < math.inf:
            raise ValueError(
                f"--{self.option} searches in a new run, and the checkpoint is of a run without a "
                "search: leave it out"
            )
        self.found = value
        self.use(trainer, pl_module)

    @abstractmethod
    def use(self, trainer: Trainer, pl_module: Any) -> None:
        """Have the run use what was found."""


class LearningRateSearch(_Once, LearningRateFinder):
    """Train for 100 steps at rates that rise from 1e-6 to 1, and take that of the steepest descent.

    The descent is that of the smoothed loss over the logarithm of the rate, up to the smallest loss
    (Smith, arXiv 1506.01186). Weights whose rate is a fraction of the optimizer's are trained at
    that fraction. All are then what they were before.
    """

    option = "find_lr"

    def __init__(self) -> None:
        super().__init__(min_lr=1e-6, update_attr=False)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Search, unless the run has.

        Raises:
            ValueError: If the run is too short.
        """
        if self.found is not None or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        steps = trainer.estimated_stepping_batches
        require(steps >= 100, "--find_lr: the optimizer steps of the run", "at least 100", steps)
        self.searched = True
        every, trainer.check_val_every_n_epoch = trainer.check_val_every_n_epoch, _NEVER
        hook = trainer.optimizers[0].register_step_pre_hook(_scale_rates)
        super().on_fit_start(trainer, pl_module)
        hook.remove()
        trainer.check_val_every_n_epoch = every
        assert self.optimal_lr is not None  # noqa: S101
        results = self.optimal_lr.results
        self.found = steepest(results["lr"], results["loss"])
        self.use(trainer, pl_module)

    def use(self, trainer: Trainer, pl_module: Any) -> None:
        """Set the learning rate."""
        pl_module.lr = self.found
        rank_zero_info(f"learning rate {self.found:.3g}: found by --find_lr")


def _scale_rates(optimizer: Optimizer, *_: Any) -> None:
    """Scale the rate, which Lightning's schedule sets alike for all groups before each step."""
    for group in optimizer.param_groups:
        group["lr"] *= group.get("lr_scale", 1.0)


class BatchSizeSearch(_Once, BatchSizeFinder):
    """Double the batch size from 2 until the GPU's memory is full, and take the last that fits.

    It stays below an eighth of the training images: larger batches leave too few steps.
    """

    option = "find_batch_size"

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Search, unless the run has.

        Raises:
            ValueError: If there is no GPU, or there are too few images.
        """
        if self.found is not None or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        device = _device(trainer)
        require(device == "cuda", "--find_batch_size: the device", "a GPU", device)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        steps = trainer.estimated_stepping_batches / max(trainer.max_epochs or 1, 1)
        most = int(steps * trainer.accumulate_grad_batches * data.batch_size) // 8
        require(most >= 2, "--find_batch_size: an eighth of the training images", "2 or more", most)
        self._max_trials, self.searched = int(math.log2(most)), True
        # Lightning makes its first trial with the loader that a schedule has asked for.
        data.batch_size, trainer.fit_loop._combined_loader = self._init_val, None
        super().on_fit_start(trainer, pl_module)
        self.found = self.optimal_batch_size
        self.use(trainer, pl_module)

    def use(self, trainer: Trainer, pl_module: Any) -> None:
        """Set the batch size."""
        trainer.datamodule.batch_size = self.found  # type: ignore[attr-defined]
        rank_zero_info(f"batch size {self.found}: found by --find_batch_size")


def _device(trainer: Trainer) -> str:
    return trainer.strategy.root_device.type


def steepest(rates: list[float], losses: list[float]) -> float:
    """Return the rate at which the loss falls fastest over the logarithm of the rate.

    Lightning's suggestion is that over the rate itself, which is next to the smallest rate for any
    noise in the loss.

    Args:
        rates: Increasing rates.
        losses: The loss at each.

    Raises:
        ValueError: If the loss does not fall.
    """
    finite = np.isfinite(losses)
    x, y = np.log(np.array(rates)[finite]), np.array(losses)[finite]
    skipped = len(y) // 10  # the average of the first losses is noise
    lowest = skipped + int(np.argmin(y[skipped:])) if len(y) else 0
    if lowest < skipped + 3:
        raise ValueError(
            "--find_lr: the loss falls at no learning rate from 1e-6 to 1: set "
            "model.optimizer.lr yourself"
        )
    slope = np.gradient(y, x)[skipped:lowest]
    return float(np.exp(x[skipped + int(np.argmin(slope))]))


def require_new_run(trainer: Trainer) -> None:
    """Raise a ValueError if one of Lightning's finders would search when a run resumes."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, _FINDERS) and not isinstance(callback, _Once) and trainer.ckpt_path:
            raise ValueError(
                f"{type(callback).__name__} would search again, and lose the optimizer's state: "
                "leave it out of a resumed run, or take --find_lr or --find_batch_size"
            )


def follow_callbacks(trainer: Trainer) -> bool:
    """Build the optimizer for what a finder has found, and train what was unfrozen before a stop.

    BaseFinetuning restores the groups of the optimizer, and leaves their weights frozen.

    Returns:
        Whether a finder has searched, and so the run is new.
    """
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    searched = any(isinstance(c, _FINDERS) and getattr(c, "searched", True) for c in callbacks)
    if searched:
        trainer._checkpoint_connector._ckpt_path = None  # of the state before the search
        trainer.strategy.setup_optimizers(trainer)
    if any(isinstance(callback, BaseFinetuning) for callback in callbacks):
        for group in chain.from_iterable(o.param_groups for o in trainer.optimizers):
            for parameter in group["params"]:
                parameter.requires_grad_(True)
    return searched


SEARCHES: dict[str, Any] = {"find_batch_size": BatchSizeSearch, "find_lr": LearningRateSearch}
"""Options of ``fit``, and the callbacks that they add."""

SEARCH_OPTIONS: dict[str, tuple[type, str]] = {
    "find_batch_size": (bool, "first search for the largest batch that fits the GPU"),
    "find_lr": (bool, "first search for the learning rate, by 100 steps at rising rates"),
}
"""The type of each, and its help."""
