"""Communication between the ranks of a run."""

from typing import TypeVar

import torch
from lightning.pytorch import Trainer

T = TypeVar("T")


def gather_objects(trainer: Trainer, value: T) -> list[T]:
    """Gather a Python object from all ranks; every rank must call this.

    Args:
        trainer: The trainer of the run.
        value: The object of this rank, pickled if there are other ranks.

    Returns:
        The objects of all ranks, in rank order, on every rank.
    """
    gathered = [value] * trainer.world_size
    if trainer.world_size > 1:
        torch.distributed.all_gather_object(gathered, value)
    return gathered
