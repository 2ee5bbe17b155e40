"""What a device can do and is asked to do: its fastest arithmetic, and the kernels of a step."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from eca_lightning.utils.checks import require


def resolve_device(name: str | None) -> torch.device:
    """Return the device of a name, cpu, cuda or cuda:1; the current GPU, if there is one, of None.

    Raises:
        ValueError: If there is no such device.
    """
    has_gpu = torch.cuda.is_available()
    kind, _, number = (name or ("cuda" if has_gpu else "cpu")).partition(":")
    require(kind in ("cpu", "cuda"), "device", "cpu, cuda or a GPU by its number, as cuda:1", name)
    if kind == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if has_gpu else 0
    require(count > 0, "device", "cpu where there is no GPU", name)
    index = int(number) if number.isdecimal() else -1 if number else torch.cuda.current_device()
    allowed = f"cuda:0 to cuda:{count - 1}, of the {count} GPUs of this machine"
    require(0 <= index < count, "device", allowed, name)
    return torch.device("cuda", index)


def synchronize(device: torch.device) -> None:
    """Wait until a device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measured_tflops(device: torch.device, dtype: torch.dtype) -> float:
    """Return the 10^12 operations a second of a large matrix product, the best of ten.

    float32 on a GPU is TF32 if convolutions compute in it.
    """
    size = 8192 if device.type == "cuda" else 512
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if torch.backends.cudnn.allow_tf32 else "highest")
    seconds = []
    try:
        for _ in range(12):  # the first two warm up
            synchronize(device)
            begin = time.perf_counter()
            a @ b
            synchronize(device)
            seconds.append(time.perf_counter() - begin)
    finally:
        torch.set_float32_matmul_precision(before)
    return 2 * size**3 / min(seconds[2:]) / 1e12


def count_kernels(step: Callable[[], object], device: torch.device) -> dict[str, int | None]:
    """Count the kernels of a step on a GPU, and the calls that launch them; None on a CPU.

    A graph of kernels, or one that other kernels launch, takes fewer launches than kernels.
    """
    if device.type != "cuda":
        return {"kernels": None, "launches": None}
    synchronize(device)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        step()
        synchronize(device)
    return kernels_of(recorded.events())


def kernels_of(events: Iterable[Any]) -> dict[str, int | None]:
    """Count kernels and launches in the events of torch's profiler; copies are no kernels."""
    kernels = launches = 0
    for event in events:
        if event.device_type == DeviceType.CUDA:
            copies = event.name.startswith(("Memcpy", "Memset"))
            kernels += not copies and not getattr(event, "is_user_annotation", False)
        else:
            launches += event.name.startswith(("cudaLaunch", "cuLaunch", "cudaGraphLaunch"))
    return {"kernels": kernels, "launches": launches}
