"""The one program: ``eca-lightning COMMAND``."""

import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from eca_lightning.utils.arguments import OneLineErrors, as_typed
from eca_lightning.utils.checks import require_known
from eca_lightning.utils.run_folder import expand_run

LIGHTNING = "lightning_cli.lightning_cli"
"""Where Lightning's own commands live; every other command is a plain function."""

COMMANDS = {
    "fit": ("train, validating after each epoch", LIGHTNING),
    "validate": ("score a checkpoint on the validation images", LIGHTNING),
    "test": ("score a checkpoint on the test images", LIGHTNING),
    "predict": ("write the classes of images, or the objects on them, to a file", LIGHTNING),
    "data write csv": (
        "write images that a table labels to .beton files",
        "data.datasets.csv_file.write_csv",
    ),
    "data write fashion-coco": (
        "compose scenes of Fashion-MNIST's clothes for object detection",
        "detection.demo.write_fashion_coco.write_fashion_coco",
    ),
    "data write fashion-mnist": (
        "write Fashion-MNIST to .beton files",
        "data.datasets.torchvision.write_fashion_mnist",
    ),
    "data write image-folder": (
        "write folders of images to .beton files",
        "data.datasets.image_folder.write_image_folder",
    ),
    "data write torchvision": (
        "write a classification data set of torchvision to .beton files",
        "data.datasets.torchvision.write_torchvision",
    ),
    "data convert": (
        "write a .beton again, packed or as JPEG",
        "data.ffcv.packed.convert.convert",
    ),
    "data verify": ("decode all of a data set, and list what is wrong", "verify.verify"),
    "data info": ("describe .beton files", "data.ffcv.verify.info"),
    "models": ("compare parameters and FLOPs with the paper's", "paper.command.models"),
    "benchmark loader": ("time data loaders", "benchmarks.loader.benchmark_loader"),
    "benchmark model": ("time networks", "benchmarks.model.benchmark_model"),
    "benchmark scaling": (
        "time a run on 1, 2, ... devices",
        "benchmarks.scaling.benchmark_scaling",
    ),
    "runs": ("list what was trained, with scores and state", "runs.command.runs"),
    "compare": ("train a grid of variants and seeds, and compare them", "compare.run.compare"),
    "attention": ("draw the attention of a trained classifier", "explain.command.attention"),
    "import": (
        "make a checkpoint of the original project's, torchvision's or timm's weights",
        "classification.import_command.import_weights",
    ),
    "export": (
        "write a trained network as ONNX, torch.export program or .safetensors",
        "export.command.export",
    ),
}
"""The words of each command, what it does, and the function behind it."""

_START = """\
eca-lightning COMMAND --help lists the options of a command. Start with
  eca-lightning data write fashion-mnist
  eca-lightning fit --config configs/quickstart.yaml"""

_OF_LIGHTNING = ("MisconfigurationException", "ValueError")
"""Lightning's errors about options."""

_CLEAR_ERRORS = (ValueError, TypeError, OSError, ImportError, FloatingPointError)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command.

    Raises:
        SystemExit: If the input is bad, or the loss, the disk or a process of the loader fails:
            status 2, after one line that says what is wrong and the remedy.
    """
    given = sys.argv[1:] if arguments is None else arguments
    try:
        _run(as_typed(given))
    except Exception as error:
        message = _clear_message(error)
        if message is None or "ECA_LIGHTNING_TRACEBACK" in os.environ:
            raise
        print(f"eca-lightning: error: {message}", file=sys.stderr)
        sys.exit(2)


def load(function: str) -> Callable[..., Any]:
    """Import the function behind a command; late, so that help is quick."""
    module, _, name = function.rpartition(".")
    return getattr(import_module(f"eca_lightning.{module}"), name)


def _run(arguments: list[str]) -> None:
    command = arguments[0] if arguments else "--help"
    if command in ("-h", "--help"):
        print(_help())
        return
    require_known(command, dict.fromkeys(words.split()[0] for words in COMMANDS), "command")
    found = {words: where for words, (_, where) in COMMANDS.items() if words.split()[0] == command}
    arguments = expand_run(arguments)
    if LIGHTNING in found.values():
        load(LIGHTNING)(arguments)
        return
    from jsonargparse import ArgumentParser, auto_cli

    # The one that is meant, if it is: others may import torch, which takes seconds.
    found = {w: f for w, f in found.items() if arguments[: len(w.split())] == w.split()} or found
    functions: dict[str, Any] = {}  # one level for each word, as jsonargparse takes them
    for words, where in found.items():
        *groups, last = words.split()
        level = functions
        for group in groups:
            level = level.setdefault(group, {})
        level[last] = load(where)
    auto_cli(
        functions,
        args=arguments,
        parser_class=type("Parser", (OneLineErrors, ArgumentParser), {}),
        prog="eca-lightning",
        as_positional=arguments[1:2] != ["write"] or arguments[2:3] == ["torchvision"],
    )


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {words:<{width}}  {about}" for words, (about, _) in COMMANDS.items()]
    return "\n".join(["usage: eca-lightning COMMAND [options]", "", *lines, "", _START])


def _clear_message(error: BaseException | None) -> str | None:
    """Return the message of an error that this package raised, or of a lost loader process.

    It may be the cause of others: jsonargparse raises one of its own when a constructor fails.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return " ".join(str(error).split()).partition("] ")[2]  # without its number
    outer = error
    while error is not None:
        if type(error).__name__ == "OutOfMemoryError":
            return f"{error} A smaller data.batch_size takes less memory"
        # torch's error, in any place, when a process that decodes images was killed.
        if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker"):
            return f"{error} Most often memory was short: fewer data.num_workers take less"
        frames = traceback.extract_tb(error.__traceback__)
        raised_by = Path(frames[-1].filename).parts if frames else ()
        if "lightning" in raised_by and type(error).__name__ in _OF_LIGHTNING:
            return " ".join(str(error).split())
        here = frames and Path(frames[-1].filename).is_relative_to(Path(__file__).parent)
        if here and isinstance(error, _CLEAR_ERRORS):
            return str(error)
        error = error.__cause__ or error.__context__
    return _uncreated(str(outer)) if isinstance(outer, ValueError) else None


def _uncreated(message: str) -> str | None:
    """Return which class could not be created and why, of jsonargparse's text on all its types."""
    name = re.search(r"^Given value: Namespace\(class_path='([\w.]+)'", message, re.MULTILINE)
    _, found, reasons = message.partition("\nErrors:\n")
    if not (name and found):
        return None
    lines = reasons[: reasons.index("\nGiven value type:")].splitlines()
    clear = [line.strip().removeprefix("- ") for line in lines if "- Expected a <" not in line]
    return f"cannot create {name[1].rpartition('.')[2]}: {' '.join(clear)}"
