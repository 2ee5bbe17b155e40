"""Communication between the ranks of a run."""

from typing import TypeVar

import torch
from lightning.pytorch import Trainer

T = TypeVar("T")


def gather_objects(trainer: Trainer, value: T) -> list[T]:
    """Gather a Python object from all ranks, in rank order; every rank must call this."""
    gathered = [value] * trainer.world_size
    if trainer.world_size > 1:
        torch.distributed.all_gather_object(gathered, value)
    return gathered
