"""Types every command of docs/imagenet.md, in order, on an ImageNet of ten classes.

    python tests/walkthrough.py [FOLDER]

The three archives are laid out as ImageNet's, with photographs that scikit-image and scikit-learn
ship. What differs from a reader's run: `REPLACED` commands, `/data/imagenet`, and the `SMALLER`
configs, in which CPUs stand for GPUs (two for eight), images are small and epochs two.
"""

import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import torch
from scipy.io import savemat

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "imagenet.md"

WNIDS = [f"n{number:08}" for number in range(1440764, 1440774)]
TRAINING, VALIDATION = 20, 5
"""Images of a class."""

REPLACED = {
    "make setup": "true  # done already",
    "source .venv/bin/activate": "true  # done already",
    "tensorboard --logdir runs": "ls runs/*/version_*/events.out.tfevents.*  # what it would show",
}

CPU = """
trainer:
  accelerator: cpu
  devices: {}
  precision: 32-true
  max_epochs: 2
"""
TEN_CLASSES = {"name: resnet50": "name: resnet50\n      num_classes: 10"}
SMALLER = {
    "trainer/gpu.yaml": CPU.format(1),
    "trainer/gpu8.yaml": CPU.format(2),
    "data/imagenet.yaml": {
        "image_size: 224": "image_size: 64",
        "resize_size: 256": "resize_size: 72",
        "batch_size: 256": "batch_size: 64",
    },
    "imagenet/resnet50_paper.yaml": TEN_CLASSES,
    "imagenet/resnet50_ffcv.yaml": {
        **TEN_CLASSES,
        "image_size: 256": "image_size: 64",
        "resize_size: 292.571428571": "resize_size: 72",
        "    batch_size: 512": "    batch_size: 32",
    },
    "schedules/ffcv16.yaml": {
        "min_size: 160": "min_size: 32",
        "max_size: 192": "max_size: 64",
        "start_epoch: 11": "start_epoch: 0",
        "end_epoch: 13": "end_epoch: 1",
    },
    "imagenet/mobilenet_v2_paper.yaml": {
        "name: mobilenet_v2": "name: mobilenet_v2\n      num_classes: 10",
        "    batch_size: 96": "    batch_size: 64\n    image_size: 64\n    resize_size: 72",
    },
}


def main(folder: Path) -> None:
    """Lay everything out, and type the commands."""
    archives = folder / "data_imagenet"
    archives.mkdir(parents=True)
    write_archives(archives)
    lay_out(folder)
    program = folder / "bin" / "eca-lightning"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m eca_lightning "$@"\n')
    program.chmod(0o755)
    path = f"{program.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    commands = commands_of(PAGE.read_text())
    for number, command in enumerate(commands, 1):
        typed = REPLACED.get(command, command).replace("/data/imagenet", str(archives))
        # The small archives have checksums of their own.
        typed = typed.replace(
            "from torchvision.datasets import ImageNet;",
            "import torchvision.datasets.imagenet as m; whole = m.check_integrity; "
            "m.check_integrity = lambda path, md5=None: whole(path); "
            "from torchvision.datasets import ImageNet;",
        )
        print(f"\n[{number}/{len(commands)}] {typed}", flush=True)
        if subprocess.run(["bash", "-c", typed], cwd=folder, env=environment).returncode:
            sys.exit(f"this command of {PAGE} failed: {command}")
    check(folder)
    print(f"\nall {len(commands)} commands of {PAGE.relative_to(ROOT)} succeeded")


def commands_of(page: str) -> list[str]:
    """The lines of a page's bash blocks."""
    blocks = "".join(re.findall(r"^```bash\n(.*?)^```", page, re.MULTILINE | re.DOTALL))
    return [line for line in blocks.splitlines() if line and not line.startswith("#")]


def lay_out(folder: Path) -> None:
    """The folder of the repository, as far as the page needs it, with smaller configs."""
    shutil.copytree(ROOT / "configs", folder / "configs")
    for name, change in SMALLER.items():
        config = folder / "configs" / name
        text = config.read_text()
        if isinstance(change, str):
            text = change
        else:
            for old, new in change.items():
                if old not in text:
                    sys.exit(f"configs/{name} has no '{old}' any more: update {__file__}")
                text = text.replace(old, new)
        config.write_text(text.replace("num_workers: 12", "num_workers: 1"))


def write_archives(folder: Path) -> None:
    """The three archives of ILSVRC 2012, with few photographs, which are as large as ImageNet's."""
    sys.path.insert(0, str(ROOT / "tools"))
    from photo_jpegs import photo_jpegs

    streams = iter(photo_jpegs(len(WNIDS) * (TRAINING + VALIDATION), candidates=1))
    with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as archive:
        for wnid in WNIDS:
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as images:
                for number in range(TRAINING):
                    add(images, f"{wnid}_{number}.JPEG", next(streams))
            add(archive, f"{wnid}.tar", inner.getvalue())
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(WNIDS)), VALIDATION)) + 1
    with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as archive:
        for number in range(1, len(labels) + 1):
            add(archive, f"ILSVRC2012_val_{number:08}.JPEG", next(streams))
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O")]
    synsets = np.array(
        [(i, wnid, f"thing {i}, it", "", 0) for i, wnid in enumerate(WNIDS, 1)],
        dtype=[*kinds, ("num_children", "O")],
    )
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets[:, None]})
    with tarfile.open(folder / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
        inside = "ILSVRC2012_devkit_t12/data"
        add(archive, f"{inside}/meta.mat", meta.getvalue())
        truth = "\n".join(map(str, labels)) + "\n"
        add(archive, f"{inside}/ILSVRC2012_validation_ground_truth.txt", truth.encode())
    photos = folder.parent / "photos"  # some of their own that readers have to predict
    photos.mkdir()
    for number, stream in enumerate(photo_jpegs(3, seed=1)):
        (photos / f"{number}.jpg").write_bytes(stream)


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Put a file into an archive."""
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def check(folder: Path) -> None:
    """What the page promises must be there."""
    last = folder / "runs/resnet50_paper-eca/version_1/checkpoints/last.ckpt"
    steps = 2 * (TRAINING * len(WNIDS) // (2 * 32))  # epochs of 32 images on each of two processes
    if torch.load(last, weights_only=True)["global_step"] != steps:
        sys.exit(f"{last} is not of {steps} steps: the run on eight GPUs was another one")
    if len((folder / "photos.csv").read_text().splitlines()) != 4:
        sys.exit("photos.csv has not a row for each photo")
    if not (folder / "eca_resnet50.onnx").stat().st_size:
        sys.exit("the exported file is empty")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]).resolve())
    else:
        with tempfile.TemporaryDirectory(prefix="walkthrough_") as name:
            main(Path(name))
