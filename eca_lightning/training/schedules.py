"""A learning rate schedule that is a function of the optimizer step alone."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

Decay = Literal["linear", "cosine", "step", "exponential"]


class WarmupThenDecay(LRScheduler):
    """Warm up to the optimizer's learning rate over the first epochs, then decay to the run's end.

    Epochs are fractional: step t is at epoch t / steps_per_epoch, and all shapes are interpolated
    per step, as in FFCV's recipes. torch would need a chain of three schedulers, each of which
    counts its own steps. Use it with ``lr_interval: step``.

    Args:
        optimizer: The optimizer; its learning rates, after scaling, are the peaks.
        total_steps: Optimizer steps of the run; the task fills it in.
        steps_per_epoch: Optimizer steps of an epoch; the task fills it in.
        decay: ``linear`` and ``cosine`` reach ``end_fraction`` of the peak after the last step,
            ``step`` multiplies by ``gamma`` at each milestone, ``exponential`` by ``gamma`` over
            each epoch after the warm-up.
        warmup_epochs: Length of the warm-up; 0 starts at the peak.
        warmup: Shape of the warm-up, ``linear`` or half a ``cosine``.
        start_fraction: First learning rate of the warm-up as a fraction of the peak.
        end_fraction: For ``linear`` and ``cosine``, the end as a fraction of the peak.
        milestones: For ``step``, epochs counted from the run's first.
        gamma: For ``step`` and ``exponential``.
        as_timm: As timm's scripts, change the rate per epoch only, and let the decay count the
            warm-up, so that it starts below the peak; for ``cosine``.

    Raises:
        ValueError: If the number of steps is missing, or an option is out of range or belongs to
            another decay.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int | None = None,
        steps_per_epoch: float | None = None,
        decay: Decay = "cosine",
        warmup_epochs: float = 0.0,
        warmup: Literal["linear", "cosine"] = "linear",
        start_fraction: float = 0.01,
        end_fraction: float = 0.0,
        milestones: Sequence[float] = (),
        gamma: float | None = None,
        as_timm: bool = False,
    ) -> None:
        if total_steps is None or steps_per_epoch is None:
            raise ValueError("WarmupThenDecay needs to know the steps: set model lr_interval: step")
        if warmup_epochs < 0 or not 0 <= start_fraction <= 1 or not 0 <= end_fraction <= 1:
            raise ValueError(
                "WarmupThenDecay: warmup_epochs must be at least 0 and both fractions from 0 to 1, "
                f"got {warmup_epochs}, {start_fraction} and {end_fraction}"
            )
        if (decay == "step") != bool(milestones) or list(milestones) != sorted(milestones):
            raise ValueError(
                "WarmupThenDecay: give increasing milestones with decay: step and with no other, "
                f"got {list(milestones)} with decay: {decay}"
            )
        if (decay in ("step", "exponential")) != (gamma is not None):
            raise ValueError(
                "WarmupThenDecay: give gamma with decay: step or exponential and with no other, "
                f"got {gamma} with decay: {decay}"
            )
        if as_timm and decay != "cosine":
            raise ValueError(f"WarmupThenDecay: as_timm is for decay: cosine, got {decay}")
        self.as_timm = as_timm
        self.total_steps, self.steps_per_epoch = total_steps, steps_per_epoch
        self.decay, self.warmup = decay, warmup
        self.warmup_epochs = warmup_epochs
        self.start_fraction, self.end_fraction = start_fraction, end_fraction
        self.milestones = list(milestones)
        self.gamma = 1.0 if gamma is None else gamma
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        """Return the learning rate at an optimizer step, from 0, as a fraction of the peak."""
        epoch = step / self.steps_per_epoch
        if self.as_timm:
            epoch = math.floor(epoch + 1e-9)  # a product of floats may be just below its epoch
        if epoch < self.warmup_epochs:
            risen = _progress(self.warmup, epoch / self.warmup_epochs)
            return self.start_fraction + (1 - self.start_fraction) * risen
        if self.decay == "step":
            return self.gamma ** bisect_right(self.milestones, epoch)
        skipped = 0.0 if self.as_timm else self.warmup_epochs
        since_warmup = epoch - skipped
        if self.decay == "exponential":
            return self.gamma**since_warmup
        length = self.total_steps / self.steps_per_epoch - skipped
        fallen = _progress(self.decay, since_warmup / length if since_warmup < length else 1.0)
        return 1 - (1 - self.end_fraction) * fallen

    def get_lr(self) -> list[Any]:
        """Return the learning rate of each parameter group at the current step.

        Groups that a callback has added keep the rate that it gives them.
        """
        added = self.optimizer.param_groups[len(self.base_lrs) :]
        rates: list[Any] = [peak * self.factor(self.last_epoch) for peak in self.base_lrs]
        return rates + [group["lr"] for group in added]


def _progress(shape: str, fraction: float) -> float:
    return fraction if shape == "linear" else (1 - math.cos(math.pi * fraction)) / 2
