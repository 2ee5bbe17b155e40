"""A small run on noise, for those who stop it."""

import os
import time

import numpy as np
import yaml
from lightning.pytorch import Callback
from PIL import Image

from eca_lightning.data.ffcv.sidecar import Encoding
from eca_lightning.data.ffcv.write import write_beton


def write_run(folder, steps=10, **trainer):
    """Write a training and a validation set, and ``run.yaml``.

    Args:
        folder: Where.
        steps: Steps of an epoch, of 8 images each. After each half there is a validation.
        trainer: Options of the trainer; they include the number of ranks.
    """
    ranks = trainer["devices"] * trainer.get("num_nodes", 1)
    for name, samples in (("train", 8 * steps + 2), ("val", 30)):
        rng = np.random.default_rng(samples)
        small = [Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)) for _ in range(samples)]
        write_beton(
            [(np.array(image.resize((40, 32))), i % 4) for i, image in enumerate(small)],
            folder / f"{name}.beton",
            class_names=list("abcd"),
            source="noise",
            encoding=Encoding("jpg"),
        )
    run = {
        "seed_everything": 0,
        "model": {
            "class_path": "eca_lightning.ImageClassifier",
            "init_args": {
                "backbone": {"name": "resnet20", "attention": "eca", "num_classes": 4},
                "optimizer": {
                    "class_path": "torch.optim.SGD",
                    "init_args": {"lr": 0.05, "momentum": 0.9},
                },
                "lr_scheduler": {
                    "class_path": "eca_lightning.WarmupThenDecay",
                    "init_args": {"warmup_epochs": 1},
                },
                "lr_interval": "step",
            },
        },
        "data": {
            "class_path": "eca_lightning.FFCVDataModule",
            "init_args": {
                "train": str(folder / "train.beton"),
                "val": str(folder / "val.beton"),
                "batch_size": 8 // ranks,
                "num_workers": 1,
                "image_size": 16,
                "resize_size": 20,
            },
        },
        "last_checkpoint": {"every_n_train_steps": 3},
        "trainer": {
            "accelerator": "cpu",
            "strategy": "ddp",
            "val_check_interval": 0.5,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "logger": {
                "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
                "init_args": {"save_dir": str(folder), "name": "run", "default_hp_metric": False},
            },
            **trainer,
        },
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(run))


class SlowRun(Callback):
    """Slow down a run, so that there is time to stop it.

    Args:
        step: Seconds for each step.
        start: Seconds before training, at the first start of a Slurm job.
    """

    def __init__(self, step, start=0.0):
        self.step, self.start = step, start

    def setup(self, *args, **kwargs):
        if "SLURM_RESTART_COUNT" not in os.environ:
            time.sleep(self.start)

    def on_train_batch_start(self, *args, **kwargs):
        time.sleep(self.step)
