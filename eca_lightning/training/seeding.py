"""Seed each training step, so that a resumed run draws what an uninterrupted one would have."""

import os

import numpy as np
import torch
from lightning.pytorch import LightningModule


def seed_from_place(module: LightningModule, batch_index: int) -> None:
    """Seed torch's generators from the run's seed, the epoch, the batch and the rank.

    No checkpoint holds their state. Call it at the start of each training batch.

    Args:
        module: A module that a trainer is fitting.
        batch_index: Index of the batch in its epoch.
    """
    seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
    place = np.random.SeedSequence((seed, module.current_epoch, batch_index, module.global_rank))
    torch.manual_seed(int(place.generate_state(1, np.uint64)[0]))
