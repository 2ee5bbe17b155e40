"""Import weights of each network that a library lists, and compare what the network computes.

``make sweep`` tries all that timm and torchvision call a ResNet, and writes the table of
docs/weights.md; it fails if weights load wrong, or do not load in their library again.
"""

import contextlib
import copy
import io
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from eca_lightning import load_classifier
from eca_lightning.cli import main

PAGE = Path(__file__).parents[2] / "docs/weights.md"
LARGEST = 110_000_000
"""Parameters of the largest network that is tried."""

_PATTERNS = ("*resnet*", "*resnext*", "*senet154*")
_NO_FAMILY = ("densenet", "inception")


class Outcome(NamedTuple):
    """What import made of the weights of a network.

    ``wrong`` is what it should not have; ``network`` what it took the weights for.
    """

    name: str
    network: str = ""
    refusal: str = ""
    wrong: str = ""


def names() -> list[str]:
    """List what timm and torchvision call a ResNet."""
    of_timm = [name for pattern in _PATTERNS for name in timm.list_models(pattern)]
    of_torchvision = torchvision.models.list_models(module=torchvision.models)
    of_torchvision = [name for name in of_torchvision if "resne" in name or "mobilenet_v2" in name]
    return [
        *(f"timm:{n}" for n in dict.fromkeys(of_timm) if not any(f in n for f in _NO_FAMILY)),
        *(f"torchvision:{name}" for name in of_torchvision),
    ]


def build(name: str, classes: int = 5) -> nn.Module:
    """Build a network of a library."""
    library, _, network = name.partition(":")
    if library == "timm":
        return timm.create_model(network, num_classes=classes)
    return torchvision.models.get_model(network, weights=None, num_classes=classes)


def noise(network: nn.Module) -> nn.Module:
    """Draw weights and running statistics that are not those of a fresh network."""
    generator = torch.Generator().manual_seed(0)
    levels = torch.randn(99_991, generator=generator)
    for key, value in network.state_dict().items():
        if not value.is_floating_point():
            continue
        drawn = levels.repeat(-(-value.numel() // len(levels)))[: value.numel()].view(value.shape)
        if value.dim() > 1:
            value.copy_(drawn * value[0].numel() ** -0.5)
        else:
            value.copy_(0.2 * drawn.abs() + (0.6 if key.endswith(("weight", "var")) else 0.0))
        levels = levels.roll(7919)
    return network


def try_import(name: str, folder: Path) -> Outcome:
    """Save weights as the Hub has them, import them by the command, and compare all logits."""
    theirs = noise(build(name))
    save_file(theirs.state_dict(), folder / "model.safetensors")
    config = {"architecture": name.partition(":")[2]}
    (folder / "config.json").write_text(json.dumps(config))
    refusal, report = command("import", folder / "model.safetensors", folder / "ours.ckpt")
    if refusal:
        return Outcome(name, refusal=refusal)
    ours = load_classifier(folder / "ours.ckpt").backbone
    network = " ".join(re.search(r"network +(.*)", report)[1].strip("│ ").split())
    wrong = difference(theirs, ours)
    return Outcome(name, network, wrong=wrong or exported_back(name, theirs, folder))


def exported_back(name: str, theirs: nn.Module, folder: Path) -> str:
    """Say what is wrong with our weights in the library's own network; empty if nothing."""
    exported = folder / "exported.pth"
    library = name.partition(":")[0]
    refusal, _ = command("export", folder / "ours.ckpt", exported, "--format", library)
    if refusal:
        return f"not exported: {refusal}"
    again = build(name)
    again.load_state_dict(torch.load(exported, weights_only=True))
    return difference(theirs, again)


def difference(theirs: nn.Module, ours: nn.Module) -> str:
    """Say where two networks compute different logits; empty if nowhere."""
    images = torch.randn(4, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    for training in (False, True):  # which changes the running statistics
        for dtype, limit in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
            expected, found = (
                _logits(copy.deepcopy(network), images.to(dtype), training)
                for network in (theirs, ours)
            )
            scale = max(1.0, float(expected.abs().max()))
            distance = float((expected - found).abs().max()) / scale
            if not distance <= limit:
                mode = "training" if training else "evaluation"
                return f"logits differ by {distance:.1e} in {mode}, {dtype}"
    return ""


@torch.no_grad()
def _logits(network: nn.Module, images: torch.Tensor, training: bool) -> torch.Tensor:
    network.to(dtype=images.dtype, memory_format=torch.contiguous_format)
    for module in network.train(training).modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    return network(images)


def command(*arguments: object) -> tuple[str, str]:
    """Run a command; return the line with which it refuses, if it does, and what it prints."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main([str(argument) for argument in arguments])
    except SystemExit as stop:
        if stop.code:
            return " ".join(err.getvalue().split()), out.getvalue()
    return "", out.getvalue()


def reason(refusal: str) -> str:
    """Return why a network is refused, without the file."""
    of_names = re.search(r"only looks like one of this package \('[^']*': ([^)]*)\)", refusal)
    of_keys = re.search(r"of no network of this package \([^)]*\): (.*?)\. The nearest", refusal)
    found = of_names or of_keys
    return found[1] if found else "it has other layers or channels"


def table(outcomes: list[Outcome]) -> str:
    """Tabulate what was tried, in Markdown."""
    loaded = [outcome for outcome in outcomes if outcome.network]
    lines = ["| weights of | load as |", "| --- | --- |"]
    lines += [f"| `{outcome.name}` | {outcome.network} |" for outcome in loaded]
    why: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.refusal:
            why.setdefault(reason(outcome.refusal), []).append(f"`{outcome.name}`")
    lines += ["", "| refused, as | weights of |", "| --- | --- |"]
    lines += [f"| {because} | {', '.join(refused)} |" for because, refused in why.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    wanted = sys.argv[1:] or names()
    outcomes = []
    for name in wanted:
        with torch.device("meta"), contextlib.suppress(Exception):
            if sum(p.numel() for p in build(name).parameters()) > LARGEST:
                print(f"{name}: too large", flush=True)
                continue
        with tempfile.TemporaryDirectory() as folder:
            outcomes.append(try_import(name, Path(folder)))
        _, network, refusal, wrong = outcomes[-1]
        print(f"{name}: {wrong or refusal or network}", flush=True)
    if len(sys.argv) == 1:
        start, end = "<!-- sweep -->\n", "<!-- end of sweep -->"
        before, _, rest = PAGE.read_text().partition(start)
        PAGE.write_text(before + start + table(outcomes) + end + rest.partition(end)[2])
    sys.exit(any(outcome.wrong for outcome in outcomes))
