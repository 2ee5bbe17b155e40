"""A small run of the quickstart on pictures of noise; the fixture `work` has trained it."""

from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

CONFIGS = Path(__file__).parents[1] / "configs"
CLASSES = ("blue", "green", "red")


def write_images(folder, per_class):
    """Pictures of noise, each class brightest in a channel of its own."""
    generator = np.random.default_rng(per_class)
    for index, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = generator.integers(0, 128, (20, 20, 3), dtype=np.uint8)
            pixels[..., 2 - index] += 127
            Image.fromarray(pixels).save(folder / name / f"{number:02}.png")


def config(folder, **data):
    """A small run on the pictures, written to a file."""
    sets = {"train": str(folder / "train.beton"), "val": str(folder / "val.beton")}
    options = {"batch_size": 10, "num_workers": 1, "train_crop": "full", "eval_crop": "full"}
    run = yaml.safe_load((CONFIGS / "quickstart.yaml").read_text())
    backbone = {"name": "shallow.basic_blocks", "attention": "eca", "num_classes": 3}
    backbone["stem"] = "small"
    run["model"]["init_args"]["backbone"] = backbone
    run["data"] = {
        "class_path": "eca_lightning.FFCVDataModule",
        "init_args": sets | options | data,
    }
    run["trainer"] |= {"max_epochs": 3, "accelerator": "cpu", "log_every_n_steps": 1}
    run["trainer"]["val_check_interval"] = 1.0
    run["trainer"]["logger"] = {"init_args": {"save_dir": str(folder / "runs")}}
    run["reports"] = str(CONFIGS / "reports" / "classification.yaml")
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(run))
    return path


def best(work):
    return work / "runs" / "small" / "version_0" / "checkpoints" / "best.ckpt"


def same_weights(*paths):
    first, *others = (torch.load(path, weights_only=True)["state_dict"] for path in paths)
    return all(torch.equal(other[key], first[key]) for other in others for key in first)
