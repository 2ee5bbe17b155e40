"""Refuse to monitor what is never logged, before training rather than after its first epoch."""

import re
from typing import Any

from lightning.pytorch import Trainer

from eca_lightning.utils.checks import require_known


def require_logged(trainer: Trainer, model: Any) -> None:
    """Check the metrics that callbacks and schedules monitor against those that are logged.

    Models and callbacks of other packages may log what they like: with them nothing is checked.

    Raises:
        ValueError: If one monitors a metric that nothing logs.
    """
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    parts = [type(part).__module__.split(".")[0] for part in (model, *callbacks)]
    if not {*parts} <= {"eca_lightning", "lightning"}:
        return
    known = {*model.logged_metrics(), "epoch", "step"}
    known.update(name for part in callbacks for name in getattr(part, "logged_metrics", ()))
    monitored = {f"monitor of {type(c).__name__}": getattr(c, "monitor", None) for c in callbacks}
    for config in trainer.lr_scheduler_configs:
        monitored["monitor of the schedule"] = config.monitor
    for what, name in monitored.items():
        is_rate = str(name).startswith("lr-")  # named by LearningRateMonitor after the optimizer
        if name is not None and not is_rate:
            of_all_classes = re.sub("_AP/.*", "_AP", name)
            require_known(of_all_classes, sorted(known), f"metric for the {what}:")
