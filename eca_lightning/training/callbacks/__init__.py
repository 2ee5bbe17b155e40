"""Callbacks that Lightning does not have."""

from eca_lightning.training.callbacks.predictions import PredictionWriter

__all__ = ["PredictionWriter"]
