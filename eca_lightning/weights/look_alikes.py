"""Networks with the names and shapes of this package's weights that compute something else.

Only what a file or its name says can tell them apart.
"""

import re
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

NOT_SHOWN = (
    "strides, dilation, blur, padding (ECA's too), activations, eps of norms, order of colors"
)
"""What weights do not show of their network; it is taken to be as torchvision's."""

_NAME_KEYS = ("arch", "architecture", "model_name", "model", "backbone", "encoder_name")
_NAMES = {
    r"nex?t_?(aa|blur|lpf)(?![a-z])": "it averages or blurs before its strides",
    r"(^|[^a-z])ceca": "its ECA is circular",
    r"dilated|deeplab|(^|[^a-z])(fcn|drn|dc5|pspnet)|"
    r"(^|[^a-z])(os|output_?stride)[_=-]?(8|16)(?!\d)": "it dilates instead of striding",
    r"(^|[^a-z])(silu|swish|gelu|mish|leaky|leakyrelu|elu|celu|selu|frelu|prelu|hardswish)"
    r"([^a-z]|$)": "it has other activations",
    r"(^|[^a-z])(gn|groupnorm|evonorm|frn)([^a-z]|$)": "it has other norms",
    r"(^|[^a-z])(caffe|msra)([^a-z]|$)": "it strides in other convolutions, for BGR images",
    r"^tf_": "it has other padding and eps",
}
_OPTIONS = {  # of timm and torchvision, and what is as here
    "output_stride": "32",
    "replace_stride_with_dilation": "[false, false, false]",
    "aa_layer": "",
    "act_layer": "relu",
    "norm_layer": "batchnorm batchnorm2d",
    "bn_eps": "1e-05",
    "attn_layer": "se eca",
    "gate_layer": "sigmoid",
    "global_pool": "avg",
    "gp": "avg",
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
