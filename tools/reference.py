"""Write docs/reference/, the reference of configurations and commands, from the code.

    python tools/reference.py

Names, types and defaults are those of the signatures, explanations those of the docstrings.
"""

import inspect
import re
import types
from collections.abc import Callable, Iterable
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import torch
from docstring_parser import Docstring, DocstringStyle, parse
from lightning.pytorch import Callback
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable

import eca_lightning
from eca_lightning import ImageClassifier, ObjectDetector, WarmupThenDecay, cli
from eca_lightning.attention import attention_class, attention_names
from eca_lightning.backbones import BackboneConfig, backbone_names
from eca_lightning.classification.finetuning import FineTuning
from eca_lightning.classification.losses import FocalLoss
from eca_lightning.classification.mixing import Mixing
from eca_lightning.detection.networks import DetectorConfig

_TASKS = (ImageClassifier, FineTuning, Mixing, FocalLoss, ObjectDetector)
OUTPUT = Path(__file__).parents[1] / "docs" / "reference"

INTRODUCTION = """\
`make docs` writes these pages from the code: do not edit them. The options of `eca-lightning fit`,
`validate`, `test` and `predict` are on this page and on those of the classes that it names. In a
YAML file an option is a key; on the command line `model.init_args.backbone.attention` is
`--model.backbone.attention`. [imagenet.md](../imagenet.md) shows whole runs, `--print_config` what
a run would use.

A run has these keys:

| key | |
| --- | --- |
| `seed_everything` | the seed of all that is random |
| `model` | `class_path` and `init_args` of [ImageClassifier](#imageclassifier) or \
[ObjectDetector](#objectdetector), or a file with them |
| `data` | the same of [FFCVDataModule](#ffcvdatamodule), \
[ImageFolderDataModule](#imagefolderdatamodule) or [CocoDataModule](#cocodatamodule) |
| `trainer` | [Lightning's Trainer](https://lightning.ai/docs/pytorch/stable/common/trainer.html): \
`devices`, `num_nodes`, `precision`, `max_epochs`, `accumulate_grad_batches`, `callbacks` ... Its \
`logger` is a TensorBoardLogger in `runs/RECIPE`, see [recipes.md](../recipes.md) |
| `checkpoint` | Lightning's ModelCheckpoint that writes `best.ckpt`: `monitor`, `mode`, \
`every_n_train_steps` ... |
| `last_checkpoint` | [LastCheckpoint](#lastcheckpoint), which writes `last.ckpt` |
| `async_checkpoints` | whether checkpoints are written in the background |
| `find_lr` | of `fit`: whether to search for the learning rate first, by 100 steps at rising \
rates, see [training.md](../training.md#fine-tune) |
| `find_batch_size` | of `fit`: whether to search for the largest batch that fits the GPU first |
| `reports` | a list of [callbacks](callbacks.md) that log and draw, or a file with them |
| `output`, `top`, `annotated`, `min_score` | of `predict`: the options of \
[PredictionWriter](#predictionwriter) or [DetectionWriter](#detectionwriter) |
| `ckpt_path` | the checkpoint to go on from, to score or to predict with; for `fit` also `auto`, \
see [training.md](../training.md#stops-and-restarts) |
| `weights_only` | whether Lightning reads of it nothing but tensors and plain values, \
which is all that checkpoints of this program hold |
"""

ATTENTION = """\
## Attention

`attention` of a backbone is one of {names}. Each sits where its own paper puts it. These have
`attention_options`, of which a list gives one value for each stage of the network:
"""

DATA = (
    *("FFCVDataModule", "ImageFolderDataModule", "CocoDataModule"),
    *("ColorJitter", "TrivialAugment", "RandAugment", "RandomErasing"),
)
"""What the page about data describes."""

FILLED_IN = {
    "self",
    "channels",  # of attention, by the network, as the next
    "stride",
    "total_steps",  # of a schedule, by the task, as the next
    "steps_per_epoch",
}

Option = tuple[str, str, str, str]
"""Name, type, default and explanation."""


def reference() -> dict[str, str]:
    """The text of each page, by its file name."""
    public = [getattr(eca_lightning, name) for name in sorted(eca_lightning.__all__)]
    callbacks = [c for c in public if isinstance(c, type) and issubclass(c, Callback)]
    names = f"The names are {_listed(backbone_names())}."
    pages = {
        "tasks": ("Tasks", *map(_section, _TASKS)),
        "networks": (
            "Networks",
            *(_section(BackboneConfig), names, _attention(), _section(DetectorConfig)),
        ),
        "data": ("Data", *(_section(getattr(eca_lightning, name)) for name in DATA)),
        "schedules": ("Schedules", _section(WarmupThenDecay)),
        "callbacks": ("Callbacks", *map(_section, callbacks)),
    }
    for words, (_, function) in cli.COMMANDS.items():
        if function != cli.LIGHTNING:
            command = f"eca-lightning {words.split()[0]}"
            page = pages.setdefault(command.replace(" ", "-"), (f"`{command}`",))
            section = _section(cli.load(function), f"eca-lightning {words}")
            pages[command.replace(" ", "-")] = (*page, section)
    texts = {f"{name}.md": _page(title, *parts) for name, (title, *parts) in pages.items()}
    links = "\n".join(f"- [{text.splitlines()[0][2:]}]({name})" for name, text in texts.items())
    texts["README.md"] = _page("Reference", INTRODUCTION, "## Pages", links)
    homes = {anchor: name for name, text in texts.items() for anchor in _anchors(text)}
    return {name: _linked(text, name, homes) for name, text in texts.items()}


def _page(title: str, *parts: str) -> str:
    return "\n\n".join(part.strip() for part in (f"# {title}", *parts)) + "\n"


def _anchors(page: str) -> list[str]:
    return [name.lower() for name in re.findall(r"^## (\w+)$", page, re.MULTILINE)]


def _linked(page: str, name: str, homes: dict[str, str]) -> str:
    """Let the links of a page to an anchor of another one name that page."""

    def link(match: re.Match[str]) -> str:
        home = homes.get(match[1], name)
        return match[0] if home == name else f"]({home}#{match[1]})"

    return re.sub(r"\]\(#([\w-]+)\)", link, page)


def _docs(item: Any) -> Docstring:
    return parse(inspect.getdoc(item) or "", DocstringStyle.GOOGLE)


def _section(item: Callable[..., Any], command: str = "") -> str:
    """Heading, description and options of a class, or of the function behind a command."""
    text = _plain(_docs(item).description or "").strip()
    rows = []
    for name, kind, default, about in _options(item):
        # All but `data write` take what they need without its name.
        is_option = command and (default != "required" or " write " in command)
        rows.append((f"`{'--' if is_option else ''}{name}`", kind, default, about))
    header = ("argument" if command else "option", "type", "default", "")
    table = "\n\n" + _table(header, rows) if rows else ""
    return f"## {command or item.__name__}\n\n{text}{table}"


def _attention() -> str:
    rows = []
    for name in attention_names():
        options = _options(attention_class(name))
        rows += [(f"`{name}`", f"`{option}`", *rest) for option, *rest in options]
    table = _table(("attention", "option", "type", "default", ""), rows)
    return ATTENTION.format(names=_listed(attention_names())) + "\n" + table


def _options(item: Callable[..., Any]) -> list[Option]:
    """The options of a class or a function, those that a class passes on to its base included."""
    lineage = inspect.getmro(item) if isinstance(item, type) else (item,)
    helps: dict[str, str] = {}
    for owner in reversed(lineage):
        helps |= {p.arg_name: p.description or "" for p in _docs(owner).params}
    found = []
    for owner in lineage:
        # Not the signature of a class: a base's __new__ would hide what its __init__ takes.
        function = vars(owner).get("__init__") if isinstance(owner, type) else owner
        if function is None or owner is object:
            continue
        signature = inspect.signature(function).parameters.values()
        variadic = {p.kind for p in signature} & {inspect.Parameter.VAR_KEYWORD}
        known = {p.name for p in found}
        found += [p for p in signature if p.kind not in variadic and p.name not in known]
        if not variadic:  # it passes nothing on
            break
    made = {f.name: f.default_factory for f in fields(item)} if is_dataclass(item) else {}
    return [
        (p.name, _type(p.annotation), _default(p, made.get(p.name)), _plain(helps.get(p.name, "")))
        for p in found
        if p.name not in FILLED_IN and p.annotation is not torch.optim.Optimizer
    ]


def _type(kind: Any) -> str:
    """A type as the reader of a YAML file knows it."""
    names = {Any: "anything", Path: "path", str: "text", type(None): "`null`"}
    names |= {OptimizerCallable: "optimizer", LRSchedulerCallable: "schedule", dict: "map"}
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is inspect.Parameter.empty:
        return ""
    if kind in names:
        return names[kind]
    if is_dataclass(kind):
        return f"[{kind.__name__}](#{kind.__name__.lower()})"
    if origin is Literal:
        return " or ".join(map(_value, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join(map(_type, arguments))
    if origin is tuple and Ellipsis not in arguments:
        return f"[{', '.join(map(_type, arguments))}]"
    if origin is dict:
        return "map"
    if origin is not None:
        return f"list of {_type(arguments[0])}"
    return kind.__name__


def _default(parameter: inspect.Parameter, made: Any) -> str:
    if made not in (None, MISSING):
        return _value(made())
    if parameter.default is inspect.Parameter.empty:
        return "required"
    if parameter.annotation is OptimizerCallable:
        return f"`{_optimizer(parameter.default)}`"
    return _value(parameter.default)


def _optimizer(build: Callable[..., torch.optim.Optimizer]) -> str:
    """What a function builds, and in what it differs from its class's defaults."""
    parameters = [torch.nn.Parameter(torch.zeros(1))]
    built = build(parameters)
    usual = type(built)(parameters).defaults
    chosen = [f"{k}={v:g}" for k, v in built.defaults.items() if v != usual[k] or k == "lr"]
    return f"{type(built).__name__}({', '.join(chosen)})"


def _value(value: Any) -> str:
    """A value as YAML has it."""
    return f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _plain(text: str) -> str:
    """Turn the markup of docstrings into Markdown's."""
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text)
    return text.replace("``", "`").replace("<", "&lt;")


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(' '.join(cell.split()) for cell in line)} |" for line in lines)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def main() -> None:
    """Write the pages."""
    OUTPUT.mkdir(exist_ok=True)
    for page in OUTPUT.glob("*.md"):
        page.unlink()
    for name, text in reference().items():
        (OUTPUT / name).write_text(text)
    print(f"Written: {OUTPUT}")


if __name__ == "__main__":
    main()
