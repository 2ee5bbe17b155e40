"""LightningCLI, with what this application adds: callbacks, checks and closing words."""

import logging
import sys
import warnings
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.io import AsyncCheckpointIO, CheckpointIO
from lightning.pytorch.utilities import rank_zero_only

from eca_lightning.classification.callbacks.writer import PredictionWriter
from eca_lightning.detection.callbacks.writer import DetectionWriter
from eca_lightning.training.callbacks.last_checkpoint import LastCheckpoint
from eca_lightning.training.callbacks.loss_guard import LossGuard
from eca_lightning.training.callbacks.progressive_resizing import ProgressiveResizing
from eca_lightning.training.checkpoint_io import AtomicCheckpointIO, read_checkpoint
from eca_lightning.training.resuming import (
    SameStart,
    checkpoint_folder,
    newest_checkpoint,
    require_writable,
)
from eca_lightning.training.task import VisionTask

AUTO = "auto"
"""A ``--ckpt_path``: the newest whole checkpoint of the run, or none if there is none yet."""


class EcaLightningCLI(LightningCLI):
    """``fit``, ``validate``, ``test`` and ``predict``."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what every run has: checkpoints, predictions and the size of its images."""
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(LastCheckpoint, "last_checkpoint")
        parser.add_argument(
            "--async_checkpoints",
            type=bool,
            default=False,
            help="write checkpoints in the background, from a copy of all states in the device's "
            "memory; a run that is killed meanwhile goes on from the one before",
        )
        parser.set_defaults(
            {
                "checkpoint.monitor": "val/top1",
                "checkpoint.mode": "max",
                "checkpoint.filename": "best",
                # A newer one replaces best.ckpt rather than becoming best-v1.ckpt beside it.
                "checkpoint.enable_version_counter": False,
            }
        )
        parser.add_lightning_class_args(PredictionWriter, "predictions")  # of classifiers
        parser.add_lightning_class_args(DetectionWriter, "detections")
        parser.add_argument("--progressive_resizing", type=dict[str, int | None], default={})

    def _parse_ckpt_path(self) -> None:
        """Check the checkpoint before Lightning lets its hyper-parameters replace the config's."""
        command = self.config.get("subcommand")
        options = self.config[command] if command else self.config
        self._start_step = -1
        self._given: dict[str, Any] = {}
        auto = options.get("ckpt_path") == AUTO
        if auto:
            self._find_checkpoint(command, options)
        path = options.get("ckpt_path")
        if path and path not in ("best", "last", "hpc") and "://" not in str(path):
            checkpoint = read_checkpoint(Path(path))
            self._start_step = checkpoint.get("global_step", -1)
            saved = checkpoint.get("hyper_parameters", {})
            task = resolve_name(options["model.class_path"])
            if isinstance(task, type) and issubclass(task, VisionTask):
                given = options["model.init_args"].as_dict()
                if differences := task.architecture_differences(saved, given):
                    raise ValueError(f"{path} is of another architecture: {differences}")
        if auto:  # TensorBoard forgets what an earlier attempt logged of later steps
            self._choose(options, "trainer.logger.init_args.purge_step", self._start_step + 1)
        super()._parse_ckpt_path()

    def _find_checkpoint(self, command: str | None, options: Namespace) -> None:
        """Put the run's newest checkpoint, and its folder, in the place of ``auto``."""
        if command != "fit":
            raise ValueError("--ckpt_path auto is for fit: name the checkpoint")
        folder = checkpoint_folder(options)
        path = newest_checkpoint(folder)
        self._given["ckpt_path"] = AUTO
        options["ckpt_path"] = str(path) if path else None
        self._choose(options, "trainer.logger.init_args.version", folder.parent.name)

    def _choose(self, options: Namespace, key: str, value: Any) -> None:
        """Set an option that is left open, for this start alone."""
        if key in options and options[key] is None:
            self._given[key] = None
            options[key] = value

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add what lets a run survive, whatever callbacks and plugins the config has."""
        plugins = self._get(self.config_init, "trainer").get("plugins") or []
        plugins = list(plugins) if isinstance(plugins, list) else [plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            writer = AtomicCheckpointIO()
            in_background = self._get(self.config_init, "async_checkpoints")
            plugins.append(AsyncCheckpointIO(writer) if in_background else writer)
        trainer: Any = super().instantiate_trainer(plugins=plugins, **kwargs)
        trainer.callbacks[:0] = [SameStart(self._start_step), LossGuard()]
        if resizing := self._get(self.config_init, "progressive_resizing"):
            trainer.callbacks.append(ProgressiveResizing(**resizing))
        return trainer

    def after_instantiate_classes(self) -> None:
        """Have the run's folder keep the options as they were given."""
        options = self.config[self.subcommand] if self.subcommand else self.config
        for key, value in self._given.items():
            options[key] = value

    @rank_zero_only
    def before_fit(self) -> None:
        """Find out now if the run cannot be saved."""
        trainer: Any = self.trainer
        if not trainer.fast_dev_run:
            require_writable(Path(trainer.log_dir or trainer.default_root_dir))

    def before_predict(self) -> None:
        """Write predictions without keeping all of them: a folder's masks would fill the memory."""
        options = self.config_init[self.subcommand]
        if options.get("return_predictions") is None:
            options["return_predictions"] = False

    @rank_zero_only
    def after_fit(self) -> None:
        """Say what was reached, and where it lies."""
        checkpoint = self.trainer.checkpoint_callback
        if isinstance(checkpoint, ModelCheckpoint) and checkpoint.best_model_path:
            if checkpoint.best_model_score is not None:
                print(f"\nbest {checkpoint.monitor}: {checkpoint.best_model_score:.4f}")
            print(f"checkpoint: {checkpoint.best_model_path}")
        logs = getattr(self.trainer.logger, "save_dir", None)  # of a trial run, there are none
        if logs is not None:
            print(f"watch it: tensorboard --logdir {logs}")


def lightning_cli(arguments: list[str], run: bool = True) -> EcaLightningCLI:
    """Run one of Lightning's own commands, or only build what a config describes.

    Args:
        arguments: ``["fit", "--config", ...]``; without the command if it is not to be run.
        run: Whether to run the command. If not, ``model``, ``datamodule`` and ``trainer`` of the
            result are ready to be used.
    """
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_advertisement)
    # Lightning calls what torch and jsonargparse have deprecated; its users cannot mend that.
    warnings.filterwarnings("ignore", module=r"lightning\.pytorch\.(cli|utilities\._pytree)")
    # A run of its own folder is as it should be, and our loaders tell the indices themselves.
    warnings.filterwarnings(
        "ignore",
        message="The dirpath has changed|Couldn't infer the batch ind|Checkpoint directory",
    )
    return EcaLightningCLI(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        # Each logged run has a folder of its own; without a logger the last run's config may go.
        save_config_kwargs={"overwrite": True},
        parser_kwargs={"prog": "eca-lightning"},
        args=None if arguments == sys.argv[1:] else arguments,
        run=run,
    )


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip: For seamless cloud" not in record.getMessage()
