"""The networks of the paper and of timm, and the figures that are published for them."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from eca_lightning.backbones import BackboneConfig
from eca_lightning.detection.networks import DetectorConfig

_UNITS = {"G": 2**30, "M": 2**20}
_OPTIONS: dict[str, dict[str, Any]] = {
    # Table 2 fixes k = 3 for ECA and ECA-NS, which then differ only in the sharing of weights.
    "eca_k3_resnet50": {"kernel": 3},
    "eca_ns_resnet50": {"kernel": 3},
    # Table 3's 3.40 M need reduction 8; 16, as in the ResNets, gives 3.37 M.
    "se_mobilenet_v2": {"reduction": 8},
}
_FROM_AA = (
    "Quoted from the method's paper, in 10^6 and 10^9. Without the matrix products of its "
    "attention, multiply-adds agree within 2%."
)
_FROM_GCNET = (
    "Quoted from GCNet's paper: all parameters, not only the trainable ones, and operations of "
    "another counter, 279.4 for the plain network, where table 5 has 275.58."
)
_NO_RULE = (
    "No rule that we tried gives 4.7e-4 GFLOPs: multiply-adds are those of the one-dimensional "
    "convolutions alone, and the rule of table 3 counts the pooling as well."
)
_NOTES = {
    ("table 3", "a2_resnet50"): (
        "Quoted from the method's paper, in 10^6 and 10^9. With the strides in the 1 x 1 "
        "convolutions, as ResNet had them first, multiply-adds agree within 2%."
    ),
    ("table 3", "gsop1_resnet50"): (
        "Quoted from the method's paper, in 10^6 and 10^9. GSoP-Net1 has no stride in its last "
        "stage; so, with the others in the 1 x 1 convolutions, multiply-adds agree within 2%."
    ),
    ("table 3", "aa_resnet50"): _FROM_AA,
    ("table 3", "aa_resnet101"): _FROM_AA,
    ("table 3", "gc_resnet50"): "Quoted from the method's paper: parameters in 10^6.",
    ("table 3", "se_mobilenet_v2"): "No rule that we tried gives the last digit of 320.1M.",
    ("released", "eca_resnet152"): "A slip, it seems: table 3 has 57.40 for the same network.",
    ("Eq. 12", "eca_resnet50"): _NO_RULE,
    ("Fig. 3", "eca_resnet50"): _NO_RULE,
    ("released sizes", "eca_resnet50"): _NO_RULE,
    ("table 5", "mask_rcnn nl_resnet50"): _FROM_GCNET,
    ("table 5", "mask_rcnn gc_resnet50"): _FROM_GCNET,
}
"""Why a figure differs from ours, by table and network."""


@dataclass(frozen=True)
class Printed:
    """A figure of the paper as printed, such as ``24.37`` or ``3.86G``, and its unit (2^20)."""

    text: str
    unit: int

    def agrees(self, count: int) -> bool:
        """Whether a count, rounded, has the same digits."""
        digits = len(self._number.partition(".")[2])
        return f"{count / self.unit:.{digits}f}" == self._number

    def difference(self, count: int) -> float:
        """Return by how much a count is higher, in percent."""
        return 100 * (count / self.unit / float(self._number) - 1)

    @property
    def _number(self) -> str:
        return self.text.rstrip("GM")


@dataclass(frozen=True)
class PaperModel:
    """A network and its printed figures.

    Attributes:
        table: ``table 2``, ``table 3``, ``table 5``, ``released`` for the table of the authors'
            repository, a choice of ECA's kernel sizes, see `kernel_choices`, ``timm``, or ``own``.
        name: Method and backbone, such as eca_resnet50, after the name of a detector.
        counts_macs: Whether the operations are multiply-adds, not those of the table's counter.
        only_attention: Whether the figures are those of attention without the network.
        top1: The printed ImageNet top-1 accuracy, in percent; empty for detectors.
        image_size: Height and width of the image. Default: those of the paper.
    """

    table: str
    name: str
    config: BackboneConfig | DetectorConfig
    parameters: Printed | None = None
    operations: Printed | None = None
    counts_macs: bool = False
    only_attention: bool = False
    top1: str = ""
    image_size: int | None = None

    @property
    def note(self) -> str:
        """Why a figure differs from ours; empty where all agree."""
        return _NOTES.get((self.table, self.name), "")


def imagenet_models() -> Iterator[PaperModel]:
    """Yield the rows of table 3."""
    for row in paper_rows("table3_imagenet.csv"):
        plain = row["method"] in ("resnet", row["backbone"])
        name = row["backbone"] if plain else f"{row['method']}_{row['backbone']}"
        attention = None if plain else row["method"].replace("gsop1", "gsop")
        backbone = BackboneConfig(row["backbone"], attention, _OPTIONS.get(name, {}))
        macs = row["method"] in ("a2", "gsop1", "aa")
        parameters = Printed(row["params_M"], 10**6 if macs or row["method"] == "gc" else 2**20)
        operations = Printed(row["flops"], 10**9 if macs else _UNITS[row["flops"][-1]])
        yield PaperModel("table 3", name, backbone, parameters, operations, macs, top1=row["top1"])


def ablation_models() -> Iterator[PaperModel]:
    """Yield the ResNet-50 variants of table 2 that are not in table 3."""
    for row in paper_rows("table2_attention_variants.csv"):
        if row["method"] not in ("vanilla", "se"):
            name = f"{row['method']}_resnet50"
            attention = row["method"].removesuffix("_k3")
            backbone = BackboneConfig("resnet50", attention, _OPTIONS.get(name, {}))
            yield PaperModel("table 2", name, backbone, top1=row["top1"])


def released_models() -> Iterator[PaperModel]:
    """Yield the checkpoints that the authors have published, with a kernel size for each stage."""
    for row in paper_rows("released_checkpoints.csv"):
        name, sizes = row["model"], row["k_per_stage"]
        # MobileNetV2's: 1 below 96 output channels, else 3.
        kernel = [int(size) for size in sizes] if sizes.isdigit() else [1, 1, 1, 1, 3, 3, 3]
        backbone = BackboneConfig(name.removeprefix("eca_"), "eca", {"kernel": kernel})
        parameters = Printed(row["params_M"], 2**20)
        operations = Printed(row["flops"], _UNITS[row["flops"][-1]])
        yield PaperModel("released", name, backbone, parameters, operations, top1=row["top1"])


def kernel_choices() -> Iterator[PaperModel]:
    """Yield what ECA adds to a network, for each choice of its kernel sizes.

    The choices are the paper's rule (Eq. 12), the code that it prints (Fig. 3) and the sizes of the
    released checkpoints. The abstract has the figures for ResNet-50, but not the sizes.
    """
    abstract = {row["model"]: row for row in paper_rows("abstract.csv")}
    for model in released_models():
        parameters = operations = None
        if row := abstract.get(model.name):
            parameters = Printed(row["added_parameters"], 1)
            operations = Printed(row["added_gflops"], 10**9)
        choices = {
            "Eq. 12": BackboneConfig(model.config.name, "eca"),
            "Fig. 3": BackboneConfig(model.config.name, "eca", {"kernel": "figure"}),
            "released sizes": model.config,
        }
        for table, config in choices.items():
            yield PaperModel(table, model.name, config, parameters, operations, True, True)


def detectors() -> Iterator[PaperModel]:
    """Yield the rows of table 5, whose units are decimal and whose parameters the trainable ones.

    They include those of the backbone's batch norms, though their statistics are fixed: therefore
    ``norm`` is ``batch`` here.
    """
    for row in paper_rows("table5_detection.csv"):
        attention = row["attention"].replace("nl1", "nl")
        name = f"{attention}_{row['backbone']}".removeprefix("none_")
        config = DetectorConfig(
            row["detector"],  # type: ignore[arg-type]
            BackboneConfig(row["backbone"], None if attention == "none" else attention),
            norm="batch",
            trainable_layers=5 if attention in ("nl", "gc") else 3,
        )
        parameters, operations = Printed(row["params_M"], 10**6), Printed(row["gflops"], 10**9)
        yield PaperModel("table 5", f"{row['detector']} {name}", config, parameters, operations)


def timm_models() -> Iterator[PaperModel]:
    """Yield timm's ResNets with ECA and SE, by the best weights of each that load here.

    timm_results.csv holds all weights of timm's ResNets, as results/results-imagenet.csv of
    huggingface/pytorch-image-models has them (aa4b5850) at the size and crop that their config
    names, and multiply-adds and images/s of its benchmark-infer-amp-nhwc-pt240-cu124-rtx4090.csv.
    """
    best: dict[str, dict[str, str]] = {}
    for row in paper_rows("timm_results.csv"):
        network = row["weights"].partition(".")[0]
        known = best.setdefault(network, row)
        if float(row["top1"]) > float(known["top1"]):
            best[network] = row
    options: dict[str, dict[str, Any]] = {"eca": {"kernel": "figure"}, "se": {"bias": True}}
    for network, row in best.items():
        attention = next((name for name in options if network.startswith(name)), None)
        if attention is None or network.endswith("_pruned"):
            continue
        name = network.removeprefix(attention)
        yield PaperModel(
            "timm",
            row["weights"],
            BackboneConfig(name, attention, options[attention]),
            Printed(row["parameters_M"], 10**6),
            Printed(row["gmacs"], 10**9) if row["gmacs"] else None,
            counts_macs=True,
            top1=row["top1"],
            image_size=int(row["image_size"]),
        )


def paper_rows(name: str) -> Iterator[dict[str, str]]:
    """Read the rows of one of the CSV files in this folder."""
    with (files("eca_lightning.paper") / name).open() as file:
        yield from csv.DictReader(file)
