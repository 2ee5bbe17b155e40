"""The public names and the modules that define them; `lazy_loader` reads this file."""

from .attention import create_attention as create_attention
from .attention import register_attention as register_attention
from .backbones import create_backbone as create_backbone
from .classification.callbacks.attention_figures import AttentionFigures as AttentionFigures
from .classification.callbacks.attention_gates import AttentionMonitor as AttentionMonitor
from .classification.callbacks.calibration import CalibrationMonitor as CalibrationMonitor
from .classification.callbacks.confusion import ConfusionReport as ConfusionReport
from .classification.callbacks.worst_images import WorstImages as WorstImages
from .classification.callbacks.writer import PredictionWriter as PredictionWriter
from .classification.import_command import load_classifier as load_classifier
from .classification.losses import FocalLoss as FocalLoss
from .classification.task import ImageClassifier as ImageClassifier
from .data.ffcv.datamodule import FFCVDataModule as FFCVDataModule
from .data.folder.datamodule import ImageFolderDataModule as ImageFolderDataModule
from .data.transforms.augmentation import ColorJitter as ColorJitter
from .data.transforms.augmentation import RandomErasing as RandomErasing
from .data.transforms.auto_augment import RandAugment as RandAugment
from .data.transforms.auto_augment import TrivialAugment as TrivialAugment
from .detection.callbacks.images import DetectionImages as DetectionImages
from .detection.callbacks.writer import DetectionWriter as DetectionWriter
from .detection.datamodule import CocoDataModule as CocoDataModule
from .detection.task import ObjectDetector as ObjectDetector
from .training.callbacks.best_scores import BestScores as BestScores
from .training.callbacks.gradient_norm import GradientNormMonitor as GradientNormMonitor
from .training.callbacks.last_checkpoint import LastCheckpoint as LastCheckpoint
from .training.callbacks.learning_rate import LearningRateMonitor as LearningRateMonitor
from .training.callbacks.loss_guard import LossGuard as LossGuard
from .training.callbacks.progress_bar import ProgressBar as ProgressBar
from .training.callbacks.progressive_resizing import ProgressiveResizing as ProgressiveResizing
from .training.callbacks.run_description import RunDescription as RunDescription
from .training.callbacks.speed import SpeedMonitor as SpeedMonitor
from .training.callbacks.weight_averaging import (
    ExponentialMovingAverage as ExponentialMovingAverage,
)
from .training.run_loggers import RunLogger as RunLogger
from .training.schedules import WarmupThenDecay as WarmupThenDecay
