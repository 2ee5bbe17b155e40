"""The one program: ``eca-lightning COMMAND``."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

COMMANDS = {
    "fit": "train, validating after each epoch",
    "validate": "score a checkpoint on the validation images",
    "test": "score a checkpoint on the test images",
    "predict": "write the best classes of images to a table, or the objects on them",
    "data": "write data sets; verify and describe .beton files",
    "models": "list the networks of the paper: parameters and operations, counted and as printed",
    "benchmark": "measure the speed of loaders, models and runs on more devices",
    "compare": "train a grid of variants and seeds, and compare the variants",
    "attention": "draw what the attention of a trained classifier does",
    "import": "make a checkpoint of weights of the original project, torchvision or timm",
    "export": "write a trained network as ONNX, torch.export program or .safetensors",
}
_CLEAR_ERRORS = (ValueError, TypeError, OSError, ImportError, FloatingPointError)
_LOST_WORKER = "DataLoader worker"
"""How torch's error begins when a process that decodes images was killed; it can come anywhere."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command.

    Raises:
        SystemExit: With status 2 on bad input, after one line that says what to mend; so too where
            the loss, the disk or a process of the loader fails.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _run(arguments)
    except (*_CLEAR_ERRORS, RuntimeError) as error:
        message = _clear_message(error)
        if message is None or "ECA_LIGHTNING_TRACEBACK" in os.environ:
            raise
        print(f"eca-lightning: error: {message}", file=sys.stderr)
        sys.exit(2)


def _run(arguments: list[str]) -> None:
    command = arguments[0] if arguments else "--help"
    if command in ("-h", "--help"):
        print(_help())
    elif command not in COMMANDS:
        print(f"eca-lightning: error: unknown command '{command}'\n\n{_help()}", file=sys.stderr)
        sys.exit(2)
    elif command in ("fit", "validate", "test", "predict"):
        from eca_lightning.lightning_cli import lightning_cli

        lightning_cli(arguments)
    else:
        from jsonargparse import auto_cli

        auto_cli(
            {command: _functions(command)},
            args=[_with_underscores(argument) for argument in arguments],
            prog="eca-lightning",
            as_positional=arguments[1:2] != ["write"] or arguments[2:3] == ["torchvision"],
        )


def _with_underscores(argument: str) -> str:
    """Spell an option as its parameter: --max-resolution=512 as --max_resolution=512."""
    option, equals, value = argument.partition("=")
    if option.startswith("--"):
        option = "--" + option[2:].replace("-", "_")
    return option + equals + value


def _functions(command: str) -> Callable[..., Any] | dict[str, Any]:
    """Look up the plain functions behind a command; imported late, so that help is quick."""
    if command == "models":
        from eca_lightning.paper.command import models

        return models
    if command == "benchmark":
        from eca_lightning.benchmarks.loader import benchmark_loader
        from eca_lightning.benchmarks.model import benchmark_model
        from eca_lightning.benchmarks.scaling import benchmark_scaling

        return {
            "_help": COMMANDS["benchmark"],
            "loader": benchmark_loader,
            "model": benchmark_model,
            "scaling": benchmark_scaling,
        }
    if command == "compare":
        from eca_lightning.compare.run import compare

        return compare
    if command == "attention":
        from eca_lightning.explain.command import attention

        return attention
    if command == "import":
        from eca_lightning.classification.import_command import import_weights

        return import_weights
    if command == "export":
        from eca_lightning.export.command import export

        return export
    from eca_lightning.data.datasets.image_folder import write_image_folder
    from eca_lightning.data.datasets.torchvision import write_fashion_mnist, write_torchvision
    from eca_lightning.data.ffcv.verify import info, verify
    from eca_lightning.detection.demo.write_fashion_coco import write_fashion_coco

    return {
        "_help": COMMANDS["data"],
        "write": {
            "_help": "write images to .beton files, or compose scenes for object detection",
            "fashion-coco": write_fashion_coco,
            "fashion-mnist": write_fashion_mnist,
            "image-folder": write_image_folder,
            "torchvision": write_torchvision,
        },
        "verify": verify,
        "info": info,
    }


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: eca-lightning COMMAND [options]",
            "",
            *lines,
            "",
            "eca-lightning COMMAND --help explains a command. Start with",
            "  eca-lightning data write fashion-mnist",
            "  eca-lightning fit --config configs/quickstart.yaml",
        ]
    )


def _clear_message(error: BaseException | None) -> str | None:
    """What to mend, if this package raised the error by itself, or a loader lost a process.

    It may lie behind others: jsonargparse raises one of its own when a constructor fails.
    """
    while error is not None:
        if isinstance(error, RuntimeError) and str(error).startswith(_LOST_WORKER):
            return f"{error} Most often memory was short: fewer data.num_workers take less"
        frames = traceback.extract_tb(error.__traceback__)
        here = frames and Path(frames[-1].filename).is_relative_to(Path(__file__).parent)
        if here and isinstance(error, _CLEAR_ERRORS):
            return str(error)
        error = error.__cause__ or error.__context__
    return None
