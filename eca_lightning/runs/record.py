"""Note the state and the best scores of a run in its folder, where they are read without torch."""

import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from eca_lightning.training.task import VisionTask
from eca_lightning.utils.atomic import atomic_write
from eca_lightning.utils.run_folder import RECORD, read_record


class RunRecord(Callback):
    """Keep ``run.json`` in a run's folder up to date, on rank zero.

    It has the command, the weights that the run started from, the state (``running``, ``stopped``
    or ``finished``), epochs and steps, and the scores of the best validation.

    Args:
        folder: The folder.
        arguments: The command line.
    """

    def __init__(self, folder: Path, arguments: Sequence[str]) -> None:
        self.folder = folder
        self._record: dict[str, Any] = {"command": list(arguments), "started": _now(), "best": {}}

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Note the weights that the model starts from, before it has read and forgotten them."""
        names = ("weights", "backbone_weights")
        self._start = next((w for w in (getattr(pl_module, n, None) for n in names) if w), None)

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Note what the run starts from, or go on with what it noted before."""
        resumed = trainer.ckpt_path is not None and (self.folder / RECORD).is_file()
        if resumed:
            with suppress(ValueError, OSError):  # damaged: the list is not worth the run
                self._record |= read_record(self.folder) | {"command": self._record["command"]}
        else:
            self._record["weights"] = str(self._start or trainer.ckpt_path or "")

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Note that it runs."""
        checkpoint: Any = trainer.checkpoint_callback
        known = f"val/{pl_module.main_metric}" if isinstance(pl_module, VisionTask) else None
        self._record["monitor"] = getattr(checkpoint, "monitor", None) or known
        self._record["mode"] = getattr(checkpoint, "mode", "max")
        self._write(trainer, "running")

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Note the scores if they are the best so far."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        logged = trainer.callback_metrics
        scores = {name: float(logged[name]) for name in logged if name.startswith("val/")}
        name, best = self._record["monitor"], self._record["best"]
        if name in scores:
            sign = -1 if self._record["mode"] == "min" else 1
            if name not in best or sign * scores[name] > sign * best[name]:
                self._record["best"] = {"epoch": trainer.current_epoch + 1} | scores
        self._write(trainer, "running")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Count the epoch."""
        self._write(trainer, "running", trainer.current_epoch + 1)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Note that it has reached its end, which may be early stopping's."""
        self._write(trainer, "finished")

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Note that it was stopped."""
        if "monitor" in self._record:
            self._write(trainer, "stopped")

    def _write(self, trainer: Trainer, state: str, epochs: int | None = None) -> None:
        if not trainer.is_global_zero:
            return
        done = trainer.current_epoch if epochs is None else epochs
        self._record |= {"state": state, "epochs": done, "max_epochs": trainer.max_epochs}
        self._record |= {"steps": trainer.global_step, "updated": _now()}
        with suppress(OSError), atomic_write(self.folder / RECORD) as part:
            part.write_text(json.dumps(self._record, indent=2) + "\n")


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
