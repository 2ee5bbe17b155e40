"""Whatever a file from elsewhere holds, a command ends soon, clearly, and leaves other files alone.

Each case mutates one file of a small run in a way that follows from its number, and runs a command
that reads it. ``FUZZED_FILES`` is the number of cases; ``FUZZ_SEED`` gives others.
"""

import hashlib
import os
import random
import resource
import shutil
import sys

import pytest
import torch
import yaml
from command import noise_run
from forked import start_forked
from mutations import mutated
from tiny_scenes import scene, tiny_detector, write_coco

from eca_lightning.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SEED = os.environ.get("FUZZ_SEED", "0")
CPU_SECONDS, PATIENCE = 20, 200  # the other is for machines with other work
CHECKPOINT = "runs/run/version_0/checkpoints/last.ckpt"
WRITE = "--source images --output train.beton --num-workers 1"
RUN = "--config run.yaml --ckpt_path trained.ckpt"
DETECTOR = "--config detector.yaml --ckpt_path detector.ckpt"
TARGETS = {
    "trained.ckpt": [
        f"fit {RUN} --trainer.max_epochs 2",
        f"validate {RUN}",
        f"predict {RUN} --data.predict images --output out/classes.csv",
        "import trained.ckpt out/new.ckpt",
        "export trained.ckpt out/new.safetensors",
        "attention trained.ckpt images --output out",
    ],
    CHECKPOINT: ["fit --config run.yaml --ckpt_path auto --trainer.max_epochs 2"],
    "weights.pth": ["import weights.pth out/new.ckpt"],
    "weights.safetensors": ["import weights.safetensors out/new.ckpt"],
    "weights.json": ["import weights.safetensors out/new.ckpt"],
    "config.json": ["import weights.pth out/new.ckpt", "export weights.pth out/new.safetensors"],
    "run.yaml": ["fit --config run.yaml", f"validate {RUN}"],
    "grid.yaml": ["compare grid.yaml --output out --cell 99"],
    "train.beton.json": [
        "data info train.beton",
        "data verify train.beton",
        f"data write image-folder {WRITE}",
        "validate --config beton.yaml --ckpt_path trained.ckpt",
    ],
    "train.beton": [
        "data info train.beton",
        "data verify train.beton",
        f"data write image-folder {WRITE}",
    ],
    ".images.checked": ["fit --config run.yaml", f"validate {RUN}"],
    "val.json": [f"validate {DETECTOR}", "fit --config detector.yaml"],
    "detector.ckpt": [
        f"validate {DETECTOR}",
        f"fit {DETECTOR} --trainer.max_epochs 2",
        f"predict {DETECTOR} --data.predict val --output out/objects.json",
    ],
}
COUNT = int(os.environ.get("FUZZED_FILES", len(TARGETS)))


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """A folder in which each of the commands ends well, and another that none may touch."""
    folder = tmp_path_factory.mktemp("seeds")
    work = folder / "work"
    config = noise_run(work)
    images = dict.fromkeys(("train", "val"), "images")
    config["data"]["init_args"] |= images
    (work / "run.yaml").write_text(yaml.safe_dump(config))
    beton = config | {"data": {"class_path": "FFCVDataModule", "init_args": {"val": "train.beton"}}}
    beton["data"]["init_args"] |= {"eval_crop": "full", "batch_size": 6, "num_workers": 1}
    (work / "beton.yaml").write_text(yaml.safe_dump(beton))
    grid = {"base": "run.yaml", "variants": {"a": {}}, "seeds": [0], "references": ["a"]}
    (work / "grid.yaml").write_text(yaml.safe_dump(grid))
    for split, first in (("train", 1), ("val", 31)):
        write_coco(work, split, [scene(i, objects=2) for i in range(first, first + 2)])
    (work / "detector.yaml").write_text(yaml.safe_dump(detector_run()))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        patch.setattr("sys.argv", ["eca-lightning"])
        main(["data", "write", "image-folder", *WRITE.split()])
        main(["fit", "--config", "run.yaml"])
        shutil.copy(CHECKPOINT, "trained.ckpt")
        main(["export", "trained.ckpt", "weights.safetensors"])
        shutil.copy("weights.json", "config.json")
        torch.save(torch.load("trained.ckpt", weights_only=True)["state_dict"], "weights.pth")
        main(["fit", "--config", "detector.yaml", "--trainer.logger.name", "detector"])
        shutil.move("runs/detector/version_0/checkpoints/best.ckpt", "detector.ckpt")
        shutil.rmtree("runs/detector")
    precious = folder / "precious"
    precious.mkdir()
    shutil.copy(work / "trained.ckpt", precious / "best.ckpt")
    (precious / "notes.txt").write_text("of a week")
    return folder


def detector_run():
    tiny = tiny_detector("mask_rcnn")
    names = ("name", "num_classes", "norm", "trainable_layers", "min_size", "max_size")
    names += ("anchor_sizes", "fpn_channels", "options")
    detector = {name: getattr(tiny, name) for name in names}
    detector["backbone"] = {"name": "shallow.basic_blocks", "attention": "eca"}
    sets = {split: split for split in ("train", "val")}
    sets |= {f"{split}_annotations": f"{split}.json" for split in ("train", "val")}
    return {
        "model": {"class_path": "ObjectDetector", "init_args": {"detector": detector}},
        "data": {
            "class_path": "CocoDataModule",
            "init_args": sets | {"batch_size": 2, "num_workers": 0, "masks": True},
        },
        "checkpoint": {"monitor": "val/box_AP"},
        "trainer": {"accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False},
    }


def run_program(folder, command):
    """Be the program in a process of its own, with a home and limits of its own."""
    import shallow  # noqa: F401  # which the detector names

    os.chdir(folder / "work")
    os.environ |= {"HOME": str(folder / "precious"), "TMPDIR": str(folder / "tmp")}
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_DATA, (2**34, 2**34))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**28, 2**28))
    sys.argv = ["eca-lightning"]
    main(command.split())


def contents(folder):
    """The checksums of all files in a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def is_own(path, command):
    """Whether a command may write a file."""
    own = ["work/out/", "tmp/", "work/runs/", "work/.images.", "work/.train.", "work/.val."]
    if command.startswith("data write"):
        own += ["work/train.beton"]
    return path.startswith(tuple(own))


@pytest.mark.parametrize("number", range(COUNT))
def test_a_mutated_file_is_taken_or_refused_in_one_line(seeds, tmp_path, number):
    rng = random.Random(f"{SEED}/{number}")
    target = list(TARGETS)[number % len(TARGETS)]
    command = rng.choice(TARGETS[target])
    folder = tmp_path / "case"
    shutil.copytree(seeds, folder)
    for name in ("tmp", "work/out"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "work" / target).write_bytes(mutated(folder / "work" / target, rng))
    before = contents(folder)
    status, said = start_forked(tmp_path, run_program, folder, command, patience=PATIENCE)
    case = f"{command}, with another {target}: {folder}\n{said[-3000:]}"
    assert status in (0, 2), f"status {status} of {case}"
    assert "Traceback" not in said, case
    assert status == 0 or "error: " in said, case
    after = contents(folder)
    resumed = "auto" in command
    for path, checksum in before.items():
        if not (is_own(path, command) and (resumed or "runs/" not in path)):
            assert after.get(path) == checksum, f"{path} was changed by {case}"
    new = [path for path in after.keys() - before.keys() if not is_own(path, command)]
    assert not new or target.endswith(".yaml"), f"{new} written by {case}"
    shutil.rmtree(folder)
