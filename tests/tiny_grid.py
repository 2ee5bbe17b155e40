"""A small grid of runs to compare, its data, and the rows of a finished one."""

import numpy as np
import yaml
from PIL import Image

from eca_lightning.compare.run import COLUMNS

BASE = {
    "model": {
        "class_path": "eca_lightning.ImageClassifier",
        "init_args": {
            "backbone": {"name": "resnet20", "num_classes": 3},
            "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.05}},
        },
    },
    "trainer": {
        "accelerator": "cpu",
        "max_epochs": 2,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [{"class_path": "eca_lightning.SpeedMonitor"}],
    },
}
GRID = {
    "base": "base.yaml",
    "variants": {
        "none": {},
        "k3": {
            "model.backbone.attention": "eca",
            "model.backbone.attention_options": {"kernel": 3},
        },
    },
    "seeds": [0, 4],
    "references": ["none"],
}


def write_grid(folder, **changes):
    """A grid of 2 x 2 runs of a few steps, and its data."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for channel, name in enumerate(("red", "green", "blue")):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 128, (16, 16, 3), dtype=np.uint8)
                pixels[..., channel] += 127
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    options = {split: str(folder / split) for split in ("train", "val")}
    options |= {"batch_size": 8, "image_size": 16, "num_workers": 0}
    options |= {"train_crop": "full", "eval_crop": "full"}
    data = {"class_path": "eca_lightning.ImageFolderDataModule", "init_args": options}
    (folder / "base.yaml").write_text(yaml.safe_dump(BASE | {"data": data}))
    (folder / "grid.yaml").write_text(yaml.safe_dump(GRID | changes, sort_keys=False))
    return folder / "grid.yaml"


def made_rows(scores, **columns):
    """Rows of cells.csv with the given accuracies, in %: ``{variant: [one for each seed]}``."""
    empty = dict.fromkeys(COLUMNS, "1")
    return [
        empty
        | {"variant": variant, "seed": str(seed), "kernel": "", "attention": variant}
        | {"top1_last": str(value / 100), "top1_best": str(value / 100 + 0.01)}
        | columns.get(variant, {})
        for variant, values in scores.items()
        for seed, value in enumerate(values)
    ]
