"""LightningCLI, with what this application adds: callbacks, checks and closing words."""

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only

from eca_lightning.tasks.classification import architecture_differences
from eca_lightning.tasks.detection import detector_differences
from eca_lightning.training.callbacks import (
    DetectionWriter,
    PredictionWriter,
    ProgressiveResizing,
)


class EcaLightningCLI(LightningCLI):
    """``fit``, ``validate``, ``test`` and ``predict``."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what every run has: checkpoints, predictions and the size of its images."""
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(ModelCheckpoint, "last_checkpoint")
        parser.set_defaults(
            {
                "checkpoint.monitor": "val/top1",
                "checkpoint.mode": "max",
                "checkpoint.filename": "best",
                # save_last of the one above keeps the last that was the best when it was saved.
                "last_checkpoint.filename": "last",
                "last_checkpoint.save_on_train_epoch_end": True,
                # A newer one replaces best.ckpt rather than becoming best-v1.ckpt beside it.
                "checkpoint.enable_version_counter": False,
                "last_checkpoint.enable_version_counter": False,
            }
        )
        parser.add_lightning_class_args(PredictionWriter, "predictions")  # of classifiers
        parser.add_lightning_class_args(DetectionWriter, "detections")
        parser.add_lightning_class_args(ProgressiveResizing, "progressive_resizing")

    def _parse_ckpt_path(self) -> None:
        """Check the checkpoint before Lightning lets its hyper-parameters replace the config's."""
        command = self.config.get("subcommand")
        options = self.config[command] if command else self.config
        path = options.get("ckpt_path")
        if path and path not in ("best", "last", "hpc") and "://" not in str(path):
            saved = _read_checkpoint(Path(path)).get("hyper_parameters", {})
            backbone = options.get("model.init_args.backbone")
            detector = options.get("model.init_args.detector")
            differences = ""
            if backbone is not None:
                differences = architecture_differences(
                    saved.get("backbone", {}), backbone.as_dict()
                )
            elif detector is not None:
                differences = detector_differences(saved.get("detector"), detector.as_dict())
            if differences:
                raise ValueError(f"{path} is of another architecture: {differences}")
        super()._parse_ckpt_path()

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
        if self.trainer.logger is not None:
            print(f"watch it: tensorboard --logdir {self.trainer.logger.save_dir}")


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
        "ignore", message="The dirpath has changed|Couldn't infer the batch ind"
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


def _read_checkpoint(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}: mend --ckpt_path")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        raise ValueError(f"{path} is damaged or no checkpoint: {error}") from error
