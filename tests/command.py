"""The program as its users run it, but in this process; the test's fixture is `as_a_program`."""

import os
import sys
from multiprocessing import resource_tracker

import numpy as np
import pytest
from PIL import Image

from eca_lightning.cli import main


def fails(capsys, *arguments):
    """Run a command that must fail as bad input does; return what it says, in one line."""
    capsys.readouterr()
    return " ".join(_error(capsys, arguments).split())


def error_of(capsys, *arguments):
    """Run a command that must fail; return its error, which is one line and shows no usage."""
    error = _error(capsys, arguments)
    assert "usage" not in error
    start = "eca-lightning: error: "
    (line,) = [line for line in error.splitlines() if line.startswith(start)]
    return line.removeprefix(start)


def error_lines(capsys, *arguments):
    """Run a command that must fail; return the lines of its error."""
    error = _error(capsys, arguments).partition("eca-lightning: error: ")[2]
    return [line.strip() for line in error.splitlines()]


def _error(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


def noise_run(folder, per_class=4, **data):
    """Write images of noise in three classes; return the options of a small run on them."""
    rng = np.random.default_rng(0)
    images = folder / "images"
    for name in "abc":
        (images / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(images / name / f"{number}.png")
    options = {"train": str(images), "val": str(images), "image_size": 16, "resize_size": 16}
    options |= {"batch_size": 6, "num_workers": 0} | data
    backbone = {"name": "resnet20", "attention": "eca", "num_classes": 3}
    return {
        "model": {"class_path": "ImageClassifier", "init_args": {"backbone": backbone}},
        "data": {"class_path": "ImageFolderDataModule", "init_args": options},
        "trainer": {"accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False},
    }


def end_as_rank(arguments, folder):
    """Run a command that must fail, as one of some ranks; leave its status in RANK.status."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    (folder / f"{os.environ['RANK']}.status").write_text(str(stop.value.code))


def be_program(folder, arguments):
    """Be the program in a forked process: in a folder, in a session of its own, with a log.txt."""
    os.setsid()
    # As a fresh program, it starts what removes its shared memory where it cannot do so itself.
    resource_tracker._resource_tracker._fd = None
    os.chdir(folder)
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["eca-lightning", *arguments]
    main()
