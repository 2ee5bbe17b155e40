"""LightningModules: what is learnt, and how it is scored."""

from eca_lightning.tasks.classification import ImageClassifier

__all__ = ["ImageClassifier"]
