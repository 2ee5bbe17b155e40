"""How batches come to a GPU, by a record of the calls: none is needed here."""

from contextlib import contextmanager

import pytest
import torch

from eca_lightning.data.ffcv.format import check_beton
from eca_lightning.data.ffcv.loader import BetonLoader
from eca_lightning.data.sampler import DistributedBatchSampler
from eca_lightning.data.transforms.crop import Crop


class Event:
    def __init__(self, calls):
        self.calls = calls

    def synchronize(self):
        self.calls.append("host waits for the copies")


class Stream:
    """A stream whose work is done at once."""

    def __init__(self, calls, name):
        self.calls, self.name, self.device = calls, name, torch.device("cuda", 0)

    def record_event(self):
        return Event(self.calls)

    def wait_event(self, event):
        self.calls.append(f"{self.name} waits for the copies")


@pytest.fixture
def calls(monkeypatch):
    """What is asked of CUDA, in order; tensors stay where they are."""
    made = []
    current = [Stream(made, "computation")]

    @contextmanager
    def on(stream):
        current.append(stream)
        yield
        current.pop()

    def to(tensor, device, non_blocking=False):
        assert device == torch.device("cuda", 0)
        assert non_blocking
        made.append(f"{tensor.dtype} copied on {current[-1].name}")
        return tensor.clone()

    def record(tensor, stream):
        made.append(f"{tensor.dtype} kept for {stream.name}")

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(made, "copy stream"))
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current[-1])
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: made.append(f"thread on {device}"))
    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr(torch.Tensor, "record_stream", record)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_copies_wait_for_no_computation_and_the_host_for_no_copy(raw_beton, calls, device):
    info = check_beton(raw_beton, "data")
    order = DistributedBatchSampler(samples=info.samples, batch_size=50)
    crop = Crop("center_crop", 16, 16, resize_size=16)
    loader = BetonLoader(info, crop, order, device=torch.device(device))
    batches = iter(loader)
    next(batches)
    calls.remove("thread on cuda:0")
    assert calls == [
        "torch.uint8 copied on copy stream",
        "torch.int64 copied on copy stream",
        "computation waits for the copies",
        "torch.uint8 kept for computation",
        "torch.int64 kept for computation",
    ]
    next(batches)
    assert calls[5] == "host waits for the copies"  # before the slot is filled again
    loader.close()
