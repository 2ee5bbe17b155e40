"""Learning rate schedules that torch does not have in the form that a config needs."""

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR


class OneCycle(OneCycleLR):
    """One warm-up and one decay over the whole run (Smith & Topin, arXiv 1708.07120), per step.

    torch's OneCycleLR, except that the peak is the optimizer's own learning rate, after scaling,
    and momentum stays as it is. Use it with ``lr_interval: step``.

    Args:
        optimizer: The optimizer.
        total_steps: Optimizer steps of the run; the task fills it in.
        warmup_fraction: Part of the run in which the learning rate rises.
        anneal_strategy: Shape of rise and decay: ``cos`` or ``linear``.
        start_fraction: First learning rate as a fraction of the peak.
        end_fraction: Last learning rate as a fraction of the peak.

    Raises:
        ValueError: If there is no number of steps, or a checkpoint's is another one.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int | None = None,
        warmup_fraction: float = 0.3,
        anneal_strategy: str = "cos",
        start_fraction: float = 0.04,
        end_fraction: float = 4e-6,
    ) -> None:
        if total_steps is None:
            raise ValueError("OneCycle needs the number of steps: set model lr_interval: step")
        super().__init__(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            total_steps=total_steps,
            pct_start=warmup_fraction,
            anneal_strategy=anneal_strategy,  # type: ignore[arg-type]
            cycle_momentum=False,
            div_factor=1 / start_fraction,
            final_div_factor=start_fraction / end_fraction if end_fraction else math.inf,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint stopped."""
        if state_dict["total_steps"] != self.total_steps:
            raise ValueError(
                f"the checkpoint's schedule has {state_dict['total_steps']} steps and this run's "
                f"{self.total_steps}: resume with the same epochs, batch size and number of ranks"
            )
        super().load_state_dict(state_dict)
