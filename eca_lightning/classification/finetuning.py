"""Fine-tune a classifier: frozen stages, and learning rates by depth."""

from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BaseFinetuning,
    StochasticWeightAveraging,
    WeightAveraging,
)
from torch import nn

from eca_lightning.backbones.blocks import parameter_depths
from eca_lightning.backbones.features import first_stages
from eca_lightning.backbones.network import layout_of
from eca_lightning.utils.checks import require

_SEES_THE_NETWORK = (BaseFinetuning, StochasticWeightAveraging, WeightAveraging)
"""Callbacks that freeze or copy the network in their setup, which comes before the task's."""


@dataclass(frozen=True)
class FineTuning:
    """Keep the first stages as they are, and train the others at rates that depend on their depth.

    Frozen stages are in evaluation mode: the statistics of their batch norms stay. Rates follow the
    run's schedule, each at its own fraction.

    Args:
        freeze: Number of stages that are not trained. The stem is the first, so that a ResNet has
            five; all of them leave the classifier alone to be trained.
        unfreeze_epoch: Epoch, from 0, from which the frozen stages are trained as well. Default:
            never.
        layer_decay: Factor of the learning rate from each block to the one before it (Clark et al.,
            arXiv 2003.10555; Bao et al., 2106.08254); the stem is the first layer, the classifier
            the last.
        head_lr_factor: Learning rate of the classifier as a multiple of the optimizer's.

    Raises:
        ValueError: If a value is out of range, or would do nothing.
    """

    freeze: int = 0
    unfreeze_epoch: int | None = None
    layer_decay: float = 1.0
    head_lr_factor: float = 1.0

    def __post_init__(self) -> None:
        option = "model.finetuning."
        require(self.freeze >= 0, f"{option}freeze", "at least 0", self.freeze)
        decay, factor = self.layer_decay, self.head_lr_factor
        require(0 < decay <= 1, f"{option}layer_decay", "above 0 and at most 1", decay)
        require(0 < factor < float("inf"), f"{option}head_lr_factor", "above 0", factor)
        if (epoch := self.unfreeze_epoch) is not None:
            require(epoch >= 1, f"{option}unfreeze_epoch", "at least 1", epoch)
            needed = f"left out without {option}freeze"
            require(self.freeze > 0, f"{option}unfreeze_epoch", needed, epoch)

    def frozen(self, network: nn.Module) -> list[nn.Module]:
        """Return the modules of the first stages of a network.

        Raises:
            ValueError: If it has fewer.
        """
        stages = len(layout_of(network).stages)
        known = f"from 0 to {stages}, the stem and the stages of the backbone"
        require(self.freeze <= stages, "model.finetuning.freeze", known, self.freeze)
        return first_stages(network, self.freeze)

    def is_frozen(self, epoch: int) -> bool:
        """Whether the first stages are frozen in an epoch."""
        return self.freeze > 0 and (self.unfreeze_epoch is None or epoch < self.unfreeze_epoch)

    def hold(self, network: nn.Module, epoch: int, ranks: int) -> None:
        """Freeze or train the first stages, before a training batch.

        DDP averages the gradients of those weights alone that are trained when the run starts, so
        that of what is unfrozen later, several ranks compute gradients and discard them.
        """
        frozen, modules = self.is_frozen(epoch), self.frozen(network)
        if modules and modules[0].training == frozen:  # also after a validation
            for module in modules:
                module.train(not frozen)
                if ranks == 1 or self.unfreeze_epoch is None:
                    module.requires_grad_(not frozen)

    def lr_scales(self, network: nn.Module) -> dict[nn.Parameter, float]:
        """Return the learning rate of each weight as a fraction of the optimizer's."""
        depths = parameter_depths(network)
        head, is_classifier = max(depths.values()), layout_of(network).is_classifier
        return {
            parameter: self.layer_decay ** (head - depths[name])
            * (self.head_lr_factor if is_classifier(name) else 1.0)
            for name, parameter in network.named_parameters()
        }


def prepare_network(trainer: Trainer, task: Any, rebuilt: bool) -> None:
    """Freeze what a run never trains, and have callbacks see the network as it is trained.

    Args:
        trainer: The trainer, whose callbacks are set up.
        task: The classifier.
        rebuilt: Whether the network was replaced since.

    Raises:
        ValueError: If callbacks cannot work with the run.
    """
    stages: FineTuning = task.finetuning or FineTuning()
    for module in stages.frozen(task.backbone):
        module.requires_grad_(stages.unfreeze_epoch is not None)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        name = type(callback).__name__
        if rebuilt and isinstance(callback, _SEES_THE_NETWORK):
            callback.setup(trainer, task, "fit")
        if isinstance(callback, BaseFinetuning | StochasticWeightAveraging) and stages.freeze:
            raise ValueError(f"{name} excludes model.finetuning.freeze: leave one of them out")
        if isinstance(callback, BaseFinetuning) and trainer.world_size > 1:
            raise ValueError(
                f"{name} is for one process: DDP averages no gradients of what it unfreezes. "
                "Take model.finetuning in its place"
            )
        if isinstance(callback, BackboneFinetuning):  # the head lies in our backbone
            classifier = layout_of(task.backbone).classifier
            task.backbone.get_submodule(classifier).requires_grad_(True)
