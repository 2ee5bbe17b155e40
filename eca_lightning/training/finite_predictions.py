"""End no evaluation well with a prediction that is NaN or infinite."""

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor


class FinitePredictions(LightningModule):
    """Count the predictions that are NaN or infinite, and report them when the data are done."""

    _not_finite: Tensor | None = None

    def count_not_finite(self, bad: Tensor) -> None:
        """Count the predictions for which ``bad``, bool of any shape, is true."""
        count = bad.sum()  # stays on the device: no wait for each batch
        self._not_finite = count if self._not_finite is None else self._not_finite + count

    def on_validation_epoch_end(self) -> None:
        """Refuse to end well if a prediction is NaN or infinite; in training, warn."""
        if self.trainer.state.fn != TrainerFn.FITTING:
            self._require_finite()
        elif count := self._all_not_finite():
            rank_zero_warn(f"{count} predictions are NaN or infinite in validation: none is right")

    def on_test_epoch_end(self) -> None:
        """Refuse to end well if a prediction is NaN or infinite."""
        self._require_finite()

    def on_predict_epoch_end(self) -> None:
        """Refuse to end well if a prediction is NaN or infinite."""
        self._require_finite()

    def _require_finite(self) -> None:
        if count := self._all_not_finite():
            raise FloatingPointError(
                f"{count} predictions are NaN or infinite: the weights are of a run that diverged, "
                "or the precision is too low"
            )

    def _all_not_finite(self) -> int:
        """Return the number on all ranks, and start anew."""
        count, self._not_finite = self._not_finite, None
        if count is None:
            count = torch.zeros((), dtype=torch.int64, device=self.device)
        return int(self.trainer.strategy.reduce(count, reduce_op="sum"))
