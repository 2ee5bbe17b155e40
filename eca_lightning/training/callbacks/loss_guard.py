"""Stop training when the loss is NaN or infinite.

Lightning's SpikeDetection does not fit: it synchronizes the ranks at every step, its state cannot
be loaded again, and it names a batch by its number, not by its samples.
"""

import json
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from eca_lightning.data.epoch_loader import EpochLoader, IndexedLoader
from eca_lightning.training.callbacks.summaries import is_logging_step
from eca_lightning.utils.distributed import gather_objects

REPORT = "non_finite_loss.json"


class LossGuard(Callback):
    """Stop when the loss is NaN or infinite, before a checkpoint is written with such weights.

    Losses are checked when metrics are logged and before a checkpoint is written, so that no other
    step waits for the GPU. The samples of the first bad batch are written to
    ``non_finite_loss.json`` in the run's folder: with the epoch and the seed they reproduce it.
    """

    def __init__(self) -> None:
        self._losses: list[tuple[int, int, Tensor]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the losses of another run."""
        self._losses = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep a loss; check all at the steps that are logged."""
        if outputs:
            self._losses.append((trainer.current_epoch, batch_idx, outputs["loss"].detach()))
        accumulates = trainer.fit_loop.epoch_loop._should_accumulate()
        if is_logging_step(trainer, trainer.global_step) and not accumulates:
            self._check(trainer)

    def on_save_checkpoint(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Check before a checkpoint is written, unless other ranks may not write it."""
        if trainer.state.fn == "fit" and not trainer.interrupted:
            self._check(trainer)

    def _check(self, trainer: Trainer) -> None:
        """Raise a FloatingPointError on all ranks if a loss since the last time is not finite."""
        losses, self._losses = self._losses, []
        finite = torch.stack([loss for *_, loss in losses]).isfinite().tolist() if losses else []
        found = [entry for entry, good in zip(losses, finite, strict=True) if not good]
        own = _report(trainer, *found[0]) if found else None
        if not trainer.strategy.reduce_boolean_decision(own is not None, all=False):
            return
        bad = [report for report in gather_objects(trainer, own) if report is not None]
        first = min((report["epoch"], report["batch"]) for report in bad)
        bad = [report for report in bad if (report["epoch"], report["batch"]) == first]
        path = Path(trainer.log_dir or trainer.default_root_dir) / REPORT
        if trainer.is_global_zero:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(bad))
        raise FloatingPointError(
            f"the loss is {bad[0]['loss']} at batch {first[1]} of epoch {first[0]}. Its samples "
            f"are listed in {path}, and no checkpoint was written after it: check them, clip the "
            "gradients (--trainer.gradient_clip_val) or use a higher precision, and resume with "
            "--ckpt_path auto"
        )


def _report(trainer: Trainer, epoch: int, batch: int, loss: Tensor) -> dict[str, Any]:
    """Return what reproduces a batch; samples are -1 where the batch is padded."""
    loader: Any = trainer.train_dataloader
    known = isinstance(loader, IndexedLoader)
    return {
        "rank": trainer.global_rank,
        "epoch": epoch,
        "batch": batch,
        "loss": str(loss.item()),
        "seed": loader.index_sampler.seed if isinstance(loader, EpochLoader) else None,
        "samples": loader.batch_indices(batch, epoch).tolist() if known else None,
    }
