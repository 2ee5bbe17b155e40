"""A run with all callbacks, as one of some ranks.

The network of seed 0 is validated, and then trained, on noise; ``FOLDER/report.json`` is left.
"""

import json
from pathlib import Path

import torch
import yaml
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import eca_lightning as callbacks
from eca_lightning import ImageClassifier
from eca_lightning.backbones import BackboneConfig
from eca_lightning.classification.callbacks import worst_images
from eca_lightning.data.sampler import DistributedBatchSampler
from eca_lightning.training.callbacks import speed

CONFIG = Path(__file__).parents[3] / "configs" / "reports" / "classification.yaml"
SAMPLES, CLASSES = 26, 5


class Clock(Callback):
    """Time passes while a batch is waited for, 1 s and half a second more a rank, and after."""

    now = 0.0

    def __call__(self):
        return self.now

    def on_train_batch_start(self, *_):
        self.now += 1 - 0.5 * rank_zero_only.rank


class Loader:
    """The batches of a rank; as in our own, rows that only fill up have the label -1."""

    def __init__(self, ranks, clock):
        generator = torch.Generator().manual_seed(0)
        size = (SAMPLES, 3, 16, 16)
        self.images = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
        self.labels = torch.randint(0, CLASSES, (SAMPLES,), generator=generator)
        order = DistributedBatchSampler(
            SAMPLES, batch_size=8, rank=rank_zero_only.rank, world_size=ranks
        )
        self.batches = [torch.from_numpy(batch) for batch in order.batches(0)]
        self.clock = clock

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for indices in self.batches:
            self.clock.now += 1 + 0.5 * rank_zero_only.rank
            yield self.images[indices], self.labels[indices].where(indices >= 0, -1)


def validate_and_train(folder, ranks):
    """Validate and train."""
    clock = speed.perf_counter = Clock()
    drawn, draw = [], worst_images.draw
    worst_images.draw = lambda worst, *named: drawn.append(worst) or draw(worst, *named)
    paths = [entry["class_path"] for entry in yaml.safe_load(CONFIG.read_text())]
    ours = [getattr(callbacks, path.rpartition(".")[2]) for path in paths if "Bar" not in path]
    logger = TensorBoardLogger(folder, name="", version="")
    trainer = Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        logger=logger,
        max_epochs=1,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[clock, *(callback() for callback in ours)],
    )
    rank_zero_only.rank = trainer.global_rank
    torch.manual_seed(0)
    model = ImageClassifier(BackboneConfig("resnet20", "eca", num_classes=CLASSES))
    (scores,) = trainer.validate(model, Loader(ranks, clock), verbose=False)
    (worst,) = drawn or [None]
    trainer.fit(model, Loader(ranks, clock), Loader(ranks, clock))
    if trainer.is_global_zero:
        logger.finalize("success")
        events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
        events.Reload()
        confused = events.Tensors("val/most_confused/text_summary")[0].tensor_proto
        report = {
            "calibration": scores["val/calibration_error"],
            "confused": confused.string_val[0].decode(),
            "worst losses": worst.losses.tolist(),
            "worst labels": worst.labels.tolist(),
            "event files": len(list(folder.rglob("events.*"))),
            "speeds": [event.value for event in events.Scalars("train/images_per_s")],
            "waits": [event.value for event in events.Scalars("train/data_wait")],
        }
        (folder / "report.json").write_text(json.dumps(report))
