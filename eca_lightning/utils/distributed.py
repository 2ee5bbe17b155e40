"""What the ranks of a run have, brought together."""

from typing import TypeVar

import torch
from lightning.pytorch import Trainer

T = TypeVar("T")


def of_all_ranks(trainer: Trainer, own: T) -> list[T]:
    """Give every rank what each of them has, in the order of ranks; all must call it together.

    Args:
        trainer: The run.
        own: What this rank has; it is pickled if there are others.
    """
    gathered = [own] * trainer.world_size
    if trainer.world_size > 1:
        torch.distributed.all_gather_object(gathered, own)
    return gathered
