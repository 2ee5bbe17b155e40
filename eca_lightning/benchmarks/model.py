"""The command ``benchmark model``: speed and memory of networks, side by side in one run."""

import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from eca_lightning.benchmarks.common import turns_bar
from eca_lightning.benchmarks.model_candidates import build
from eca_lightning.benchmarks.model_report import Result, report, write_csv

Pass = Literal["train", "inference"]
Mode = Literal["eager", "compiled"]
Precision = Literal["32", "bf16", "16"]

_DTYPES = {"bf16": torch.bfloat16, "16": torch.float16}
WARM_UP = 2
"""Turns that do not count: the first compiles, the second still allocates."""


def benchmark_model(
    contenders: list[str] | None = None,
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
    """Compare the speed and the memory of networks, side by side in one run.

    A training step is forward, cross-entropy, backward and SGD with momentum; inference is forward
    alone. Both work on random images that lie on the device, in channels_last memory.

    The networks take turns, so that a change of the machine's speed meets all; the order of a round
    is turned with each round. Ratios compare the turns of a round with those of the first network;
    their intervals are 95% bootstrap intervals of the median. The output folder gets models.csv and
    models.png.

    Args:
        contenders: Networks to compare, the first being what the others are compared with: names
            such as resnet50 and eca_resnet50, paths of YAML files that describe a backbone or a
            run, torchvision:resnet50, timm:ecaresnet50t, timm:eca_resnet50 or
            original:eca_resnet50 (ECA as its authors wrote it). Default: ResNet-50 of torchvision,
            with ECA, with ECA as timm and the authors have it, with SE and with CBAM.
        passes: What to time.
        modes: As it is, or through torch.compile.
        batch_size: Images of a step.
        image_size: Height and width of the images in pixels.
        precision: 32 is float32, with TF32 where torch's defaults have it, in convolutions on
            GPUs; bf16 and 16 are autocast.
        device: cpu or cuda; cuda where there is a GPU if None.
        steps: Steps of a turn.
        repeats: Turns of each network that count.
        peak_tflops: What the device can do at best, in 10^12 operations a second, to tell the
            share of it that is used.
        output: Folder for the results.
    """
    if contenders is None:
        timm = ["timm:eca_resnet50"] if find_spec("timm") else []
        others = ["eca_resnet50", "original:eca_resnet50", *timm, "se_resnet50", "cbam_resnet50"]
        contenders = ["torchvision:resnet50", *others]
    if not contenders or not passes or not modes:
        raise ValueError("contenders, passes and modes must each name one at least")
    if min(batch_size, image_size, steps, repeats) < 1:
        raise ValueError("batch_size, image_size, steps and repeats must be at least 1")
    for contender in contenders:
        with torch.device("meta"):
            build(contender)  # a name that does not exist is told before anything is timed
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    work = Work(batch_size, image_size, precision, place, steps)
    if place.type == "cuda":
        torch.backends.cudnn.benchmark = True
    output.mkdir(parents=True, exist_ok=True)
    results = []
    with turns_bar() as progress:
        turns = len(contenders) * len(passes) * len(modes) * (repeats + WARM_UP)
        bar = progress.add_task("starting", total=turns)
        for pass_ in passes:
            for mode in modes:
                torch.compiler.reset()
                racers = [Racer(name, pass_, mode, work) for name in contenders]
                for number in range(repeats + WARM_UP):
                    first = number % len(racers)
                    for racer in racers[first:] + racers[:first]:
                        what = "compiling" if number == 0 and mode == "compiled" else pass_
                        progress.update(bar, description=f"{racer.name}: {what}, {mode}")
                        racer.turn()
                        progress.advance(bar)
                results += [racer.result(peak_tflops) for racer in racers]
                write_csv(results, output / "models.csv")  # compiling may take long, or fail
    title = f"{batch_size} images of {image_size}, precision {precision}, {_describe(place)}"
    report(results, title, output)


@dataclass(frozen=True)
class Work:
    """What a network has to do in a turn."""

    batch_size: int
    image_size: int
    precision: Precision
    device: torch.device
    steps: int

    def images(self) -> Tensor:
        """Random images (N, 3, H, W) in channels_last memory."""
        shape = (self.batch_size, 3, self.image_size, self.image_size)
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(shape, generator=generator).to(self.device)
        return images.contiguous(memory_format=torch.channels_last)

    def autocast(self) -> Any:
        """The context of the forward pass."""
        if self.precision == "32":
            return nullcontext()
        return torch.autocast(self.device.type, _DTYPES[self.precision])


@dataclass
class Racer:
    """A network that is timed in turns."""

    name: str
    pass_: Pass
    mode: Mode
    work: Work
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        network = build(self.name).to(memory_format=torch.channels_last).to(self.work.device)
        self.network: nn.Module = network.train(self.pass_ == "train")
        self.parameters = sum(p.numel() for p in network.parameters())
        if self.mode == "compiled":
            self.network.compile()
        self.optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
        self.inputs = self.work.images()
        self.labels = torch.arange(self.work.batch_size, device=self.work.device)

    def turn(self) -> None:
        """Do the work once and keep the time that it took."""
        on_gpu = self.work.device.type == "cuda"
        if on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
        begin = time.perf_counter()
        for _ in range(self.work.steps):
            self._train() if self.pass_ == "train" else self._infer()
        if on_gpu:
            torch.cuda.synchronize()
            self.peak_bytes = torch.cuda.max_memory_allocated() - held
        self.seconds.append(time.perf_counter() - begin)

    def _loss(self) -> Tensor:
        with self.work.autocast():
            return F.cross_entropy(self.network(self.inputs).float(), self.labels)

    def _train(self) -> None:
        self._loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _infer(self) -> None:
        with torch.inference_mode(), self.work.autocast():
            self.network(self.inputs)

    def result(self, peak_tflops: float | None) -> Result:
        """What was measured; the memory of activations is counted only now."""
        images = self.work.batch_size * self.work.steps
        seconds = self.seconds[WARM_UP:]
        utilization = None
        if peak_tflops is not None:
            operations = self._operations() * images
            utilization = [operations / s / (peak_tflops * 1e12) for s in seconds]
        return Result(
            self.name,
            self.pass_,
            self.mode,
            self.parameters,
            [images / s for s in seconds],
            self._saved_bytes() if self.pass_ == "train" else None,
            self.peak_bytes or None,
            utilization,
        )

    def _saved_bytes(self) -> int:
        """Bytes that a training step keeps for its backward pass, parameters left out."""
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

    def _operations(self) -> int:
        """Operations an image: two for each multiply-add, and backward twice as many as forward."""
        with torch.device("meta"):
            network = build(self.name).eval()
            image = torch.empty(1, 3, self.work.image_size, self.work.image_size)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(image)
        return counter.get_total_flops() * (3 if self.pass_ == "train" else 1)


def _describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads"
