"""Weights of others, or of before, in a network of `create_backbone`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter

from eca_lightning.weights.identity_init import neutralize
from eca_lightning.weights.read import WeightsFile, read_weights

_KERNELS = (".attention.conv.weight", ".attention.weight")  # of ECA and of ECA-NS
_SHOWN = 3


@dataclass(frozen=True)
class Mismatch:
    """A weight that a file and a network do not share.

    Attributes:
        kind: ``missing`` in the file, ``unexpected`` in the network, or in both and ``of another``
            shape, kernel size or number of classes.
        key: Its name.
        detail: What the file has instead of what; empty for the first two kinds.
    """

    kind: str
    key: str
    detail: str = ""


@dataclass(frozen=True)
class Match:
    """What of a file fits a network.

    Attributes:
        tensors: The weights that fit, by the network's names.
        mismatches: Those that do not, or that the file lacks.
        neutral: Whether the file is of the network without attention, so that the attention is
            going to start neutrally.
    """

    tensors: Mapping[str, Tensor]
    mismatches: Sequence[Mismatch]
    neutral: bool

    def load(self, network: nn.Module) -> None:
        """Copy the weights that fit into the network they were matched with."""
        network.load_state_dict(self.tensors, strict=False)
        if self.neutral:
            neutralize(network)


def load_weights(network: nn.Module, source: WeightsFile | str | Path) -> None:
    """Load weights into a network in place, all of them or none.

    Weights of a network without attention fit the same network with attention, which then starts
    neutrally: the outputs are those without, see `identity_init`. A network of
    features takes the weights of its classification network.

    Args:
        network: What `create_backbone` makes.
        source: A file that `eca_lightning.weights.read.read_weights` takes, or what it
            read.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or a weight is missing, unexpected or of another shape;
            the network is then as it was.
    """
    weights = source if isinstance(source, WeightsFile) else read_weights(source)
    match = match_weights(network, weights.tensors)
    if match.mismatches:
        raise ValueError(
            f"the weights of {weights.path} are not those of the network: "
            f"{summary(match.mismatches)}"
        )
    match.load(network)


def match_weights(network: nn.Module, tensors: Mapping[str, Tensor]) -> Match:
    """Tell which weights fit a network, without changing it.

    Args:
        network: What `create_backbone` makes.
        tensors: Weights by the names that `create_backbone` gives them.
    """
    if isinstance(network, IntermediateLayerGetter):
        tensors = without_classifier(tensors)
    expected = network.state_dict()
    mismatches = compare(expected, tensors)
    neutral = any(map(_is_attention, expected)) and not any(map(_is_attention, tensors))
    if neutral:
        mismatches = [m for m in mismatches if not _is_attention(m.key)]
    unfit = {mismatch.key for mismatch in mismatches}
    fit = {k: v for k, v in tensors.items() if k in expected and k not in unfit}
    return Match(fit, mismatches, neutral)


def without_classifier(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name the weights as `eca_lightning.backbones.features.FeaturePyramid` does."""
    return {
        key.removeprefix("features."): value
        for key, value in tensors.items()
        if not is_classifier(key)
    }


def compare(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[Mismatch]:
    """List in what the weights of a file differ from those of a network, by name and shape.

    The norms' counters of batches, which change no output, may be on one side alone.
    """
    found = [Mismatch("missing", key) for key in expected if key not in given]
    found += [Mismatch("unexpected", key) for key in given if key not in expected]
    found = [mismatch for mismatch in found if not is_counter(mismatch.key)]
    for key, tensor in expected.items():
        if key not in given or given[key].shape == tensor.shape:
            continue
        ours, theirs = tuple(tensor.shape), tuple(given[key].shape)
        if is_classifier(key) and theirs and theirs[1:] == ours[1:]:
            kind, detail = "number of classes", f"{theirs[0]} instead of {ours[0]}"
        elif key.endswith(_KERNELS) and theirs[:-1] == ours[:-1]:
            kind, detail = "kernel size", f"k = {theirs[-1]} instead of {ours[-1]}"
        else:
            kind, detail = "shape", f"{theirs} instead of {ours}"
        found.append(Mismatch(f"of another {kind}", key, detail))
    return found


def summary(mismatches: Sequence[Mismatch]) -> str:
    """Say in one line how many weights do not match, and the first of each kind."""
    phrases = []
    for kind in dict.fromkeys(mismatch.kind for mismatch in mismatches):
        keys = [f"{m.key} {m.detail}".rstrip() for m in mismatches if m.kind == kind]
        shown = ", ".join(keys[:_SHOWN]) + (", ..." if len(keys) > _SHOWN else "")
        phrases.append(f"{len(keys)} {kind} ({shown})")
    return "; ".join(phrases)


def is_classifier(key: str) -> bool:
    """Whether a weight is the last layer's."""
    return key.startswith(("fc.", "classifier."))


def is_counter(key: str) -> bool:
    """Whether it is a norm's number of batches."""
    return key.endswith("num_batches_tracked")


def _is_attention(key: str) -> bool:
    return ".attention." in key
