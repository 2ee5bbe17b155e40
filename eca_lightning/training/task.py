"""What image classifiers and object detectors share as LightningModules."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from typing_extensions import Self

from eca_lightning.backbones import BackboneConfig
from eca_lightning.training import optim
from eca_lightning.training.architecture import differences
from eca_lightning.training.checkpoint_io import forget_foreign_files, read_checkpoint
from eca_lightning.training.finite_predictions import FinitePredictions
from eca_lightning.training.gpu_defaults import fused_where_possible
from eca_lightning.training.hub import HubMixin
from eca_lightning.training.monitors import require_logged
from eca_lightning.training.tuning.finders import follow_callbacks, require_new_run
from eca_lightning.utils.checks import other_classes
from eca_lightning.weights.tensors import require_usable


class VisionTask(HubMixin, FinitePredictions, ABC):
    """Base of the tasks: optimization, class names, checkpoints and the Hugging Face Hub.

    A task has one network, described as plain data by the option ``network_option``, which
    checkpoints hold under that name. All that is random in a training step follows from the run's
    seed, the epoch, the batch and the rank, so that a resumed run equals an uninterrupted one.

    Args:
        optimizer: Builds the optimizer from parameter groups.
        lr_scheduler: Builds the learning rate schedule from the optimizer.
        lr_interval: Whether the schedule advances per ``epoch`` or per optimizer ``step``. With
            ``step`` it is also given ``total_steps`` and ``steps_per_epoch``, of the optimizer.
        lr_base_batch_size: Batch size that the optimizer's learning rate belongs to. The linear
            rule then scales it to the run's batch size x ranks x accumulated batches. Default: no
            scaling.
        no_decay_norm_bias: No weight decay for normalization layers and biases.

    Attributes:
        network_option: Name of the option that describes the network.
        network_config: Its dataclass.
        not_weights: Options of the network on which neither weights nor outputs depend; those of a
            detector's backbone begin with ``backbone.``.
        missing_network: What a checkpoint without such a network holds, for error messages.
        unsaved_options: Options that checkpoints leave out.
        data_attributes: What a data module knows of the classes and checkpoints keep.
        main_metric: Metric of the validation by which the best epoch is chosen.
        equal_sizes: Whether all images of an epoch have one size, for which cuDNN's choice of
            algorithms by time pays: it is the default of ``trainer.benchmark``.
        charts: Pages of TensorBoard's Custom Scalars, their charts, and regular expressions for the
            beginning of the names of each chart's metrics.
        backbone_config: The backbone.
        lr: Learning rate in place of the optimizer's, which LearningRateFinder sets.
        rename_classes: Whether to take the class names of the data on which the model is scored, or
            predicts, where they differ from those of its weights.
        scored_at: Optimizer step at which validation or test last saw the weights.
        loaded_scores: Scores that came with the weights.
        optimizer_options: Options ``optimizer`` and ``lr_scheduler`` as a config gave them, if one
            did.
    """

    network_option: ClassVar[str]
    network_config: ClassVar[type]
    not_weights: ClassVar[tuple[str, ...]]
    missing_network: ClassVar[str]
    unsaved_options: ClassVar[tuple[str, ...]] = ()
    data_attributes: ClassVar[tuple[str, ...]] = ("class_names",)
    main_metric: ClassVar[str]
    equal_sizes: ClassVar[bool] = False
    charts: ClassVar[dict[str, dict[str, list[str]]]]
    backbone_config: BackboneConfig
    lr: float | None = None
    rename_classes: bool = False

    def __init__(
        self,
        optimizer: OptimizerCallable,
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_interval: Literal["epoch", "step"] = "epoch",
        lr_base_batch_size: int | None = None,
        no_decay_norm_bias: bool = False,
    ) -> None:
        super().__init__()
        if lr_base_batch_size is not None and lr_base_batch_size < 1:
            raise ValueError(f"lr_base_batch_size must be at least 1, got {lr_base_batch_size}")
        unsaved = (self.network_option, "optimizer", "lr_scheduler", "loss", *self.unsaved_options)
        self.save_hyperparameters(ignore=unsaved)
        # Functions, which copies of the module share: what the CLI makes here cannot be copied.
        self.optimizer_builder = lambda groups: optimizer(groups)
        self.lr_scheduler_builder = lr_scheduler and (lambda *args, **kw: lr_scheduler(*args, **kw))
        self.lr_interval, self.lr_base_batch_size = lr_interval, lr_base_batch_size
        self.no_decay_norm_bias = no_decay_norm_bias
        self.class_names: list[str] | None = None
        self.scored_at: int | None = None
        self.loaded_scores: dict[str, float] = {}
        self.optimizer_options: dict[str, Any] = {}
        self._built_options: dict[str, Any] = {}
        self._restored: dict[str, Any] = {}

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, map_location: Any = None, **options: Any
    ) -> Self:
        """Build the task of a checkpoint, and load its weights, which must all match.

        Unlike Lightning's, it imports no class that the file names.

        Args:
            checkpoint_path: The file.
            map_location: Device of the model. Default: the CPU.
            **options: Options of the task that take the place of the checkpoint's.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If it is damaged, or of another task.
        """
        checkpoint = read_checkpoint(Path(checkpoint_path))
        options.pop("weights_only", None)  # always
        try:
            model = cls(**(cls.saved_options(checkpoint) | options))
            model.on_load_checkpoint(checkpoint)
            model.load_state_dict(checkpoint["state_dict"])
        except Exception as error:  # options of any type, and weights of any shape
            message = f"{checkpoint_path} is no checkpoint of {cls.__name__}: {error}"
            raise ValueError(message) from error
        return model.to(map_location or "cpu")

    @classmethod
    def saved_options(cls, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of a task that a checkpoint holds: plain data, no code."""
        unsaved = {"optimizer", "lr_scheduler", *cls.unsaved_options}
        saved = checkpoint.get("hyper_parameters", {})
        # LightningCLI adds names of code, to import and call.
        return {k: v for k, v in saved.items() if str(k)[:1] != "_" and k not in unsaved}

    @property
    def num_classes(self) -> int:
        """The number of classes of the network."""
        return self.hparams[self.network_option]["num_classes"]

    @property
    def known_scores(self) -> dict[str, float]:
        """The last metrics of validation and test, if the weights have not changed since."""
        trainer = self._trainer
        if trainer is None:
            return self.loaded_scores
        metrics = trainer.callback_metrics if self.scored_at == trainer.global_step else {}
        live = {k: float(v) for k, v in metrics.items() if k.startswith(("val/", "test/"))}
        return live if live or trainer.state.fn == TrainerFn.FITTING else self.loaded_scores

    def lr_scales(self) -> dict[nn.Parameter, float]:
        """Return the rates of weights, as fractions of the optimizer's, where they differ."""
        return {}

    @abstractmethod
    def logged_metrics(self) -> list[str]:
        """Return the names of the metrics that a run of training and validation logs."""

    def image_size(self, batch: Any) -> tuple[int, int] | None:
        """Return the height and width of the images of a batch; None if they are not all alike."""
        return None

    @classmethod
    def architecture_differences(cls, saved: Mapping[str, Any], given: Mapping[str, Any]) -> str:
        """Name, in one line, where the architecture of saved hyper-parameters differs from others.

        What the checkpoint's leave out is not compared. The line is empty if nothing differs.
        """
        if cls.network_option not in saved:
            return f"it holds {cls.missing_network}"
        old, new = saved[cls.network_option], given[cls.network_option]
        if not isinstance(old, Mapping):
            return f"it holds {cls.missing_network}"
        return differences(cls.network_config, old, new, cls.not_weights)

    def setup(self, stage: str) -> None:
        """Take the class names from the data.

        Raises:
            ValueError: If the data has another number of classes than the network, or what is not
                training is given data with other classes than the weights know.
        """
        self._agree_on_classes({name: getattr(self, name) for name in self.data_attributes})

    def _agree_on_classes(self, known: Mapping[str, Any]) -> None:
        """Set the class names: in training the data's, else those known, with which data agrees."""
        data = getattr(self._trainer, "datamodule", None)
        fitting = self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        source = "the checkpoint"
        for name in self.data_attributes:
            ours, theirs = known.get(name), getattr(data, name, None)
            if ours and theirs and ours != theirs and not (fitting or self.rename_classes):
                raise ValueError(f"{name} {other_classes(ours, theirs)}")
            use_theirs = theirs or (fitting and hasattr(data, name))
            setattr(self, name, theirs if use_theirs else ours)
            source = "the data" if theirs or not self.class_names else source
        count = len(self.class_names or ()) or self.classes_of(data)
        if (self.class_names and count != self.num_classes) or count > self.num_classes:
            option = f"{self.network_option}.num_classes"
            raise ValueError(
                f"{source} has {count} classes, but {option} is {self.num_classes}: "
                f"set model.{option} to {count}"
            )

    def classes_of(self, data: Any) -> int:
        """Return the number of classes of a data module, or that its labels need; 0 if unknown."""
        try:
            return len(getattr(data, "class_names", None) or ()) or getattr(data, "num_classes", 0)
        except ValueError:  # of data without labels, to predict
            return 0

    def on_fit_start(self) -> None:
        """Check what is monitored; when a run resumes, keep the optimizer's options as given."""
        require_logged(self.trainer, self)
        checkpoint = {} if follow_callbacks(self.trainer) else self._restored
        self._restored = {}
        try:
            built, ours = checkpoint.get("built_options"), self._built_options
            for change in optim.keep_given_options(built, ours, checkpoint) if built else ():
                rank_zero_info(f"the optimizer goes on with {change}")
        except (AttributeError, KeyError, TypeError) as error:  # as the states of any file
            raise ValueError(f"{self.trainer.ckpt_path} is damaged: {error!r}") from error

    def on_train_batch_start(self, batch: Any, batch_index: int) -> None:
        """Seed torch's generators, whose state no checkpoint holds, from the place in the run."""
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        place = np.random.SeedSequence((seed, self.current_epoch, batch_index, self.global_rank))
        torch.manual_seed(int(place.generate_state(1, np.uint64)[0]))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer and its schedule.

        Raises:
            ValueError: If the batch size or the length of the run is needed, but unknown, or if the
                optimizer or the schedule refuses its options.
        """
        require_new_run(self.trainer)
        groups = optim.parameter_groups(self, self.no_decay_norm_bias, self.lr_scales())
        with optim.naming("model.optimizer"):
            optimizer = fused_where_possible(self.optimizer_builder(groups), self.trainer)
        optim.set_rates(optimizer, self.lr, self.lr_base_batch_size, self.trainer)
        if self.lr_scheduler_builder is None:
            self._built_options = optim.built_options(optimizer, None, self.lr_interval)
            return {"optimizer": optimizer}
        horizon = optim.horizon_in_steps(self.trainer) if self.lr_interval == "step" else {}
        with optim.naming("model.lr_scheduler"):
            try:
                schedule = self.lr_scheduler_builder(optimizer, **horizon)
            except TypeError as error:
                if not horizon:
                    raise
                raise ValueError(
                    "lr_interval: step gives the schedule total_steps and steps_per_epoch, which "
                    f"it does not take ({error}): take eca_lightning.WarmupThenDecay, or "
                    "lr_interval epoch"
                ) from error
        self._built_options = optim.built_options(optimizer, schedule, self.lr_interval)
        monitor = getattr(schedule, "monitor", None)  # ReduceLROnPlateau has one
        options: Any = {"scheduler": schedule, "interval": self.lr_interval, "monitor": monitor}
        return {"optimizer": optimizer, "lr_scheduler": options}

    def classes_and_scores(self) -> dict[str, Any]:
        """Return what is kept with the weights."""
        known = {name: getattr(self, name) for name in self.data_attributes}
        return known | {"scores": self.known_scores}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the classes, the scores and the optimizer's options with the weights."""
        checkpoint |= self.classes_and_scores()
        checkpoint["built_options"] = self._built_options
        checkpoint["optimizer_options"] = self.optimizer_options

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the classes and the scores.

        Raises:
            ValueError: If the checkpoint is of another architecture, or of other classes than the
                data on which it is scored, or its weights are unusable.
        """
        if self._trainer is not None:
            forget_foreign_files(self._trainer, checkpoint)
        require_usable(checkpoint.get("state_dict", {}), "the checkpoint")
        saved = checkpoint.get("hyper_parameters", {})
        if differences := self.architecture_differences(saved, self.hparams):
            raise ValueError(f"the checkpoint is of another architecture: {differences}")
        self._agree_on_classes(checkpoint)
        self.loaded_scores = checkpoint.get("scores", {})
        if self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            self._restored = checkpoint
