"""Callbacks that Lightning does not have, or not as runs here need them."""

from eca_lightning.training.callbacks.attention_figures import AttentionFigures
from eca_lightning.training.callbacks.attention_gates import AttentionMonitor
from eca_lightning.training.callbacks.calibration import CalibrationMonitor
from eca_lightning.training.callbacks.confusion import ConfusionReport
from eca_lightning.training.callbacks.detection_images import DetectionImages
from eca_lightning.training.callbacks.detections import DetectionWriter
from eca_lightning.training.callbacks.gradient_norm import GradientNormMonitor
from eca_lightning.training.callbacks.hyperparameters import BestScores
from eca_lightning.training.callbacks.last_checkpoint import LastCheckpoint
from eca_lightning.training.callbacks.learning_rate import LearningRateMonitor
from eca_lightning.training.callbacks.loss_guard import LossGuard
from eca_lightning.training.callbacks.predictions import PredictionWriter
from eca_lightning.training.callbacks.progressive_resizing import ProgressiveResizing
from eca_lightning.training.callbacks.run_description import RunDescription
from eca_lightning.training.callbacks.speed import SpeedMonitor
from eca_lightning.training.callbacks.weight_averaging import ExponentialMovingAverage
from eca_lightning.training.callbacks.worst_images import WorstImages

__all__ = [
    "AttentionFigures",
    "AttentionMonitor",
    "BestScores",
    "CalibrationMonitor",
    "ConfusionReport",
    "DetectionImages",
    "DetectionWriter",
    "ExponentialMovingAverage",
    "GradientNormMonitor",
    "LastCheckpoint",
    "LearningRateMonitor",
    "LossGuard",
    "PredictionWriter",
    "ProgressiveResizing",
    "RunDescription",
    "SpeedMonitor",
    "WorstImages",
]
