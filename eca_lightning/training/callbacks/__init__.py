"""Callbacks that Lightning does not have."""

from eca_lightning.training.callbacks.predictions import PredictionWriter
from eca_lightning.training.callbacks.progressive_resizing import ProgressiveResizing

__all__ = ["PredictionWriter", "ProgressiveResizing"]
