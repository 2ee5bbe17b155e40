"""Random numbers that a resumed run draws as an uninterrupted one does."""

import os

import numpy as np
import torch
from lightning.pytorch import LightningModule


def seed_from_place(module: LightningModule, batch_index: int) -> None:
    """Seed torch's generators from the run's seed, the epoch, the batch and the rank.

    No checkpoint holds their state. To be called at the start of each training batch.

    Args:
        module: A module that a trainer is fitting.
        batch_index: Place of the batch in its epoch, from 0.
    """
    seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
    place = np.random.SeedSequence((seed, module.current_epoch, batch_index, module.global_rank))
    torch.manual_seed(int(place.generate_state(1, np.uint64)[0]))
