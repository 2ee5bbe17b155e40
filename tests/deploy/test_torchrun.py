"""The torchrun launcher, with two ranks on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy/torchrun/train.sh"
RANKS, BATCH, IMAGES = 2, 4, 24
TIMEOUT = 1200  # seconds, of which a quiet machine needs 30

pytestmark = pytest.mark.timeout(TIMEOUT + 60)


@pytest.fixture
def config(tmp_path):
    """A small run on pictures of noise."""
    generator = np.random.default_rng(0)
    for number in range(IMAGES):
        folder = tmp_path / "images" / ("first" if number % 2 else "second")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    data = {"train": "images", "val": "images", "image_size": 16, "train_crop": "full"}
    data |= {"eval_crop": "full", "batch_size": BATCH, "num_workers": 0}
    logger = {"save_dir": "runs", "name": "small"}
    run = {
        "model": {
            "class_path": "eca_lightning.ImageClassifier",
            "init_args": {
                "backbone": {"name": "resnet20", "attention": "eca", "num_classes": 2},
            },
        },
        "data": {"class_path": "eca_lightning.ImageFolderDataModule", "init_args": data},
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": 1,
            "enable_progress_bar": False,
            "logger": {
                "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
                "init_args": logger,
            },
        },
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run))
    return path


def launch(folder, *arguments, **variables):
    """Run the script; return its status and what it wrote to stderr."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        ["bash", SCRIPT, *arguments],
        cwd=folder,
        env=environment | variables,
        text=True,
        stderr=subprocess.PIPE,
    )
    try:
        _, errors = process.communicate(timeout=TIMEOUT)
        return process.returncode, errors
    finally:
        process.terminate()  # and torchrun its ranks, which would outlive it if it were killed
        process.wait()


@pytest.mark.slow
def test_trains_with_a_process_a_rank_in_the_folder_of_the_run(config, tmp_path):
    variables = {"RUN_ID": "first", "NPROC_PER_NODE": str(RANKS), "RDZV_ENDPOINT": "localhost:0"}
    status, errors = launch(tmp_path, "--config", config.name, **variables)
    assert status == 0, errors
    assert f"Starting with {RANKS} processes" in errors
    checkpoint = torch.load(
        tmp_path / "runs/small/first/checkpoints/last.ckpt", map_location="cpu", weights_only=True
    )
    assert checkpoint["global_step"] == IMAGES // (RANKS * BATCH)


def test_asks_for_a_name_of_the_run(tmp_path):
    status, errors = launch(tmp_path)
    assert status != 0
    assert "RUN_ID=first" in errors


def test_commands_of_the_head_comment_are_understood(understood):
    text = SCRIPT.read_text().replace("\\\n#", "")
    [line] = [line for line in text.splitlines() if "bash deploy/torchrun/train.sh" in line]
    understood(["fit", *line.partition("train.sh ")[2].split()])
