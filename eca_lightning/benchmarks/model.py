"""The command ``benchmark model``: speed and memory of models, measured alternately."""

import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from eca_lightning.benchmarks.common import require_positive
from eca_lightning.benchmarks.model_candidates import build
from eca_lightning.benchmarks.model_report import report, time_ratio
from eca_lightning.utils.checks import require
from eca_lightning.utils.reports import progress_bar
from eca_lightning.utils.tables import Row, write_table

Pass = Literal["train", "inference"]
Mode = Literal["eager", "compiled"]
Precision = Literal["32", "bf16", "16"]

WARM_UP = 2
"""Repeats that do not count: the first compiles, the second still allocates."""


def benchmark_model(
    models: list[str] | None = None,
    passes: tuple[Pass, ...] = get_args(Pass),
    modes: tuple[Mode, ...] = get_args(Mode),
    batch_size: int = 8,
    image_size: int = 224,
    precision: Precision = "32",
    device: str | None = None,
    steps: int = 1,
    repeats: int = 15,
    peak_tflops: float | None = None,
    output: Path = Path("runs/benchmark_model"),
) -> None:
    """Compare the speed and memory of models.

    A training step is forward, cross-entropy, backward and SGD with momentum; inference is forward
    alone. Both work on random images on the device, in channels_last memory but for
    training on CPUs, as in runs.

    The models alternate, in a rotating order, so that a change of the machine's speed affects all
    of them. Each time is divided by that of the first model in the same round; the intervals are
    95% bootstrap intervals of the median. The output folder gets models.csv and models.png.

    Args:
        models: Models to compare, the first being the reference: names such as resnet50 and
            eca_resnet50, paths of YAML files that describe a backbone or a run,
            torchvision:resnet50, timm:ecaresnet50t, timm:eca_resnet50 or original:eca_resnet50
            (ECA as its authors implemented it). Default: ResNet-50 of torchvision, with ECA, with
            ECA as the authors and timm implement it, with SE and with CBAM.
        passes: Passes to time.
        modes: Eager, and with torch.compile.
        batch_size: Images of a step.
        image_size: Height and width of the images in pixels.
        precision: 32 is float32, with TF32 where torch's defaults use it, in convolutions on
            GPUs; bf16 and 16 are autocast.
        device: cpu or cuda. Default: cuda where there is a GPU.
        steps: Steps of a repeat.
        repeats: Repeats of each model that count.
        peak_tflops: Peak performance of the device in 10^12 operations a second, to report the
            fraction of it that is used.
        output: Folder for the results.
    """
    if models is None:
        timm = ["timm:eca_resnet50"] if find_spec("timm") else []
        others = ["eca_resnet50", "original:eca_resnet50", *timm, "se_resnet50", "cbam_resnet50"]
        models = ["torchvision:resnet50", *others]
    for option, values in (("models", models), ("passes", passes), ("modes", modes)):
        require(bool(values), option, "at least one", values)
    require_positive(batch_size=batch_size, image_size=image_size, steps=steps, repeats=repeats)
    for name in models:
        with torch.device("meta"):
            build(name)  # raises for an unknown name before anything is timed
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    work = Work(batch_size, image_size, precision, place, steps)
    if place.type == "cuda":
        torch.backends.cudnn.benchmark = True
    rows: list[Row] = []
    with progress_bar() as progress:
        total = len(models) * len(passes) * len(modes) * (repeats + WARM_UP)
        bar = progress.add_task("", total=total)
        for pass_ in passes:
            for mode in modes:
                torch.compiler.reset()
                timed = [TimedModel(name, pass_, mode, work) for name in models]
                for number in range(repeats + WARM_UP):
                    first = number % len(timed)
                    for model in timed[first:] + timed[:first]:
                        doing = "compiling" if number == 0 and mode == "compiled" else pass_
                        progress.update(bar, description=f"{model.name}: {doing}, {mode}")
                        model.time()
                        progress.advance(bar)
                rows += compare_models(timed, peak_tflops)
                # Written early: compiling the next mode may take long, or fail.
                write_table(output / "models.csv", dict.fromkeys(rows[0], str), rows)
    threads = f"{torch.get_num_threads()} CPU threads"
    hardware = torch.cuda.get_device_name(place) if place.type == "cuda" else threads
    title = f"{batch_size} images of {image_size}, precision {precision}, {hardware}"
    report(rows, title, output)


@dataclass(frozen=True)
class Work:
    """The work of a model in each repeat."""

    batch_size: int
    image_size: int
    precision: Precision
    device: torch.device
    steps: int

    def autocast(self) -> torch.autocast:
        """Return the context of the forward pass."""
        dtype = {"bf16": torch.bfloat16, "16": torch.float16}.get(self.precision)
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)


@dataclass
class TimedModel:
    """A model in one pass and mode, with the seconds of its repeats."""

    name: str
    pass_: Pass
    mode: Mode
    work: Work
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        on_cpu = torch.device(self.work.device).type == "cpu"
        # As in runs: training on CPUs is contiguous.
        contiguous = on_cpu and self.pass_ == "train"
        memory_format = torch.contiguous_format if contiguous else torch.channels_last
        network = build(self.name).to(memory_format=memory_format).to(self.work.device)
        self.network: nn.Module = network.train(self.pass_ == "train")
        if self.mode == "compiled":
            self.network.compile()
        self.optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
        shape = (self.work.batch_size, 3, self.work.image_size, self.work.image_size)
        images = torch.randn(shape).to(self.work.device)
        self.inputs = images.contiguous(memory_format=memory_format)
        self.labels = torch.arange(self.work.batch_size, device=self.work.device)

    @property
    def rates(self) -> list[float]:
        """Images a second of the repeats that count."""
        return [self.work.batch_size * self.work.steps / s for s in self.seconds[WARM_UP:]]

    def time(self) -> None:
        """Do the work once and append the time that it took."""
        on_gpu = self.work.device.type == "cuda"
        if on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
        begin = time.perf_counter()
        for _ in range(self.work.steps):
            if self.pass_ == "train":
                self._loss().backward()
                self.optimizer.step()
                self.optimizer.zero_grad()
            else:
                with torch.inference_mode(), self.work.autocast():
                    self.network(self.inputs)
        if on_gpu:
            torch.cuda.synchronize()
            self.peak_bytes = torch.cuda.max_memory_allocated() - held
        self.seconds.append(time.perf_counter() - begin)

    def _loss(self) -> Tensor:
        with self.work.autocast():
            return F.cross_entropy(self.network(self.inputs).float(), self.labels)

    def saved_bytes(self) -> int:
        """Count the bytes that a training step keeps for its backward pass, without parameters."""
        own = {p.untyped_storage().data_ptr() for p in self.network.parameters()}
        sizes: dict[int, int] = {}
        kept = []

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                sizes[storage.data_ptr()] = storage.nbytes()
                kept.append(tensor)  # or its address might be used again
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            self._loss()
        return sum(sizes.values())

    def operations(self) -> int:
        """Count operations per image: two for each multiply-add; backward is twice forward."""
        with torch.device("meta"):
            network = build(self.name).eval()
            image = torch.empty(1, 3, self.work.image_size, self.work.image_size)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(image)
        return counter.get_total_flops() * (3 if self.pass_ == "train" else 1)


def compare_models(models: list[TimedModel], peak_tflops: float | None) -> list[Row]:
    """Make the rows of models.csv from models timed in the same rounds, relative to the first."""
    rows = []
    reference_bytes = None
    for model in models:
        ratio, low, high = time_ratio(model.rates, models[0].rates)
        rate = float(np.median(model.rates))
        saved = model.saved_bytes() if model.pass_ == "train" else None
        reference_bytes = reference_bytes or saved
        used = rate * model.operations() / (peak_tflops * 1e12) if peak_tflops else None
        row = {
            "model": model.name,
            "pass": model.pass_,
            "mode": model.mode,
            "parameters": sum(p.numel() for p in model.network.parameters()),
            "repeats": len(model.rates),
            "images_per_s": round(rate, 2),
            "time_ratio": round(ratio, 4),
            "time_ratio_low": round(low, 4),
            "time_ratio_high": round(high, 4),
            "saved_mb": round(saved / 1e6, 1) if saved else None,
            "saved_ratio": round(saved / reference_bytes, 4) if saved and reference_bytes else None,
            "peak_mb": round(model.peak_bytes / 1e6, 1) if model.peak_bytes else None,
            "utilization": None if used is None else round(used, 3),
        }
        rows.append(row)
    return rows
