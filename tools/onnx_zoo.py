"""Export every backbone with every common attention to ONNX and compare it with PyTorch.

    python tools/onnx_zoo.py --output runs/onnx_zoo.csv

Each network is exported as it is and with its batch norms folded, and run by onnxruntime on batches
of 1 and 7 images of 224 and 192 pixels. A difference of logits above 1e-4 fails. The weights are
random, but the statistics of the batch norms are those of random images, and the last norm of each
block scales its branch down, as training does. Without, a network enlarges each rounding on its
way: the logits of a random ResNet-152 in float32 are then 1e-3 from those in float64, in PyTorch.
"""

import argparse
import csv
import itertools
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from eca_lightning import create_backbone
from eca_lightning.backbones import backbone_names
from eca_lightning.backbones.blocks import (
    AttentionBlock,
    AttentionBottleneck,
    AttentionInvertedResidual,
)
from eca_lightning.backbones.fold_bn import fold_batch_norms
from eca_lightning.export.formats import runner, write_graph
from eca_lightning.export.graphs import Deployed, trace

ATTENTIONS = ("none", "se", "eca", "cbam")
BATCHES, SIZES = (1, 7), (224, 192)
LIMIT = 1e-4
COLUMNS = ("backbone", "attention", "largest logit", "as it is", "folded", "seconds")


def main() -> None:
    """Print and write the table; exit with 1 if a difference is above the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/onnx_zoo.csv"))
    parser.add_argument("--backbones", nargs="+", default=backbone_names())
    parser.add_argument("--attentions", nargs="+", default=ATTENTIONS)
    arguments = parser.parse_args()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    table = Table(*COLUMNS, title="ONNX beside PyTorch: largest difference of logits")
    worst = 0.0
    with arguments.output.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for name, attention in itertools.product(arguments.backbones, arguments.attentions):
            begin = time.perf_counter()
            largest, *differences = compare(network(name, attention))
            worst = max(worst, *differences)
            figures = [f"{largest:.2f}", *(f"{d:.1e}" for d in differences)]
            row = (name, attention, *figures, f"{time.perf_counter() - begin:.0f}")
            writer.writerow(row)
            file.flush()
            print(*row, file=sys.stderr)
            table.add_row(*row)
    Console().print(table)
    print(f"largest difference: {worst:.1e}, limit {LIMIT:g}")
    sys.exit(worst > LIMIT)


def network(name: str, attention: str) -> nn.Module:
    """A network with random weights, whose batch norms know the statistics of random images."""
    torch.manual_seed(0)
    made = create_backbone(name, attention)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            module.momentum = 1.0
    for block in made.modules():
        if isinstance(block, AttentionBlock):
            nn.init.uniform_(last_norm(block).weight, 0.1, 0.3)
    with torch.no_grad():
        made.train()(torch.randn(4, 3, 128, 128))
    return made.eval()


def last_norm(block: AttentionBlock) -> nn.Module:
    """The norm before the attention of a block."""
    if isinstance(block, AttentionInvertedResidual):
        return block.conv[-1]
    return block.bn3 if isinstance(block, AttentionBottleneck) else block.bn2


def compare(made: nn.Module) -> tuple[float, float, float]:
    """The largest logit, and the largest differences of the graph as it is and folded."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(n, 3, size, size) for n, size in itertools.product(BATCHES, SIZES)]
    images = [torch.randn(shape, generator=generator) for shape in shapes]
    with torch.inference_mode():
        expected = [made(batch) for batch in images]
    differences = []
    for fold in (False, True):
        graph = fold_batch_norms(made) if fold else made
        program = trace(Deployed(graph, torch.zeros(3), torch.ones(3), preprocess=False))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.onnx"
            write_graph(program, path, ["logits"], {}, optimize=fold)
            run = runner(path)
        pairs = zip(expected, images, strict=True)
        differences.append(max(float((y - run(x)["logits"]).abs().max()) for y, x in pairs))
    largest = max(float(y.abs().max()) for y in expected)
    return largest, differences[0], differences[1]


if __name__ == "__main__":
    main()
