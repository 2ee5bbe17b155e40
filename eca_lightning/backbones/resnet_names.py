"""Names of ResNets, as torchvision and timm give them, and the options that they stand for.

A name is ``resnet`` or ``resnext``, a depth, and timm's letters: after the depth for the stem and
the shortcuts, before it for what lowers the resolution, as in ``resnet50t`` and ``resnetblur50d``.
"""

import re
from functools import partial
from typing import Any

from eca_lightning.backbones.blocks import AttentionBasicBlock, AttentionBottleneck
from eca_lightning.backbones.network import Builder, register_backbone, register_family
from eca_lightning.backbones.resnet import imagenet_resnet

_NAME = re.compile(
    r"(?P<wide>wide_)?resne(?P<kind>t|xt)(?P<pool>aa|blur|rs)?(?P<depth>light|\d+)"
    r"(?P<form>[cdst])?(_(?P<groups>\d+)x(?P<group_width>\d+)d|_(?P<factor>\d))?"
)
_BASIC = {"10": (1, 1, 1, 1), "18": (2, 2, 2, 2), "34": (3, 4, 6, 3)}
_BOTTLENECK = {
    "14": (1, 1, 1, 1),
    "26": (2, 2, 2, 2),
    "50": (3, 4, 6, 3),
    "101": (3, 4, 23, 3),
    "152": (3, 8, 36, 3),
    "200": (3, 24, 36, 3),
    "201": (3, 24, 36, 4),
    "269": (3, 30, 48, 8),
    "270": (4, 29, 53, 4),
    "350": (4, 36, 72, 4),
    "420": (4, 44, 87, 4),
    "light": (1, 1, 11, 3),
}
_STEMS = {"t": (24, 32, 64), "s": (64, 64, 128), "c": (32, 32, 64), "d": (32, 32, 64)}
_POOLINGS = {None: "max", "rs": "convolution", "aa": "average", "blur": "blur"}


# Small enough to learn a small data set from scratch in minutes.
register_backbone("resnet10_half")(
    partial(imagenet_resnet, AttentionBasicBlock, (1, 1, 1, 1), width=32)
)


@register_family(
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2"),
)
def find_resnet(name: str) -> Builder | None:
    """Return the builder of a ResNet by its name; None if the name is none."""
    found = _NAME.fullmatch(name)
    if not found:
        return None
    depth, form, pool = found["depth"], found["form"], found["pool"]
    is_basic = depth in _BASIC
    layers = (_BASIC | _BOTTLENECK).get(depth)
    grouped, wider = found["groups"] is not None, found["factor"] is not None
    if (
        layers is None
        or (found["kind"] == "xt") != grouped
        or bool(found["wide"]) != wider
        or (is_basic and (grouped or wider))
        or (pool == "rs" and form)
        or (depth == "light" and (form or pool))
    ):
        return None
    options: dict[str, Any] = {"pooling": _POOLINGS[pool]}
    options["average_shortcuts"] = pool == "rs" or depth == "light" or form in ("d", "t")
    options["deep_stem"] = _STEMS.get("d" if pool == "rs" else form or "")
    if depth == "201":  # of timm's one network of this depth
        options["deep_stem"] = _STEMS["s"]
    if grouped:
        options |= {"groups": int(found["groups"]), "width_per_group": int(found["group_width"])}
    elif wider:
        options["width_per_group"] = 64 * int(found["factor"])
    block = AttentionBasicBlock if is_basic else AttentionBottleneck
    return partial(imagenet_resnet, block, layers, **options)
