"""TensorBoard's HPARAMS page: runs side by side, their options and what came of them."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from eca_lightning.training.callbacks.run_description import run_config
from eca_lightning.training.callbacks.summaries import tensorboard_logger

_TRAINER_OPTIONS = (
    "accumulate_grad_batches",
    "devices",
    "gradient_clip_val",
    "max_epochs",
    "num_nodes",
    "precision",
)
"""Those of the trainer's options on which the result may depend."""

_WITHOUT_EFFECT = (
    "batches_ahead",
    "compile",
    "decoder",
    "eval_batch_size",
    "fused",
    "num_workers",
    "os_cache",
)
"""Options of model and data on which it does not depend."""


class BestScores(Callback):
    """Logs the scores of the best validation so far, and makes them the HPARAMS page's metrics.

    ``best/top1`` is the highest ``val/top1``; ``best/loss``, ``best/top5`` and so on belong to the
    same validation, and so to ``best.ckpt``. A run without validation has ``last/loss`` and
    ``last/top1``, the last of training.
    """

    def __init__(self) -> None:
        self._best: dict[str, float] = {}
        self._declared = False

    def state_dict(self) -> dict[str, Any]:
        """The best scores: a resumed run goes on from them."""
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the best scores of the run before."""
        self._best = state_dict["best"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A new run, whose options are not written yet."""
        self._declared = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the scores if they are better than any before."""
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        scores = _numbers(trainer, "val/", "best/")
        if "best/top1" not in scores:
            return
        if not self._best or scores["best/top1"] > self._best["best/top1"]:
            # The page shows the first metric before one asks for more.
            first = {"best/top1": scores["best/top1"]}
            self._best = first | scores | {"best/epoch": float(trainer.current_epoch)}
        self._write(trainer, pl_module, self._best)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Without validation, write what training came to."""
        if not self._best:
            self._write(trainer, pl_module, _numbers(trainer, "train/", "last/"))

    def _write(
        self, trainer: Trainer, pl_module: LightningModule, scores: dict[str, float]
    ) -> None:
        logger = tensorboard_logger(trainer)
        if logger is None or not scores:
            return
        if self._declared:
            logger.log_metrics(scores, trainer.global_step)
        else:
            options = flat_options(run_config(trainer, pl_module))
            logger.log_hyperparams(options, scores, trainer.global_step)
        self._declared = True


def flat_options(config: dict[str, Any]) -> dict[str, Any]:
    """The options of a config on which its result may depend, by names as short as can be.

    ``model.init_args.optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.1}}`` becomes
    ``optimizer: SGD`` and ``optimizer.lr: 0.1``. What is None is left out. The page sorts its
    columns and shows the first five: ``attention``, ``backbone`` and ``batch_size`` are among them.

    Args:
        config: What :func:`run_config` returned.
    """
    trainer = config.get("trainer", {})
    options = _flatten("model", config.get("model")) | _flatten("data", config.get("data"))
    short = {
        name.removeprefix("model.").removeprefix("data.").removeprefix("backbone."): value
        for name, value in options.items()
    }
    short["backbone"] = short.pop("name", None)
    short |= {f"trainer.{name}": trainer.get(name) for name in _TRAINER_OPTIONS}
    short["seed"] = config.get("seed_everything")
    return {k: v for k, v in short.items() if v is not None and k not in _WITHOUT_EFFECT}


def _flatten(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, list):
        return {name: ", ".join(map(str, value))}
    if not isinstance(value, dict):
        return {name: value}
    if "class_path" in value:
        own = {name: value["class_path"].rpartition(".")[2]}
        return own | _flatten(name, value.get("init_args") or {})
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        flat |= _flatten(f"{name}.{key}", entry)
    return flat


def _numbers(trainer: Trainer, prefix: str, new_prefix: str) -> dict[str, float]:
    """The metrics of all ranks whose names begin with a prefix; each rank must ask for them."""
    return {
        new_prefix + name.removeprefix(prefix): float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith(prefix)
    }
