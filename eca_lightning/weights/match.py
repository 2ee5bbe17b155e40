"""Match weights with a network of `create_backbone`, and load them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from eca_lightning.backbones.features import FeaturePyramid
from eca_lightning.backbones.network import Layout, layout_of
from eca_lightning.weights.identity_init import init_as_identity, starts_as_identity
from eca_lightning.weights.read import WeightsFile, read_weights

_KERNELS = (".attention.conv.weight", ".attention.weight")  # of ECA and of ECA-NS
_SHOWN = 3


@dataclass(frozen=True)
class Mismatch:
    """A weight by which a file and a network differ.

    Attributes:
        kind: ``missing`` in the file, ``unexpected`` in the network, or ``of another`` shape,
            kernel size or number of classes.
        key: Its name.
        detail: The file's shape and the network's, where both have it.
    """

    kind: str
    key: str
    detail: str = ""


@dataclass(frozen=True)
class Match:
    """The weights of a file that fit a network, and those that do not fit or are missing.

    ``neutral``: the file is of the plain network, and attention is to start as the identity.
    """

    tensors: Mapping[str, Tensor]
    mismatches: Sequence[Mismatch]
    neutral: bool

    @property
    def is_exact(self) -> bool:
        """Whether each weight of the file and the network has its like in the other."""
        return not self.mismatches and not self.neutral

    @property
    def half_loaded_norm(self) -> str | None:
        """The first batch norm whose scale matches while its statistics are missing."""
        missing = (m.key for m in self.mismatches if m.kind == "missing")
        norms = (key.removesuffix(".running_var") for key in missing if ".running_var" in key)
        return next((norm for norm in norms if f"{norm}.weight" in self.tensors), None)

    def load(self, network: nn.Module) -> None:
        """Copy the weights that fit into the network they were matched with."""
        network.load_state_dict(self.tensors, strict=False)
        if self.neutral:
            init_as_identity(network)


def load_weights(network: nn.Module, source: WeightsFile | str | Path) -> None:
    """Load weights into a network in place, all of them or none.

    Weights of a network without attention fit the same network with attention that can start as the
    identity, see `identity_init`: the outputs are those without attention. A network of features
    takes the weights of its classification network.

    Args:
        network: A network of `create_backbone`.
        source: A file that `read_weights` takes, or what it read.

    Raises:
        ValueError: If a weight is missing, unexpected or of another shape; nothing is loaded then.
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
    """Find out which weights, by the names of `create_backbone`, fit one of its networks."""
    layout = layout_of(network)
    if isinstance(network, FeaturePyramid):
        tensors = layout.of_body(tensors)
    expected = network.state_dict()
    mismatches = compare(expected, tensors, layout)
    is_plain = any(map(_is_attention, expected)) and not any(map(_is_attention, tensors))
    neutral = is_plain and starts_as_identity(network)
    if neutral:
        mismatches = [m for m in mismatches if not _is_attention(m.key)]
    elif is_plain:
        why = "(the attention states no gate_layers with which it starts as the identity)"
        mismatches = [replace(m, detail=why) if _is_attention(m.key) else m for m in mismatches]
    unfit = {mismatch.key for mismatch in mismatches}
    fit = {k: v for k, v in tensors.items() if k in expected and k not in unfit}
    return Match(fit, mismatches, neutral)


def compare(
    expected: Mapping[str, Tensor], given: Mapping[str, Tensor], layout: Layout
) -> list[Mismatch]:
    """List how the weights of a file differ from those of a network, by name and shape.

    The norms' counters of batches, which change no output, may be on one side alone.
    """
    found = [Mismatch("missing", key) for key in expected if key not in given]
    found += [Mismatch("unexpected", key) for key in given if key not in expected]
    found = [mismatch for mismatch in found if not is_counter(mismatch.key)]
    for key, tensor in expected.items():
        if key not in given or given[key].shape == tensor.shape:
            continue
        ours, theirs = tuple(tensor.shape), tuple(given[key].shape)
        if layout.is_classifier(key) and theirs and theirs[1:] == ours[1:]:
            kind, detail = "number of classes", f"{theirs[0]} instead of {ours[0]}"
        elif key.endswith(_KERNELS) and theirs[:-1] == ours[:-1]:
            kind, detail = "kernel size", f"k = {theirs[-1]} instead of {ours[-1]}"
        else:
            kind, detail = "shape", f"{theirs} instead of {ours}"
        found.append(Mismatch(f"of another {kind}", key, detail))
    return found


def summary(mismatches: Sequence[Mismatch]) -> str:
    """Summarize in one line how many weights do not match, with the first of each kind."""
    phrases = []
    for kind in dict.fromkeys(mismatch.kind for mismatch in mismatches):
        keys = [f"{m.key} {m.detail}".rstrip() for m in mismatches if m.kind == kind]
        shown = ", ".join(keys[:_SHOWN]) + (", ..." if len(keys) > _SHOWN else "")
        phrases.append(f"{len(keys)} {kind} ({shown})")
    return "; ".join(phrases)


def is_counter(key: str) -> bool:
    """Whether a weight is a norm's counter of batches."""
    return key.endswith("num_batches_tracked")


def _is_attention(key: str) -> bool:
    return ".attention." in key
