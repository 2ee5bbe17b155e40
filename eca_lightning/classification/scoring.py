"""Validation, test and prediction of classifiers."""

from abc import ABC
from typing import Any

from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MetricCollection

from eca_lightning.classification.metrics import (
    ClassCounts,
    ExactMean,
    TopKAccuracy,
    macro_accuracy,
    recalls,
)
from eca_lightning.data.folder.preprocessing import Preprocessing
from eca_lightning.training.task import VisionTask

Batch = tuple[Tensor, Tensor]
"""Images (N, C, H, W) uint8 and labels (N,) int64; the label -1 marks rows that fill up a batch."""

_NAMED = 20  # classes that a message lists


class ScoredClassifier(VisionTask, ABC):
    """Score a classifier by its logits.

    Attributes:
        loss: What training minimizes.
        flip_tta: Evaluate and predict by the mean logits of each image and its mirror image.
        class_metrics: Log the recall of each class as well.
        preprocessing: What evaluation does to images before; None if the data does not say.
    """

    loss: Any
    flip_tta: bool
    class_metrics: bool
    preprocessing: Preprocessing | None = None

    def _create_scores(self) -> None:
        top1, top5 = TopKAccuracy(), TopKAccuracy(k=5)
        scores = MetricCollection({"loss": ExactMean(), "top1": top1, "top5": top5})
        self.val_scores = scores.clone(prefix="val/")
        self.test_scores = scores.clone(prefix="test/")
        self._never_predicted: list[str] = []

    def _create_counts(self) -> None:
        self.val_counts = ClassCounts(self.num_classes)
        self.test_counts = ClassCounts(self.num_classes)

    def logged_metrics(self) -> list[str]:
        """Return the names of the metrics that a run of training and validation logs."""
        by_class = [f"val/recall/{name}" for name in self._names() if self.class_metrics]
        return [*map(str, self.val_scores.keys()), "val/macro_accuracy", *by_class]

    def _names(self) -> list[str]:
        return self.class_names or list(map(str, range(self.num_classes)))

    def validation_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Score a batch; callbacks are given its logits, (N, num_classes) float32."""
        return self._score(self.val_scores, self.val_counts, batch)

    def test_step(self, batch: Batch, batch_index: int) -> None:
        """Score a batch."""
        self._score(self.test_scores, self.test_counts, batch)

    def predict_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the probabilities (N, num_classes) of a batch, float32."""
        logits = self._scored_logits(batch[0])
        self.count_not_finite(~logits.isfinite().all(dim=1))
        return logits.softmax(dim=1)

    def _scored_logits(self, images: Tensor) -> Tensor:
        logits = self(images).float()
        if self.flip_tta:
            logits = (logits + self(images.flip(3)).float()) / 2
        return logits

    def _score(self, scores: MetricCollection, counts: ClassCounts, batch: Batch) -> Tensor:
        images, labels = batch
        self.scored_at = self.global_step
        logits = self._scored_logits(images)
        counted = labels >= 0
        losses = F.cross_entropy(logits, labels, reduction="none", ignore_index=-1)
        scores["loss"].update(losses, counted)
        scores["top1"].update(logits, labels)
        scores["top5"].update(logits, labels)
        counts.update(logits, labels)
        self.count_not_finite(~logits.isfinite().all(dim=1) & counted)
        self.log_dict(dict(scores.items()), prog_bar=True)
        return logits

    def on_validation_epoch_end(self) -> None:
        """Log what follows from the counts of each class."""
        self._log_counts("val", self.val_counts)
        super().on_validation_epoch_end()

    def on_test_epoch_end(self) -> None:
        """Log what follows from the counts of each class."""
        self._log_counts("test", self.test_counts)
        super().on_test_epoch_end()

    def _log_counts(self, prefix: str, counts: ClassCounts) -> None:
        of_classes = counts.compute().cpu()
        counts.reset()
        names = self._names()
        metrics = {"macro_accuracy": macro_accuracy(of_classes)}
        if self.class_metrics:
            found = zip(names, recalls(of_classes), strict=True)
            metrics |= {f"recall/{name}": value for name, value in found if not value.isnan()}
        for name, value in metrics.items():
            on_bar = name == "macro_accuracy"
            # Equal on all ranks already, and the maximum of equal numbers is exact.
            self.log(f"{prefix}/{name}", value, on_bar, sync_dist=True, reduce_fx="max")
        if self.trainer.sanity_checking:
            return
        images, _, predictions = of_classes
        missing = (images > 0) & (predictions == 0)
        self._never_predicted = [name for name, m in zip(names, missing, strict=True) if m]

    def on_fit_end(self) -> None:
        """Warn of classes that the last validation has images of, and that it never predicts."""
        if never := self._never_predicted:
            more = f" and {len(never) - _NAMED} more" if len(never) > _NAMED else ""
            rank_zero_warn(
                f"{len(never)} of {self.num_classes} classes were never predicted in the last "
                f"validation: {', '.join(never[:_NAMED])}{more}. If they are rare, set "
                "data.balanced_sampling true or model.class_weights balanced, and monitor "
                "val/macro_accuracy"
            )
            self._never_predicted = []

    def image_size(self, batch: Any) -> tuple[int, int]:
        """Return the height and width of the images of a batch."""
        return batch[0].shape[2], batch[0].shape[3]

    @property
    def transform(self) -> Preprocessing:
        """What maps an image to the uint8 pixels that the model takes, as its evaluation does."""
        return self.preprocessing or Preprocessing()

    def classes_and_scores(self) -> dict[str, Any]:
        """Return what is kept with the weights."""
        view = self.preprocessing
        of_training = {"preprocessing": view and view.to_dict(), "training_loss": str(self.loss)}
        return {**super().classes_and_scores(), **of_training}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the classes, the scores and, unless it is trained on, the preprocessing."""
        super().on_load_checkpoint(checkpoint)
        if self._trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            saved = Preprocessing.from_dict(checkpoint.get("preprocessing"))
            self.preprocessing = saved or self.preprocessing
        elif (loss := checkpoint.get("training_loss", str(self.loss))) != str(self.loss):
            rank_zero_info(f"the run goes on with the loss {self.loss} ({loss} in the checkpoint)")
