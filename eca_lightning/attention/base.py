"""What an attention mechanism states about itself, and the registry of mechanisms by name.

A mechanism is one file and one class, whose attributes are all that the package knows of it.
"""

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

from torch import Size, Tensor, nn

from eca_lightning.utils.checks import require_known

__all__ = ["Attention", "ChannelGate", "ForeignKey", "Placement", "attention_class"]
__all__ += ["attention_names", "create_attention", "evenly_spaced", "every"]
__all__ += ["register_attention", "second_to_last"]

Site = Literal["branch", "output", "convolution"]
"""Where a mechanism works: on the residual branch, before the sum (ECA, SE, ...); on the block's
output, after the sum (non-local blocks); or in place of the block's 3x3 convolution (AA)."""

Choice = Callable[[int], Sequence[int]]
"""Maps the number of blocks of a feature level to the indices of the chosen ones."""


def every(blocks: int) -> Sequence[int]:
    """Choose every block of a level."""
    return range(blocks)


def second_to_last(blocks: int) -> Sequence[int]:
    """Choose the block before the last, or the only one."""
    return [max(0, blocks - 2)]


def evenly_spaced(count: int) -> Choice:
    """Choose ``count`` blocks ending with the last: 2 of 4 are 1 and 3, 3 of 6 are 1, 3 and 5."""
    return lambda blocks: sorted(
        {(i + 1) * blocks // min(count, blocks) - 1 for i in range(min(count, blocks))}
    )


@dataclass(frozen=True)
class Placement:
    """Where its paper puts a mechanism in a network.

    Attributes:
        site: Where in a block.
        blocks: Which blocks of each feature level; levels that are missing get nothing. Level l is
            the part of a network whose features lie at stride 2^l, as in feature pyramids: C2 to
            C5 are the four stages of an ImageNet ResNet.
    """

    site: Site = "branch"
    blocks: Mapping[int, Choice] = field(default_factory=lambda: dict.fromkeys(range(1, 6), every))


def same(tensor: Tensor) -> Tensor:
    """Return a weight as it is."""
    return tensor


def as_linear(tensor: Tensor) -> Tensor:
    """Return the weight (out, in) of a 1x1 convolution, (out, in, 1, 1)."""
    return tensor.flatten(1)


def as_convolution(tensor: Tensor) -> Tensor:
    """Return the weight (out, in, 1, 1) of a linear layer; a bias stays as it is."""
    return tensor[:, :, None, None] if tensor.dim() == 2 else tensor


class ForeignKey(NamedTuple):
    """A regular expression of a weight's key, its replacement in another project, and the change.

    ``change`` maps the weight from the form of one project to that of the other.
    """

    pattern: str
    replacement: str
    change: Callable[[Tensor], Tensor] = same

    def translate(self, key: str, tensor: Tensor) -> tuple[str, Tensor]:
        """Return the key and the tensor of the other project; unchanged if the pattern differs."""
        translated, found = re.subn(self.pattern, self.replacement, key)
        return translated, self.change(tensor) if found else tensor


TO_TIMM = ForeignKey(r"\.attention\.", ".se.")
"""timm names whatever attention a residual block has "se"."""


class Attention(nn.Module):
    """Base of attention mechanisms: modules that map (N, C, H, W) to the same shape.

    The constructor takes ``channels`` (and ``stride``, for the site "convolution"); its other
    parameters are the options of the mechanism. Dtype and memory format are kept.

    Attributes:
        placement: Where the paper puts it. Default: on the residual branch of every block.
        gate_layers: Names of the layers whose outputs are gates before their sigmoids. With all of
            these layers' parameters at zero the mechanism halves its input once a name; "" is the
            mechanism itself. An empty tuple states that it is the identity when it is initialized.
            Default: None, it cannot start as the identity.
        foreign_keys: Names of its weights in other projects, to be replaced by its own.
        exported_keys: The other way round, by project; it is in no other project.
    """

    placement: ClassVar[Placement] = Placement()
    gate_layers: tuple[str, ...] | None = None
    foreign_keys: ClassVar[tuple[ForeignKey, ...]] = (
        ForeignKey(r"^(layer\d+\.\d+)\.se\.", r"\1.attention."),
    )
    exported_keys: ClassVar[Mapping[str, tuple[ForeignKey, ...]]] = {}

    @classmethod
    def infer_options(cls, shapes: Mapping[str, Size]) -> dict[str, Any]:
        """Infer options from the shapes of a mechanism's weights; none if they do not fit."""
        return {}


class ChannelGate(Attention, ABC):
    """Scale ``x`` by ``sigmoid(logits(mean of x over height and width))``.

    A mechanism defines `logits` alone, which fused block tails, that pool by other means, call.
    """

    @abstractmethod
    def logits(self, pooled: Tensor) -> Tensor:
        """Map the pooled channels, (N, C), to the gate before its sigmoid, (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Gate a (N, C, H, W) tensor; dtype and memory format are kept, under autocast too."""
        gate = self.logits(x.mean(dim=(2, 3))).sigmoid()
        return x * gate.to(x.dtype)[:, :, None, None]


_REGISTRY: dict[str, tuple[type[Attention], dict[str, Any]]] = {}
Mechanism = TypeVar("Mechanism", bound=type[Attention])


def register_attention(name: str, **preset: Any) -> Callable[[Mechanism], Mechanism]:
    """Register a class derived from `Attention` under a name, as a decorator.

    Args:
        name: The name.
        **preset: Options that the name stands for; it takes no others.

    Raises:
        TypeError: If the class is not derived from `Attention`.
        ValueError: If another class has the name.
    """

    def register(mechanism: Mechanism) -> Mechanism:
        if not (isinstance(mechanism, type) and issubclass(mechanism, Attention)):
            raise TypeError(f"attention {name!r}: {mechanism} is not derived from Attention")
        known, _ = _REGISTRY.get(name, (mechanism, {}))
        if (known.__module__, known.__qualname__) != (mechanism.__module__, mechanism.__qualname__):
            raise ValueError(f"attention {name!r} is registered by {known}: choose another name")
        _REGISTRY[name] = mechanism, preset
        return mechanism

    return register


def attention_names() -> tuple[str, ...]:
    """List the registered mechanisms."""
    return tuple(_REGISTRY)


def attention_class(name: str | type[nn.Module]) -> type[nn.Module]:
    """Look up a mechanism.

    Args:
        name: A registered name, the dotted path of a class, ``my_package.MyAttention``, or a class.

    Raises:
        ValueError: If the name is unknown.
    """
    if isinstance(name, type):
        return name
    if "." not in name:
        require_known(name, _REGISTRY, "attention")
        return _REGISTRY[name][0]
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"attention '{name}': {error}; install the package, or set PYTHONPATH to its folder"
        ) from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(f"attention '{name}' is not a class derived from torch.nn.Module")
    return found


def create_attention(name: str | type[nn.Module], channels: int, **options: Any) -> nn.Module:
    """Create an attention mechanism.

    Args:
        name: See `attention_class`.
        channels: Number of channels of its input.
        **options: Options of the mechanism, such as ``kernel`` of ECA or ``reduction`` of SE.

    Returns:
        A module that maps (N, C, H, W) to (N, C, H, W) of the same dtype and memory format.

    Raises:
        ValueError: If the name, an option or the number of channels is not possible.
    """
    mechanism = attention_class(name)
    if channels < 1:
        raise ValueError(f"attention '{name}' needs at least one channel, got {channels}")
    _, preset = _REGISTRY.get(str(name), (None, {}))
    parameters = {} if preset else dict(inspect.signature(mechanism).parameters)
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        valid = [option for option in parameters if option != "channels"] or ["none"]
        for option in options:
            require_known(option, valid, f"option of attention '{name}':")
    return mechanism(channels, **preset, **options)
