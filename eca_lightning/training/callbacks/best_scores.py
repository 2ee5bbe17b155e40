"""Log the best scores and the options of a run for TensorBoard's HPARAMS page."""

from collections import Counter
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn

from eca_lightning.training.callbacks.run_description import run_config
from eca_lightning.training.callbacks.summaries import logged_step
from eca_lightning.training.task import VisionTask

# Options on which the result may depend (of the trainer) and does not (of model and data).
_TRAINER_OPTIONS = (
    "accumulate_grad_batches devices gradient_clip_val max_epochs num_nodes precision"
)
_WITHOUT_EFFECT = "batches_ahead compile decoder eval_batch_size fused num_workers os_cache"


class BestScores(Callback):
    """Log the scores of the best validation so far as metrics of the HPARAMS page.

    ``val_best/top1`` (of detectors, ``val_best/box_AP``) is the highest ``val/top1``;
    ``val_best/loss``, ``val_best/top5`` and so on belong to the same validation, and so to
    ``best.ckpt``. A run without validation has ``train_last/loss`` and ``train_last/top1``, the
    last of training.
    """

    def __init__(self) -> None:
        self._best: dict[str, float] = {}
        self._declared = False

    def state_dict(self) -> dict[str, Any]:
        """Return the best scores, which a resumed run continues from."""
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best scores."""
        self._best = state_dict["best"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget that the options of another run were written."""
        self._declared = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the scores if they are better than any before."""
        fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if not fitting or not isinstance(pl_module, VisionTask):
            return
        scores, main = _metrics(trainer, "val/", "val_best/"), f"val_best/{pl_module.main_metric}"
        if main not in scores:
            return
        if not self._best or scores[main] > self._best[main]:
            # The page shows its first metric by default.
            first = {main: scores[main]}
            self._best = first | scores | {"val_best/epoch": float(trainer.current_epoch)}
        self._write(trainer, pl_module, self._best)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Without validation, write the last metrics of training."""
        if not self._best:
            self._write(trainer, pl_module, _metrics(trainer, "train/", "train_last/"))

    def _write(self, trainer: Trainer, pl_module: Any, scores: dict[str, float]) -> None:
        if trainer.sanity_checking or not scores:
            return
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and not self._declared:
                options = flat_options(run_config(trainer, pl_module))
                logger.log_hyperparams(options, scores, logged_step(trainer))
            else:
                logger.log_metrics(scores, logged_step(trainer))
        self._declared = True


def flat_options(config: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a run's config on which the result may depend, by short names.

    ``model.init_args.optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.1}}`` becomes
    ``optimizer: SGD`` and ``base_lr: 0.1``, and ``momentum`` beside ``lr`` keeps its name; options
    that end in the same name keep the whole. What is None is left out. The page sorts its columns:
    the first are ``attention``, ``backbone``, ``base_lr`` and ``batch_size``.
    """
    trainer = config.get("trainer", {})
    options = _flatten("model", config.get("model")) | _flatten("data", config.get("data"))
    options |= {f"trainer.{name}": trainer.get(name) for name in _TRAINER_OPTIONS.split()}
    options["seed"] = config.get("seed_everything")
    options["backbone"] = options.pop("model.backbone.name", None)
    options["base_lr"] = options.pop("model.optimizer.lr", None)
    options = {name: value for name, value in options.items() if value is not None}
    ends = Counter(name.rpartition(".")[2] for name in options)
    short = {
        end if ends[end := name.rpartition(".")[2]] == 1 else name.partition(".")[2] or name: value
        for name, value in options.items()
    }
    hidden = _WITHOUT_EFFECT.split()
    return {name: value for name, value in short.items() if name not in hidden}


def _flatten(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: ", ".join(map(str, value)) if isinstance(value, list) else value}
    if "class_path" in value:
        own = {name: value["class_path"].rpartition(".")[2]}
        return own | _flatten(name, value.get("init_args") or {})
    parts = (_flatten(f"{name}.{key}", entry) for key, entry in value.items())
    return {key: entry for part in parts for key, entry in part.items()}


def _metrics(trainer: Trainer, prefix: str, new_prefix: str) -> dict[str, float]:
    """Return the metrics with a prefix, under another; all ranks must call it."""
    return {
        new_prefix + name.removeprefix(prefix): float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith(prefix)
    }
