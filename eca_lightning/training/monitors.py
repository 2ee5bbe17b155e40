"""Refuse before training what Lightning takes without a word."""

import re
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer

from eca_lightning.utils.checks import require, require_known

_LEAST = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "num_sanity_val_steps": -1,
    "gradient_clip_val": 0,
    "log_every_n_steps": 0,
}


def require_work(options: Mapping[str, Any], is_fit: bool) -> None:
    """Check the trainer's options, also that training does something and ends.

    Raises:
        ValueError: If an option is out of its range, or there is nothing to train or no end.
    """
    for name, least in _LEAST.items():
        value = options[name]
        require(value is None or value >= least, f"trainer.{name}", f"at least {least}", value)
    if not is_fit:
        return
    if options["limit_train_batches"] == 0:
        raise ValueError("trainer.limit_train_batches is 0: there would be nothing to train on")
    ends = [options[key] for key in ("max_epochs", "max_time", "fast_dev_run")]
    if not any(ends) and options["max_steps"] < 0:
        raise ValueError(
            "trainer.max_epochs is not set: add a schedule, such as "
            "--config configs/schedules/ffcv16.yaml, or --trainer.max_epochs"
        )


def require_weights(options: Mapping[str, Any], command: str | None) -> None:
    """Check that a network is not scored, and predicts nothing, as it was initialized.

    Raises:
        ValueError: If a command but ``fit`` is given no checkpoint, and is no trial run.
    """
    is_trial = command in (None, "fit") or options["trainer"]["fast_dev_run"]
    if not is_trial and not options.get("ckpt_path"):
        raise ValueError(
            f"{command} needs the weights of a checkpoint: give --ckpt_path a run's best.ckpt, or "
            "what eca-lightning import makes of weights of others"
        )


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
