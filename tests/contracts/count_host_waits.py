"""Operations for which the host would wait for a GPU, counted in a run on CPUs.

On a GPU, a host that waits at each step cannot prepare the next one, and the GPU is idle meanwhile.
"""

import json
from collections import Counter

import torch
from lightning.pytorch import Callback
from torch.utils._python_dispatch import TorchDispatchMode

from eca_lightning.lightning_cli import lightning_cli

WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "bincount"}
"""Operations whose result, or the size of it, the host needs."""


class HostWaits(TorchDispatchMode):
    """Count these operations, and collective ones on tensors that a GPU would hold."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().removeprefix("aten::").partition(".")[0]
        indices = args[1] if name in ("index", "index_put_") else ()
        masked = any(index is not None and index.dtype == torch.bool for index in indices)
        self.count += masked or name in WAITS
        return function(*args, **(kwargs or {}))


class Meter(Callback):
    """Count the waits of each training step, by its number, and of each validation batch.

    What follows a step in Lightning's loop, up to the next or to a validation, belongs to the step.
    """

    def __init__(self):
        self.training, self.validation = Counter(), Counter()
        self.ended = lambda: None

    def _begin(self, counter, key):
        self.ended()
        mode = HostWaits()
        mode.__enter__()

        def ended():
            mode.__exit__(None, None, None)
            counter[key] += mode.count
            self.ended = lambda: None

        self.ended = ended

    def on_train_batch_start(self, trainer, *_):
        self._begin(self.training, trainer.global_step + 1)

    def on_validation_batch_start(self, trainer, module, batch, index, *_):
        self._begin(self.validation, index)

    def on_validation_start(self, *_):
        self.ended()

    on_validation_epoch_end = on_train_epoch_end = on_validation_start


def count_host_waits(folder, arguments):
    """Fit, and leave the counts in ``FOLDER/waits.json``."""
    cli = lightning_cli(arguments, run=False)
    meter = Meter()
    cli.trainer.callbacks.insert(0, meter)
    cli.trainer.fit(cli.model, cli.datamodule)
    if cli.trainer.is_global_zero:
        counts = {"training": meter.training, "validation": meter.validation}
        (folder / "waits.json").write_text(json.dumps(counts))
