"""ECA-Nets (Efficient Channel Attention, arXiv 1910.03151) and their rivals, on Lightning.

The public names: configs, checkpoints and documents name these, and the files behind them may move.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eca_lightning.attention import create_attention as create_attention
    from eca_lightning.backbones import create_backbone as create_backbone
    from eca_lightning.classification.callbacks.attention_figures import (
        AttentionFigures as AttentionFigures,
    )
    from eca_lightning.classification.callbacks.attention_gates import (
        AttentionMonitor as AttentionMonitor,
    )
    from eca_lightning.classification.callbacks.calibration import (
        CalibrationMonitor as CalibrationMonitor,
    )
    from eca_lightning.classification.callbacks.confusion import ConfusionReport as ConfusionReport
    from eca_lightning.classification.callbacks.worst_images import WorstImages as WorstImages
    from eca_lightning.classification.callbacks.writer import PredictionWriter as PredictionWriter
    from eca_lightning.classification.import_command import load_classifier as load_classifier
    from eca_lightning.classification.task import ImageClassifier as ImageClassifier
    from eca_lightning.data.ffcv.datamodule import FFCVDataModule as FFCVDataModule
    from eca_lightning.data.folder.datamodule import ImageFolderDataModule as ImageFolderDataModule
    from eca_lightning.data.transforms.augmentation import ColorJitter as ColorJitter
    from eca_lightning.data.transforms.augmentation import RandomErasing as RandomErasing
    from eca_lightning.data.transforms.auto_augment import RandAugment as RandAugment
    from eca_lightning.data.transforms.auto_augment import TrivialAugment as TrivialAugment
    from eca_lightning.detection.callbacks.images import DetectionImages as DetectionImages
    from eca_lightning.detection.callbacks.writer import DetectionWriter as DetectionWriter
    from eca_lightning.detection.datamodule import CocoDataModule as CocoDataModule
    from eca_lightning.detection.task import ObjectDetector as ObjectDetector
    from eca_lightning.training.callbacks.best_scores import BestScores as BestScores
    from eca_lightning.training.callbacks.gradient_norm import (
        GradientNormMonitor as GradientNormMonitor,
    )
    from eca_lightning.training.callbacks.last_checkpoint import LastCheckpoint as LastCheckpoint
    from eca_lightning.training.callbacks.learning_rate import (
        LearningRateMonitor as LearningRateMonitor,
    )
    from eca_lightning.training.callbacks.loss_guard import LossGuard as LossGuard
    from eca_lightning.training.callbacks.progressive_resizing import (
        ProgressiveResizing as ProgressiveResizing,
    )
    from eca_lightning.training.callbacks.run_description import RunDescription as RunDescription
    from eca_lightning.training.callbacks.speed import SpeedMonitor as SpeedMonitor
    from eca_lightning.training.callbacks.weight_averaging import (
        ExponentialMovingAverage as ExponentialMovingAverage,
    )
    from eca_lightning.training.schedules import WarmupThenDecay as WarmupThenDecay

_MODULES = {
    "AttentionFigures": "classification.callbacks.attention_figures",
    "AttentionMonitor": "classification.callbacks.attention_gates",
    "BestScores": "training.callbacks.best_scores",
    "CalibrationMonitor": "classification.callbacks.calibration",
    "CocoDataModule": "detection.datamodule",
    "ColorJitter": "data.transforms.augmentation",
    "ConfusionReport": "classification.callbacks.confusion",
    "DetectionImages": "detection.callbacks.images",
    "DetectionWriter": "detection.callbacks.writer",
    "ExponentialMovingAverage": "training.callbacks.weight_averaging",
    "FFCVDataModule": "data.ffcv.datamodule",
    "GradientNormMonitor": "training.callbacks.gradient_norm",
    "ImageClassifier": "classification.task",
    "ImageFolderDataModule": "data.folder.datamodule",
    "LastCheckpoint": "training.callbacks.last_checkpoint",
    "LearningRateMonitor": "training.callbacks.learning_rate",
    "LossGuard": "training.callbacks.loss_guard",
    "ObjectDetector": "detection.task",
    "PredictionWriter": "classification.callbacks.writer",
    "ProgressiveResizing": "training.callbacks.progressive_resizing",
    "RandAugment": "data.transforms.auto_augment",
    "RandomErasing": "data.transforms.augmentation",
    "RunDescription": "training.callbacks.run_description",
    "SpeedMonitor": "training.callbacks.speed",
    "TrivialAugment": "data.transforms.auto_augment",
    "WarmupThenDecay": "training.schedules",
    "WorstImages": "classification.callbacks.worst_images",
    "create_attention": "attention",
    "create_backbone": "backbones",
    "load_classifier": "classification.import_command",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    # Importing torch takes seconds, which `eca-lightning --help` should not.
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
