"""Build the source distribution and the wheel, and try them in empty environments.

    python tools/release_check.py

``make release-check``. The wheel is built of the source distribution, so that this is whole. It is
installed twice, alone and with all extras, each into a new virtual environment of the interpreter
that runs this file, and used from an empty folder. Needs 12 GB of disk for a while; pip goes by its
settings, and by constraints.txt.
"""

import argparse
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "release-check"
NATIVE = ("_crop_decode", "packed/_packed")
FIT_PHOTOS = (
    "fit --model eca_lightning.ImageClassifier --model.backbone.name resnet20 "
    "--model.backbone.attention eca --data eca_lightning.ImageFolderDataModule "
    "--data.train photos/train --data.val photos/val --data.image_size 32 --data.batch_size 8 "
    "--data.num_workers 1 --trainer.max_epochs 1"
)
FIT_QUICKSTART = (
    f"fit --config {ROOT}/configs/quickstart.yaml --trainer.max_steps 20 "
    "--trainer.val_check_interval 10 --trainer.limit_val_batches 2"
)
TRIALS = {"": [FIT_PHOTOS], "[all]": ["data write fashion-mnist", FIT_QUICKSTART]}
"""What is run with each choice of extras, after the help."""


def main() -> None:
    """Build, look into what was built, and try it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build_only", action="store_true", help="install nothing")
    arguments = parser.parse_args()
    shutil.rmtree(WORK, ignore_errors=True)
    try:
        wheel = build()
        for extras, commands in {} if arguments.build_only else TRIALS.items():
            try_out(wheel, extras, ["--help", *commands])
    finally:
        shutil.rmtree(WORK, ignore_errors=True)
    print("release-check: passed")


def build() -> Path:
    """Build both, check that they are whole, and return the wheel."""
    tracked = run("git", "ls-files", cwd=ROOT, quiet=True).splitlines()
    source = WORK / "source"
    for name in tracked:  # what is not committed must not be what makes it work
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name)
    python = environment("builder", "build")
    run(python, "-m", "build", "--outdir", WORK / "dist", source)
    (archive,), (wheel,) = (WORK / "dist").glob("*.tar.gz"), (WORK / "dist").glob("*.whl")
    package = {name for name in tracked if name.startswith("eca_lightning/")}
    with tarfile.open(archive) as file:
        shipped = {name.partition("/")[2] for name in file.getnames()}
    require(not package - shipped, f"{archive.name} lacks {sorted(package - shipped)}")
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    built = [n for n in NATIVE if any(f"/ffcv/{n}." in name and ".so" in name for name in names)]
    require(len(built) == len(NATIVE), f"{wheel.name} lacks one of {NATIVE}: see build's output")
    require("-abi3-" in wheel.name, f"{wheel.name} is for one version of Python alone")
    strays = [name for name in names if not name.startswith("eca_lightning")]
    require(not strays, f"{wheel.name} also installs {strays}")
    return wheel


def try_out(wheel: Path, extras: str, commands: list[str]) -> None:
    """Install the wheel into an empty environment, and use it in an empty folder."""
    python = environment(f"installed{extras.strip('[]')}", f"{wheel}{extras}")
    folder = WORK / f"used{extras.strip('[]')}"
    write_photos(folder / "photos")
    for command in commands:
        run(python.with_name("eca-lightning"), *command.split(), cwd=folder)


def environment(name: str, package: str) -> Path:
    """Make a virtual environment with a package; return its Python."""
    run(sys.executable, "-m", "venv", WORK / name)
    python = WORK / name / "bin" / "python"
    quiet = ("--quiet", "--disable-pip-version-check")
    run(python, "-m", "pip", *quiet, "install", "-c", ROOT / "constraints.txt", package)
    return python


def write_photos(folder: Path) -> None:
    """Write a small image folder of two classes."""
    generator = np.random.default_rng(0)
    for place in ("train/a", "train/b", "val/a", "val/b"):
        (folder / place).mkdir(parents=True)
        for number in range(8):
            pixels = generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / place / f"{number}.png")


def run(*command: str | Path, cwd: Path = WORK, quiet: bool = False) -> str:
    """Run a command, say how long it took, and return its output; exit if it fails."""
    line, start = " ".join(map(str, command)), time.monotonic()
    cwd.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True)
    require(done.returncode == 0, f"{line}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    if not quiet:
        print(f"{time.monotonic() - start:6.1f} s  {line}", flush=True)
    return done.stdout


def require(holds: bool, message: str) -> None:
    """Exit with a message unless a condition holds."""
    if not holds:
        sys.exit(f"release-check: failed: {message}")


if __name__ == "__main__":
    main()
