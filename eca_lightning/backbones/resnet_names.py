"""Names of ResNets, as torchvision and timm give them, and the options that they stand for.

A name is ``resnet`` or ``resnext``, a depth, and timm's letters: after the depth for the stem and
the shortcuts, before it for what lowers the resolution, as in ``resnet50t`` and ``resnetblur50d``.
"""

import re
from functools import partial
from typing import Any

from eca_lightning.backbones.blocks import AttentionBasicBlock, AttentionBottleneck
from eca_lightning.backbones.network import (
    Builder,
    Family,
    Shapes,
    register_backbone,
    register_family,
)
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
_DEEP_STEM = ("conv1.0.weight", "conv1.3.weight", "conv1.6.weight")
_POOLINGS = {None: "max", "rs": "convolution", "aa": "average", "blur": "blur"}


# Small enough to learn a small data set from scratch in minutes.
register_backbone("resnet10_half")(
    partial(imagenet_resnet, AttentionBasicBlock, (1, 1, 1, 1), width=32)
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


def read_name(shapes: Shapes) -> str | None:
    """Return the name of a ResNet by the shapes of its weights; None if they are of none.

    Averages and blur are not in them.
    """
    blocks = {m[0] for key in shapes if (m := re.match(r"layer\d+\.\d+", key))}
    layers = tuple(sum(block.startswith(f"layer{n}.") for block in blocks) for n in range(1, 5))
    is_basic = "layer1.0.conv3.weight" not in shapes
    depths = [depth for depth, of in (_BASIC if is_basic else _BOTTLENECK).items() if of == layers]
    first, grouped = shapes.get("layer1.0.conv1.weight"), shapes.get("layer1.0.conv2.weight")
    if not depths or not first or not grouped or len(grouped) < 2 or grouped[1] < 1:
        return None
    averages = any(key.endswith(".downsample.1.weight") and len(shapes[key]) == 4 for key in shapes)
    stem = tuple(shapes[key][0] for key in _DEEP_STEM if shapes.get(key))
    forms = [
        form
        for form, widths in _STEMS.items()
        if widths == stem and averages == (form in ("d", "t"))
    ]
    pool = "rs" if "maxpool.0.weight" in shapes else ""
    groups = 1 if is_basic else first[0] // grouped[1]
    width = 0 if is_basic else grouped[1] if groups > 1 else first[0] // 64
    suffix = f"_{groups}x{width}d" if groups > 1 else f"_{width}" if width > 1 else ""
    names = [
        f"{'wide_' * (groups == 1 and width > 1)}resne{'xt' if groups > 1 else 't'}{pool}{depth}"
        f"{form}{suffix}"
        for depth in depths
        for form in ([""] if pool or not stem else [*forms, "d"])
    ]
    return next((name for name in names if find_resnet(name)), None)


def pooling(name: str) -> str | None:
    """Return what replaces strides in a ResNet: aa, blur or nothing; None if it is no ResNet."""
    found = _NAME.fullmatch(name)
    return (found["pool"] or "").replace("rs", "") if found else None


def with_pooling(name: str, pool: str) -> str:
    """Return the name of the same ResNet with aa, blur or nothing in place of strides."""
    return re.sub(r"(resne(t|xt))(aa|blur)?", rf"\1{pool}", name, count=1)


register_family(
    Family(find_resnet, read_name),
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2"),
)
