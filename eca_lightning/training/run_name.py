"""Names of runs: the recipe, and what overrides it."""

import re
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

_DATA_AND_MODEL = {
    *("root", "train", "val", "test", "predict", "test_annotations"),
    *("train_annotations", "val_annotations", "on_unreadable"),
    *("batch_size", "eval_batch_size", "num_workers", "os_cache", "batches_ahead"),
    *("weights", "backbone_weights", "compile", "fused"),
}
"""Options of data and model that do not change what is learned: paths, memory and speed."""


def run_name(arguments: Sequence[str]) -> str:
    """Name a run after its recipe and what overrides it, such as ``resnet50_ffcv-ffcv40-eca``.

    The recipe is the first ``--config``. Further ones follow in their order, and options in that of
    their names. Hardware (``configs/trainer/``), memory and paths are left out.

    Args:
        arguments: The command line: ``--config FILE``, ``--model.backbone.attention=eca`` ...
    """
    configs: list[Path] = []
    options: dict[str, str] = {}
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        key, equals, value = argument.partition("=")
        value = value if equals else "true" if following.startswith("--") else following
        if key in ("-c", "--config"):
            configs += [Path(value)] if "\n" not in value else []  # as text, from a pipe
        elif key.startswith("--"):
            options[key[2:].removesuffix("+").replace("init_args.", "")] = value
    parts = [path.stem for path in configs if path.parent.name != "trainer"] or ["run"]
    parts += [_part(key, options[key]) for key in sorted(options) if _changes_what_is_learned(key)]
    name = "-".join(re.sub(r"(?:[^\w.]|_)+", "_", part).strip("_.") for part in parts)
    # File systems allow 255 bytes.
    return name if len(name) <= 120 else f"{name[:111]}-{crc32(name.encode()):08x}"


def _changes_what_is_learned(key: str) -> bool:
    group, _, option = key.partition(".")
    if group == "trainer":
        learned = ("max_epochs", "max_steps", "gradient_clip_val", "callbacks")
        return option.split(".")[0] in learned
    if group in ("model", "data"):
        return key.rpartition(".")[2] not in _DATA_AND_MODEL
    return group == "seed_everything"


def _part(key: str, value: str) -> str:
    """Shorten an option: names stand for themselves, other values behind the option's name."""
    if value.endswith((".yaml", ".yml")):
        return Path(value).stem
    if re.fullmatch(r"[A-Za-z_][\w.]*", value) and value not in ("true", "false", "null"):
        return value.rpartition(".")[2]  # of a class path, the class
    return f"{key.rpartition('.')[2].removesuffix('_everything')}_{value}"
