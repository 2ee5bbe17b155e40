"""LightningCLI, with what this application adds: callbacks, checks and a run's logger and name."""

import os
import traceback
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, ModelSummary, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import AsyncCheckpointIO, CheckpointIO
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

import eca_lightning
from eca_lightning import ImageClassifier
from eca_lightning.data.folder.preprocessing import Preprocessing
from eca_lightning.predict_options import EVALUATION_OPTIONS, PREDICT_OPTIONS, prediction_writer
from eca_lightning.runs.record import RunRecord
from eca_lightning.training.callbacks.last_checkpoint import LastCheckpoint
from eca_lightning.training.callbacks.loss_guard import LossGuard
from eca_lightning.training.callbacks.run_description import NetworkSummary
from eca_lightning.training.checkpoint_io import AtomicCheckpointIO, read_checkpoint
from eca_lightning.training.checkpoint_options import complete_model
from eca_lightning.training.gpu_defaults import set_benchmark
from eca_lightning.training.monitors import require_weights, require_work
from eca_lightning.training.resuming import SameStart, place_run, running_in
from eca_lightning.training.run_loggers import drop_run_logger, keep_metrics, start_loggers
from eca_lightning.training.run_name import run_name
from eca_lightning.training.task import VisionTask
from eca_lightning.training.tuning.finders import SEARCH_OPTIONS, SEARCHES
from eca_lightning.utils.arguments import OneLineErrors
from eca_lightning.utils.atomic import end_with_parent
from eca_lightning.utils.chatter import silence_libraries

_NOT_BARE = (
    *("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"),
    *("log_every_n_steps", "num_sanity_val_steps"),
)
"""Options of the trainer that exclude barebones."""

_SWITCHES: dict[str, type[Callback]] = {
    "enable_checkpointing": Checkpoint,
    "enable_model_summary": ModelSummary,
    "enable_progress_bar": ProgressBar,
}

_ROOT = Path(__file__).parent


class _Trainer(Trainer):
    folder: Path | None = None

    @property
    def log_dir(self) -> str | None:
        """The run's own folder, whatever its loggers are; of commands without one, Lightning's."""
        if self.folder is None or self.fast_dev_run:  # type: ignore[attr-defined]
            return super().log_dir
        return self.strategy.broadcast(str(self.folder))


class _Parser(OneLineErrors, LightningArgumentParser):
    pass


class EcaLightningCLI(LightningCLI):
    """``fit``, ``validate``, ``test`` and ``predict``."""

    def __init__(self, args: list[str], **options: Any) -> None:
        self._arguments = args
        super().__init__(args=args, **options)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return the command that is given alone: to build all four parsers takes half a second."""
        known = super().subcommands()
        return {name: known[name] for name in self._arguments[:1] if name in known}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what every run has: checkpoints and reports."""
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(LastCheckpoint, "last_checkpoint")
        about = "callbacks that log and draw, but do not change training"
        kind = list[Callback] | None
        parser.add_argument("--reports", type=kind, default=None, sub_configs=True, help=about)
        about = (
            "write checkpoints in the background, from a copy of all states in the device's "
            "memory; a run that is killed meanwhile resumes from the one before"
        )
        parser.add_argument("--async_checkpoints", type=bool, default=False, help=about)
        # Without versions a newer one replaces best.ckpt rather than becoming best-v1.ckpt.
        defaults: dict[str, Any] = {"monitor": "val/top1", "mode": "max", "filename": "best"}
        defaults["enable_version_counter"] = False
        parser.set_defaults({f"checkpoint.{name}": value for name, value in defaults.items()})

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> Any:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        options = {"fit": SEARCH_OPTIONS, "predict": EVALUATION_OPTIONS | PREDICT_OPTIONS}
        for name, (kind, about) in options.get(subcommand, EVALUATION_OPTIONS).items():
            parser.add_argument(f"--{name}", type=kind | None, default=None, help=about)
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the command line."""
        super().parse_arguments(parser, args)
        options = self.config.get(self.config.get("subcommand") or "", self.config)
        for key in ("model", "trainer", "checkpoint", "last_checkpoint"):
            if options.get(key) is None:
                raise ValueError(f"{key} is not set: give its options, in a config for example")

    def _parse_ckpt_path(self) -> None:
        """Complete the options by the checkpoint's, where Lightning lets these replace them."""
        command = self.config.get("subcommand")
        options = self.config[command] if command else self.config
        self._start_step, self._preprocessing = -1, None
        self._given: dict[str, Any] = {}
        self._folder: Path | None = None
        if options.get("ckpt_path") == "auto" and command != "fit":
            raise ValueError("--ckpt_path auto is for fit: name the checkpoint")
        if command == "fit":
            self._folder, self._given = place_run(options, run_name(self._arguments))
            self._checkpoints = Path(options["checkpoint.dirpath"])
        elif command:
            drop_run_logger(options, self._arguments)
        path = options.get("ckpt_path")
        if path and path not in ("best", "last", "hpc") and "://" not in str(path):
            checkpoint = read_checkpoint(Path(path))
            self._start_step = checkpoint.get("global_step", -1)
            self._preprocessing = checkpoint.get("preprocessing")
            options["model"] = complete_model(self.parser, self._arguments, options, checkpoint)

    def before_instantiate_classes(self) -> None:
        """Refuse what Lightning takes without a word, such as 1000 epochs where none are given."""
        if self.subcommand:
            require_work(self.config[self.subcommand]["trainer"], self.subcommand == "fit")

    def _set_seed(self) -> None:
        """Seed all generators."""
        try:
            super()._set_seed()
        except ValueError as error:
            raise ValueError(f"seed_everything: {error}") from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add the reports, and what lets a run survive, whatever callbacks the config has."""
        options = self._get(self.config_init, "trainer")
        plugins = _as_list(options.get("plugins"))
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            writer = AtomicCheckpointIO()
            in_background = self._get(self.config_init, "async_checkpoints")
            plugins.append(AsyncCheckpointIO(writer) if in_background else writer)
        reports = self._get(self.config_init, "reports")
        callbacks = _as_list(reports) + _as_list(options.get("callbacks"))
        if not any(isinstance(callback, ModelSummary) for callback in callbacks):
            callbacks.append(NetworkSummary())
        if self.subcommand == "predict":
            values = {name: self._get(self.config_init, name) for name in PREDICT_OPTIONS}
            callbacks += prediction_writer(self.model, values)
        searches = SEARCHES if self.subcommand == "fit" else {}
        callbacks += [new() for name, new in searches.items() if self._get(self.config_init, name)]
        trainer: Any = super().instantiate_trainer(plugins=plugins, callbacks=callbacks, **kwargs)
        trainer.folder = self._folder
        trainer.callbacks[:0] = [SameStart(self._start_step), LossGuard()]
        if self.subcommand == "fit" and self._folder is not None and not trainer.fast_dev_run:
            trainer.callbacks.append(RunRecord(self._folder, self._arguments))
        return trainer

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        """Leave out the callbacks of what is switched off, and what a bare run cannot have."""
        off: tuple[type[Callback], ...] = ()
        if config.get("barebones"):
            rank_zero_info("barebones: without logger, reports, checkpoints and progress bar")
            config |= dict.fromkeys(_NOT_BARE)
            self.save_config_callback = self._folder = None
            off = (Callback,)
        off += tuple(kind for option, kind in _SWITCHES.items() if config.get(option) is False)
        if self.subcommand not in (None, "fit"):
            self.save_config_callback = None  # config.yaml is that of the run's training
        config |= {"logger": False} if self.subcommand == "predict" else {}
        config["callbacks"] = [c for c in _as_list(config["callbacks"]) if not isinstance(c, off)]
        kept = [c for c in callbacks if not isinstance(c, off)]
        set_benchmark(config, self.model)
        trainer = super()._instantiate_trainer(config, kept)
        if getattr(trainer.strategy.launcher, "_start_method", "") in ("spawn", "forkserver"):
            raise ValueError(
                "trainer.strategy: spawned processes cannot be given this run's optimizer: take "
                "ddp in place of ddp_spawn"
            )
        return trainer

    def after_instantiate_classes(self) -> None:
        """Save the options as they were given, to the run's folder and in checkpoints."""
        options = self.config[self.subcommand] if self.subcommand else self.config
        for key, value in self._given.items():
            options[key] = value
        if isinstance(self.model, ImageClassifier):  # before Lightning sets up the data
            self.model.preprocessing = Preprocessing.from_dict(self._preprocessing)
        if isinstance(self.model, VisionTask):
            require_weights(options, self.subcommand)
            self.model.rename_classes = bool(options.get("rename_classes"))
            given = self.config_dump["model"].get("init_args", {})
            names = ("optimizer", "lr_scheduler")
            self.model.optimizer_options = {name: given[name] for name in names if name in given}

    @rank_zero_only
    def before_fit(self) -> None:
        """Check before training that the run can be saved, and that no other process trains it."""
        trainer: Any = self.trainer
        if not trainer.fast_dev_run and self._folder:
            self._at_end.enter_context(running_in(self._folder, self._checkpoints, trainer))
            start_loggers(trainer.loggers, self._folder, self._start_step)

    @rank_zero_only
    def before_validate(self) -> None:
        """Keep what training has logged to a file that this command logs to as well."""
        keep_metrics(self.trainer.loggers)

    before_test = before_validate

    def before_predict(self) -> None:
        """Keep no predictions once they are written: a folder's masks would fill the memory."""
        options = self.config_init[self.subcommand]
        if options.get("return_predictions") is None:
            options["return_predictions"] = False

    def _run_subcommand(self, subcommand: str) -> None:
        """Name the checkpoint if a state in it cannot be restored, whatever is wrong with it."""
        try:
            with ExitStack() as self._at_end:
                super()._run_subcommand(subcommand)
        except Exception as error:
            files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
            clear = isinstance(error, ValueError) and files[-1].is_relative_to(_ROOT)
            logging_to = [file.stem for file in files if file.parent.name == "loggers"]
            if logging_to and not clear and not isinstance(error, OSError):
                raise ValueError(f"cannot log to {logging_to[-1]}: {error}") from error
            in_schedule = any(file.name == "lr_scheduler.py" for file in files)
            if in_schedule and isinstance(error, ArithmeticError):  # StepLR with a step_size of 0
                raise ValueError(f"model.lr_scheduler cannot advance: {error}") from error
            restoring = any(file.name == "checkpoint_connector.py" for file in files)
            if clear or not restoring:
                raise
            path = self.config[subcommand].get("ckpt_path")
            raise ValueError(f"cannot restore {path}: {type(error).__name__}: {error}") from error

    @rank_zero_only
    def after_fit(self) -> None:
        """Print the best score and where it is."""
        checkpoint = self.trainer.checkpoint_callback
        if isinstance(checkpoint, ModelCheckpoint) and checkpoint.best_model_path:
            if checkpoint.best_model_score is not None:
                print(f"\nbest {checkpoint.monitor}: {checkpoint.best_model_score:.4f}")
            print(f"checkpoint: {checkpoint.best_model_path}")
        for logger in self.trainer.loggers:
            if isinstance(logger, TensorBoardLogger):  # a trial run has none
                print(f"watch it: tensorboard --logdir {logger.save_dir}")


def lightning_cli(arguments: list[str], run: bool = True) -> EcaLightningCLI:
    """Run one of Lightning's own commands, or only build what a config describes.

    Args:
        arguments: ``["fit", "--config", ...]``; without the command if it is not to be run.
        run: Run the command, or only build ``model``, ``datamodule`` and ``trainer`` of the result.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":  # of a launcher, or of rank zero
        end_with_parent(os.getppid())
    silence_libraries()
    for name in dir(eca_lightning):  # jsonargparse finds classes by short names once imported
        getattr(eca_lightning, name)
    options = {"save_dir": "runs", "name": run_name(arguments), "default_hp_metric": False}
    logger = {"class_path": "eca_lightning.RunLogger", "init_args": options}
    return EcaLightningCLI(
        model_class=LightningModule,
        datamodule_class=LightningDataModule,
        trainer_class=_Trainer,
        trainer_defaults={"logger": logger},
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        # Each logged run has a folder of its own; without a logger the last run's config may go.
        save_config_kwargs={"overwrite": True},
        parser_class=_Parser,
        parser_kwargs={"prog": "eca-lightning"},
        args=arguments,
        run=run,
    )


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [] if value is None else [value]
