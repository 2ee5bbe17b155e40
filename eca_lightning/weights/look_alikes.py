"""Networks with weights of the same names and shapes that compute different things.

Only what a file or its name says can tell them apart.
"""

import re
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

NOT_SHOWN = (
    "strides, dilation, blur, padding (ECA's too), activations, eps of norms, order of colors"
)
"""What weights do not show of their network; it is taken to be as torchvision's."""

_NAME_KEYS = ("arch", "architecture", "model_name", "model", "backbone", "encoder_name")
_NAMES = {
    r"nex?t\w*_lpf": "it has the blur of another project",
    r"dilated|deeplab|(^|[^a-z])(fcn|drn|dc5|pspnet)|"
    r"(^|[^a-z])(os|output_?stride)[_=-]?(8|16)(?!\d)": "it dilates instead of striding",
    r"(^|[^a-z])(silu|swish|gelu|mish|leaky|leakyrelu|elu|celu|selu|frelu|prelu|hardswish)"
    r"([^a-z]|$)": "it has other activations",
    r"(^|[^a-z])(gn|groupnorm|evonorm|frn)([^a-z]|$)": "it has other norms",
    r"(^|[^a-z])(caffe|msra)([^a-z]|$)": "it strides in other convolutions, for BGR images",
    r"^tf_": "it has other padding and eps",
}
_POOLING = re.compile(r"resne(?:t|xt)_?(aa|blur)?_?(?=\d)")
_POOLINGS = {"avg": "aa", "avgpool": "aa", "avgpool2d": "aa"}
_POOLINGS |= {"blur": "blur", "blurpool": "blur", "blurpool2d": "blur"}
_CIRCULAR = re.compile(r"(^|[^a-z])ceca")
_OPTIONS = {  # of timm and torchvision, and what is as here or is understood
    "output_stride": "32",
    "replace_stride_with_dilation": "[false, false, false]",
    "aa_layer": " ".join(_POOLINGS),
    "act_layer": "relu",
    "norm_layer": "batchnorm batchnorm2d",
    "bn_eps": "1e-05",
    "attn_layer": "se eca ceca cbam gc gca",
    "gate_layer": "sigmoid",
    "global_pool": "avg",
    "gp": "avg",
}
_FAMILIES = {  # by keys
    r"^layer1\.0\.conv1\.(0\.)?bias$": "its batch norms are folded into its convolutions",
    r"^(layer0\.|layer1\.0\.se_module\.)": "it strides in other convolutions, as Caffe's ResNets",
    r"\.conv1_1x1\.": "timm's byobnet has attention inside its bottlenecks",
    r"^stages\.\d+\.conv_(down|exp)": "it is a CSPNet",
    r"^stages\.0\.blocks\.0\.norm1\.": "it normalizes before its convolutions, as ResNet v2",
    r"\.gain$": "it is a network without norms",
    r"\.conv\d\.(paths|conv_reduce)": "it selects among kernels, as SKNet",
    r"^conv_stem\.": "it is of timm's family of EfficientNets",
    r"^(patch_embed|blocks\.0\.attn)": "it is a transformer",
}
_UNSET = ("", "none", "null", "false", "0", "[]", "()", "{}")
_OF_SEGMENTATION = re.compile(r"(aux_)?classifier\.\d|(decode|auxiliary|segmentation)_head\.")


def settings(content: Any) -> Iterator[tuple[str, Any]]:
    """List what is plain data in a file's nested dicts, by key."""
    places, seen = [content], set()
    for place in places:
        seen.add(id(place))
        items = vars(place) if isinstance(place, Namespace) else place
        for key, value in items.items():
            if isinstance(value, Mapping | Namespace):
                if id(value) not in seen:
                    places.append(value)
            elif isinstance(value, str | int | float) or _is_flat(value):
                yield str(key), value


def _is_flat(value: Any) -> bool:
    """Whether a value is a list that can be printed: no other, of others, is in it."""
    plain = str | int | float | None
    return isinstance(value, list | tuple) and all(isinstance(entry, plain) for entry in value)


def names(path: Path, given: Iterable[tuple[str, Any]]) -> list[str]:
    """List what a file, its folder in the cache of the Hub and, last, its name call the network."""
    found = [value for key, value in given if key in _NAME_KEYS and isinstance(value, str)]
    folders = [parent.name for parent in path.absolute().parents]
    name = re.sub(r"-[0-9a-f]{8,}(?=\.|$)", "", path.name)  # without a checksum, which spells words
    return [*found, *(folder for folder in folders if folder.startswith("models--")), name]


def understood(called: Sequence[str], given: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return what is told of a network of this package that its weights do not show.

    Args:
        called: Names of the network.
        given: Settings of the file.

    Returns:
        ``pooling``, what replaces strides ("aa", "blur" or ""), and ``circular``, of its ECA; they
        are missing where nothing is told.

    Raises:
        ValueError: If two names contradict each other.
    """
    told: dict[str, Any] = {}
    named: dict[str, str] = {}
    for name in called:
        if found := _POOLING.search(name.lower()):
            named.setdefault(found[1] or "", name)
        if _CIRCULAR.search(name.lower()):
            told["circular"] = True
    for key, value in given:
        option = str(value).lower()
        if key == "aa_layer" and option in _POOLINGS:
            named = {_POOLINGS[option]: option}
        if key == "attn_layer" and option == "ceca":
            told["circular"] = True
    if len(named) > 1:
        raise ValueError(f"is called by names of different networks: {', '.join(named.values())}")
    return told | ({"pooling": next(iter(named))} if named else {})


def difference(
    called: Iterable[str], given: Iterable[tuple[str, Any]], outside: Iterable[str]
) -> str:
    """Say why a network is none of this package though its weights look so; empty if it may be.

    Args:
        called: Names of the network.
        given: Settings of the file.
        outside: Keys of weights beside the network's.
    """
    for name in called:
        for pattern, why in _NAMES.items():
            if re.search(pattern, name.lower()):
                return f"'{name}': {why}"
    for key, value in given:
        option = str(value).lower()
        if key in _OPTIONS and option not in (*_UNSET, _OPTIONS[key], *_OPTIONS[key].split()):
            return f"{key} {value}"
    for key in outside:
        if _OF_SEGMENTATION.match(key):
            return f"{key} beside it, of segmentation, for which it is dilated"
    return ""


def family(keys: Iterable[str]) -> str:
    """Say of which other networks weights are, by their keys; empty if that is unknown."""
    joined = "\n".join(keys)
    return next((why for pattern, why in _FAMILIES.items() if re.search(pattern, joined, re.M)), "")
