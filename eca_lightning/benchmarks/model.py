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
from eca_lightning.benchmarks.device import (
    count_kernels,
    measured_tflops,
    resolve_device,
    synchronize,
)
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
    batch_size: int | None = None,
    image_size: int = 224,
    precision: Precision = "32",
    device: str | None = None,
    steps: int | None = None,
    repeats: int = 15,
    peak_tflops: float | None = None,
    output: Path = Path("runs/benchmark_model"),
) -> None:
    """Compare the speed and memory of models.

    A training step is forward, cross-entropy, backward and SGD with momentum, in float16 with a
    scaled loss; inference is forward alone. Both work on random images on the device, in
    channels_last memory but for training on CPUs, as in runs.

    The models alternate, in a rotating order, so that a change of the machine's speed affects all
    of them. Each time is divided by that of the first model in the same round; the intervals are
    95% bootstrap intervals of the median. On a GPU the kernels of a step are counted too, and the
    calls that launch them. The output folder gets models.csv and models.png.

    Args:
        models: Models to compare, the first being the reference: names such as resnet50 and
            eca_resnet50, paths of YAML files that describe a backbone or a run,
            torchvision:resnet50, timm:ecaresnet50t, timm:eca_resnet50 or original:eca_resnet50
            (ECA as its authors implemented it). Default: ResNet-50 of torchvision, with ECA, with
            ECA as the authors and timm implement it, with SE and with CBAM.
        passes: Passes to time.
        modes: Eager, and with torch.compile.
        batch_size: Images of a step. Default: 256 on a GPU, 8 on a CPU.
        image_size: Height and width of the images in pixels.
        precision: 32 is float32, with TF32 where torch's defaults use it, in convolutions on
            GPUs; bf16 and 16 are autocast.
        device: cpu, cuda, or a GPU by its number, such as cuda:1. Default: the GPU where there is
            one.
        steps: Steps of a repeat. Default: 10 on a GPU, 1 on a CPU.
        repeats: Repeats of each model that count.
        peak_tflops: Performance of the device in 10^12 operations a second, of which the report
            gives the fraction that is used. Default: that of a large matrix product, measured.
        output: Folder for the results.
    """
    if models is None:
        timm = ["timm:eca_resnet50"] if find_spec("timm") else []
        others = ["eca_resnet50", "original:eca_resnet50", *timm, "se_resnet50", "cbam_resnet50"]
        models = ["torchvision:resnet50", *others]
    for option, values in (("models", models), ("passes", passes), ("modes", modes)):
        require(bool(values), option, "at least one", values)
    place = resolve_device(device)
    on_gpu = place.type == "cuda"
    batch_size = (256 if on_gpu else 8) if batch_size is None else batch_size
    steps = (10 if on_gpu else 1) if steps is None else steps
    require_positive(batch_size=batch_size, image_size=image_size, steps=steps, repeats=repeats)
    if peak_tflops is not None:
        require_positive(peak_tflops=peak_tflops)
    for name in models:
        with torch.device("meta"):
            build(name)  # raises for an unknown name before anything is timed
    work = Work(batch_size, image_size, precision, place, steps)
    if on_gpu:
        torch.backends.cudnn.benchmark = True
        torch.cuda.set_device(place)  # kernels that are compiled run on the current one
    peak_tflops = peak_tflops or measured_tflops(place, work.dtype or torch.float32)
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
    hardware = torch.cuda.get_device_name(place) if on_gpu else threads
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

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype of autocast; None without."""
        return {"bf16": torch.bfloat16, "16": torch.float16}.get(self.precision)

    def autocast(self) -> torch.autocast:
        """Return the context of the forward pass."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)


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
        device = self.work.device
        on_cpu = device.type == "cpu"
        # As in runs: training on CPUs is contiguous.
        contiguous = on_cpu and self.pass_ == "train"
        memory_format = torch.contiguous_format if contiguous else torch.channels_last
        network = build(self.name).to(memory_format=memory_format).to(device)
        self.network: nn.Module = network.train(self.pass_ == "train")
        if self.mode == "compiled":
            self.network.compile(dynamic=False)
        fused = None if on_cpu else True
        self.optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9, fused=fused)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.work.precision == "16")
        shape = (self.work.batch_size, 3, self.work.image_size, self.work.image_size)
        images = torch.randn(shape).to(device)
        self.inputs = images.contiguous(memory_format=memory_format)
        self.forward_operations, classes = self._describe()
        self.labels = torch.arange(self.work.batch_size, device=device) % classes

    @property
    def rates(self) -> list[float]:
        """Images a second of the repeats that count."""
        return [self.work.batch_size * self.work.steps / s for s in self.seconds[WARM_UP:]]

    def time(self) -> None:
        """Do the work once and append the time that it took."""
        device = self.work.device
        on_gpu = device.type == "cuda"
        synchronize(device)
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
            held = torch.cuda.memory_allocated(device)
        begin = time.perf_counter()
        for _ in range(self.work.steps):
            self.step()
        synchronize(device)
        self.seconds.append(time.perf_counter() - begin)
        if on_gpu:
            self.peak_bytes = torch.cuda.max_memory_allocated(device) - held

    def step(self) -> None:
        """Train or infer on the images once."""
        if self.pass_ == "inference":
            with torch.inference_mode(), self.work.autocast():
                self.network(self.inputs)
            return
        self.scaler.scale(self._loss()).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()

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
        return self.forward_operations * (3 if self.pass_ == "train" else 1)

    def _describe(self) -> tuple[int, int]:
        """Return the operations of inference on an image, and the number of classes."""
        with torch.device("meta"):
            network = build(self.name).eval()
            image = torch.empty(1, 3, self.work.image_size, self.work.image_size)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            logits = network(image)
        return counter.get_total_flops(), logits.shape[1]


def compare_models(models: list[TimedModel], peak_tflops: float) -> list[Row]:
    """Make the rows of models.csv from models timed in the same rounds, relative to the first."""
    rows = []
    reference_bytes = None
    for model in models:
        ratio, low, high = time_ratio(model.rates, models[0].rates)
        rate = float(np.median(model.rates))
        saved = model.saved_bytes() if model.pass_ == "train" else None
        reference_bytes = reference_bytes or saved
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
            "utilization": round(rate * model.operations() / (peak_tflops * 1e12), 3),
            "peak_tflops": round(peak_tflops, 3),
            **count_kernels(model.step, model.work.device),
        }
        rows.append(row)
    return rows
