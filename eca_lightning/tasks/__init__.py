"""LightningModules: what is learnt, and how it is scored."""

from eca_lightning.tasks.classification import ImageClassifier
from eca_lightning.tasks.detection import ObjectDetector

__all__ = ["ImageClassifier", "ObjectDetector"]
