"""The parts of `gpu_check`: each measures one thing, and writes each row as soon as it has it."""

import copy
import csv
import json
import statistics
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
import yaml
from lightning.pytorch import Callback

from eca_lightning.cli import main as program
from eca_lightning.data.ffcv.format import check_beton
from eca_lightning.data.ffcv.loader import BetonLoader
from eca_lightning.data.sampler import DistributedBatchSampler
from eca_lightning.data.transforms.crop import Crop
from eca_lightning.utils.tables import write_table

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests" / "contracts"), str(Path(__file__).parent)]
from noise_run import write_run  # noqa: E402
from time_tails import Tail  # noqa: E402

COLUMNS = ("check", "case", "metric", "value", "verdict", "device")
CLASSES = 20
PHOTOS, COPIES = 2560, 10
"""Photographs, and links to each: an epoch is longer than a fit, and ends in none."""
ROUNDING = {torch.float32: 2e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
"""Relative errors that sums over a batch in this precision may always have."""
BUSY_SECONDS = 0.3
"""Of computation that lies before a fetch."""


@dataclass(frozen=True)
class Place:
    """Where a check runs and writes, and how much it does.

    Args:
        output: Folder of the tables.
        work: Folder of data and runs.
        device: ``cuda`` or ``cpu``.
        tiny: Whether it is only to be seen that everything runs.
        workers: Threads that decode.
    """

    output: Path
    work: Path
    device: str = "cuda"
    tiny: bool = False
    workers: int = 1

    @property
    def device_name(self):
        return torch.cuda.get_device_name() if self.device == "cuda" else "cpu"

    @property
    def beton(self):
        return self.work / "train.beton"

    def row(self, check, case, metric, value, passed=None):
        """Append a row to checks.csv; one that has not passed counts as failed."""
        path = self.output / "checks.csv"
        verdict = {None: "", True: "ok", False: "FAILED"}[passed]
        value = f"{value:.4g}" if isinstance(value, float) else value
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if not file.tell():
                writer.writerow(COLUMNS)
            writer.writerow((check, case, metric, value, verdict, self.device_name))

    def synchronize(self):
        if self.device == "cuda":
            torch.cuda.synchronize()


# ------------------------------------------------------------------------------------------- data


def _write_photos(folder, count, seed):
    from photo_jpegs import photo_jpegs

    for number, stream in enumerate(photo_jpegs(count, seed)):
        place = folder / f"class_{number % CLASSES:02d}"
        place.mkdir(parents=True, exist_ok=True)
        first = place / f"{seed:03d}_{number:05d}_0.jpg"
        first.write_bytes(stream)
        for link in range(1, COPIES):
            first.with_name(f"{first.stem[:-2]}_{link}.jpg").hardlink_to(first)


def data(place):
    """Write photographs of ImageNet's size, and the .beton of them; noise where tiny."""
    if place.tiny:
        write_run(place.work, steps=8, devices=1)
        return
    photos, seeds = place.work / "photos", place.workers
    each = -(-PHOTOS // seeds // CLASSES) * CLASSES
    with get_context("spawn").Pool(seeds) as pool:
        pool.starmap(_write_photos, [(photos, each, seed) for seed in range(seeds)])
    place.row("data", "photographs", "images", each * seeds * COPIES)
    source, output = str(photos), str(place.beton)
    program(["data", "write", "image-folder", "--source", source, "--output", output])


# ------------------------------------------------------------------------------------------- tail


def _one_step(function, tail, z, residual, d_output, dtype):
    """All that a training step leaves behind, in float64."""
    z, residual = (x.detach().clone().requires_grad_() for x in (z, residual))
    low = dtype in (torch.bfloat16, torch.float16)
    with torch.autocast(z.device.type, dtype) if low else nullcontext():
        output = function(z, residual)
    output.backward(d_output.to(output.dtype))
    left = {"output": output, "d_z": z.grad, "d_residual": residual.grad}
    left |= {f"d_{name}": parameter.grad for name, parameter in tail.named_parameters()}
    left |= {name: buffer for name, buffer in tail.named_buffers() if "running" in name}
    return {name: value.detach().double() for name, value in left.items()}, output


def _errors(found, truth):
    return {k: float((found[k] - truth[k]).norm() / truth[k].norm()) for k in truth}


def tail(place):
    """Compare the fused tail with its modules in float64: relative errors in the L2 norm.

    No error may exceed four times that of the modules in the same precision, or `ROUNDING`. Where
    the sum lies so near 0 that rounding decides whether ReLU passes it, no gradient comes from
    above.
    """
    on_gpu = place.device == "cuda"
    shapes = [(2, 32, 8)] if place.tiny else [(32, 256, 56), (32, 2048, 7)]
    dtypes = [torch.float32, torch.bfloat16, *([torch.float16] if on_gpu else [])]
    modes = ["eager"] if place.tiny else ["eager", "compiled"]
    for images, channels, side in shapes:
        for dtype in dtypes:
            torch.manual_seed(1)
            shape, eps = (images, channels, side, side), torch.finfo(dtype).eps
            z, residual, d_output = (
                torch.randn(shape, device=place.device)
                .add(mean)
                .to(dtype)
                .contiguous(memory_format=torch.channels_last)
                for mean in (0.5, 0.0, 0.0)
            )
            torch.manual_seed(0)
            fused = Tail("fused", channels).to(place.device)
            torch.nn.init.normal_(fused.norm.weight)
            torch.nn.init.normal_(fused.norm.bias)
            modules = copy.deepcopy(fused)
            modules.fused = None
            exact = copy.deepcopy(modules).double()
            with torch.no_grad():  # without its moments, which the pass updates
                twin = copy.deepcopy(exact)
                sums = twin.gate(twin.norm(z.double())) + residual.double()
            d_output = d_output * (sums.abs() > 16 * eps)
            wide = torch.float64
            truth, _ = _one_step(exact, exact, z.double(), residual.double(), d_output, wide)
            plain, _ = _one_step(modules, modules, z, residual, d_output, dtype)
            allowed = {k: max(4 * e, ROUNDING[dtype]) for k, e in _errors(plain, truth).items()}
            for mode in modes:
                case = f"{str(dtype)[6:]} {channels}x{side}x{side} {mode}"
                torch.compiler.reset()
                one = copy.deepcopy(fused)
                function = torch.compile(one, dynamic=False) if mode == "compiled" else one
                found, output = _one_step(function, one, z, residual, d_output, dtype)
                for name, error in _errors(found, truth).items():
                    place.row("tail", case, f"error of {name}", error, error <= allowed[name])
                kept = output.dtype == dtype
                kept &= output.is_contiguous(memory_format=torch.channels_last)
                place.row("tail", case, "dtype and memory format", "kept" if kept else "lost", kept)


# ----------------------------------------------------------------------------------------- loader


def loader(place):
    """Compare batches on the device with the CPU's, and fetch one while the device is busy."""
    info = check_beton(place.beton, "data")
    size, batch = (16, 8) if place.tiny else (224, 256)
    crop = Crop("random_resized_crop", size, size, flip=True, seed=3)

    def make(device):
        order = DistributedBatchSampler(info.samples, batch, train=True, shuffle=True, seed=3)
        options = {"num_workers": place.workers, "device": torch.device(device)}
        return BetonLoader(info, crop, order, **options)

    here, there = make("cpu"), make(place.device)
    kept = list(there)
    place.synchronize()
    pairs = zip(here, kept, strict=True)
    same = all(a.equal(c.cpu()) and b.equal(d.cpu()) for (a, b), (c, d) in pairs)
    place.row("loader", "all batches kept", "equal to the CPU's", str(same), same)
    del kept
    if place.device == "cuda":
        _fetch_beside_work(place, there)
    start = time.perf_counter()
    images = sum(len(labels) for _, labels in there)
    place.synchronize()
    rate = images / (time.perf_counter() - start)
    place.row("loader", f"alone, {place.workers} threads", "images/s", rate)
    here.close()
    there.close()


def _fetch_beside_work(place, there):
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)

    def work(seconds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        a @ a
        end.record()
        torch.cuda.synchronize()
        for _ in range(int(1000 * seconds / begin.elapsed_time(end))):
            a @ a

    work(0)  # cuBLAS starts
    stream, fetches = iter(there), {"idle": [], "busy": []}
    next(stream)
    for device, times in fetches.items():
        for _ in range(3):
            time.sleep(0.5)  # the ring fills
            if device == "busy":
                work(BUSY_SECONDS)
            start = time.perf_counter()
            next(stream)
            times.append(time.perf_counter() - start)
            torch.cuda.synchronize()
    stream.close()
    for device, times in fetches.items():
        middle = statistics.median(times)
        name = f"fetch beside an {device} device".replace("an busy", "a busy")
        place.row("loader", name, "milliseconds", 1000 * middle, middle < BUSY_SECONDS / 2)


# ------------------------------------------------------------------------------------------- fits


class Meter(Callback):
    """Time the steps of a fit after the first ones, and fail it if the host waits in others.

    Args:
        folder: Gets ``meter.json``.
        warm: Steps before the time starts.
        steps: Steps that are timed. In the ten that follow, CUDA raises an error when the host
            waits for the device.
    """

    STRICT = 10

    def __init__(self, folder: Path, warm: int, steps: int):
        self.folder, self.warm, self.steps = folder, warm, steps
        self.losses, self.memory = [], []
        self.images = 0
        self.seconds = float("nan")

    def _mark(self, trainer):
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
            self.memory.append(torch.cuda.memory_reserved())
        return time.perf_counter()

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        begins = trainer.global_step - self.warm - self.steps
        if trainer.strategy.root_device.type == "cuda" and begins in (0, self.STRICT):
            torch.cuda.set_sync_debug_mode("error" if begins == 0 else "default")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].detach())
        timed = trainer.global_step - self.warm
        self.images += len(batch[1]) if 0 < timed <= self.steps else 0
        if timed == 0:
            self.start = self._mark(trainer)
        elif timed == self.steps:
            self.seconds = self._mark(trainer) - self.start

    def on_exception(self, *args):
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("default")

    def on_train_end(self, trainer, pl_module):
        losses = torch.stack(self.losses).float()
        values = {"images/s": self.images / self.seconds, "last loss": float(losses[-1])}
        values["losses that are not finite"] = int((~losses.isfinite()).sum())
        if self.memory:
            values["reserved MB"] = self.memory[-1] / 1e6
            values["growth of reserved MB"] = (self.memory[-1] - self.memory[0]) / 1e6
        (self.folder / "meter.json").write_text(json.dumps(values))


def fit(place, precision, compiled):
    """Train ECA-ResNet-50 from the .beton: speed, finite losses, flat memory, no host waits."""
    case = f"{precision} {'compiled' if compiled else 'eager'}"
    warm, steps = (2, 3) if place.tiny else (20, 60)
    folder = place.work / case.replace(" ", "_")
    folder.mkdir()
    size, batch = (16, 8) if place.tiny else (224, 256)
    network, classes = ("resnet20", 4) if place.tiny else ("resnet50", CLASSES)
    meter = {"folder": str(folder), "warm": warm, "steps": steps}
    run = {
        "model": {
            "class_path": "eca_lightning.ImageClassifier",
            "init_args": {
                "backbone": {"name": network, "attention": "eca", "num_classes": classes},
                "optimizer": {
                    "class_path": "torch.optim.SGD",
                    "init_args": {"lr": 0.02, "momentum": 0.9, "weight_decay": 1e-4},
                },
                "compile": compiled,
            },
        },
        "data": {
            "class_path": "eca_lightning.FFCVDataModule",
            "init_args": {
                "train": str(place.beton),
                "val": None,
                "batch_size": batch,
                "image_size": size,
                "num_workers": place.workers,
            },
        },
        "trainer": {
            "accelerator": "gpu" if place.device == "cuda" else "cpu",
            "devices": 1,
            "precision": precision,
            "max_epochs": 1000,
            "max_steps": warm + steps + Meter.STRICT + 2,
            "log_every_n_steps": 1000,
            "limit_val_batches": 0,
            "num_sanity_val_steps": 0,
            "enable_model_summary": False,
            "default_root_dir": str(folder),
            "logger": False,
            "callbacks": [{"class_path": "gpu_parts.Meter", "init_args": meter}],
        },
        "checkpoint": {"dirpath": str(folder), "save_top_k": 0},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    try:
        program(["fit", "--config", str(folder / "run.yaml")])
    except (Exception, SystemExit) as error:
        place.row("fit", case, "runs without host waits", f"{error}"[:300], False)
        raise
    values = json.loads((folder / "meter.json").read_text())
    limits = {"losses that are not finite": 0, "growth of reserved MB": 32}
    for metric, value in values.items():
        place.row("fit", case, metric, value, value <= limits[metric] if metric in limits else None)
    if place.device == "cuda":
        place.row("fit", case, "steps without host waits", Meter.STRICT, True)


# ------------------------------------------------------------------------------------- benchmarks


def _keep(place, path, name):
    """Write a table to the output, with the name of the device in each row."""
    with path.open(newline="") as file:
        rows = [{**row, "device": place.device_name} for row in csv.DictReader(file)]
    write_table(place.output / name, dict.fromkeys(rows[0], str), rows)


def networks(place, mode):
    """Time training steps of ResNet-50 without attention, with ours and with the original ECA."""
    output, network = place.work / f"networks_{mode}", "resnet20" if place.tiny else "resnet50"
    names = f"{network},eca_{network}" if place.tiny else (
        f"torchvision:{network},eca_{network},original:eca_{network}"
    )  # fmt: skip
    amount = {"batch_size": 256, "image_size": 224, "steps": 8, "repeats": 6}
    if place.tiny:
        amount = {"batch_size": 2, "image_size": 16, "steps": 1, "repeats": 1, "peak_tflops": 1}
    sizes = [f"--{name}={value}" for name, value in amount.items()]
    where = [f"--device={place.device}", "--precision=bf16", f"--output={output}"]
    what = [f"--models=[{names}]", "--passes=[train]", f"--modes=[{mode}]"]
    program(["benchmark", "model", *what, *sizes, *where])
    _keep(place, output / "models.csv", f"models_{mode}.csv")


def loaders(place):
    """Time the loaders that read the .beton, in host memory."""
    output = place.work / "loaders"
    amount = ["--image_size=224", "--batch_size=256", "--images=8192", "--repeats=2"]
    workers = [f"--num_workers=[{place.workers}]", "--loaders=[eca-lightning,ffcv]"]
    program(["benchmark", "loader", str(place.beton), *amount, *workers, f"--output={output}"])
    _keep(place, output / "loaders.csv", "loaders.csv")


def kernels(place):
    """Time the kernels of the tails, as tools/time_tails.py does."""
    import time_tails

    path = place.output / "tails.csv"
    time_tails.time_tails(path)


PARTS = {
    "data": (data, 20, 150),
    "tail": (tail, 20, 100),
    "loader": (loader, 15, 60),
    "fit bf16-mixed compiled": (partial(fit, precision="bf16-mixed", compiled=True), 60, 150),
    "fit bf16-mixed eager": (partial(fit, precision="bf16-mixed", compiled=False), 25, 60),
    "networks compiled": (partial(networks, mode="compiled"), 90, 200),
    "fit 16-mixed eager": (partial(fit, precision="16-mixed", compiled=False), 25, 60),
    "networks eager": (partial(networks, mode="eager"), 25, 60),
    "fit 16-mixed compiled": (partial(fit, precision="16-mixed", compiled=True), 60, 120),
    "loaders": (loaders, 20, 60),
    "kernels": (kernels, 40, 150),
}
"""The most important first: what each does, and the seconds it takes at least and at most."""
TINY = ("data", "tail", "loader", "fit bf16-mixed eager", "networks eager")
