"""Epochs, positions and resuming, on a loader that only counts."""

import gc

import pytest
import torch
from lightning.fabric.utilities.data import _set_sampler_epoch

from eca_lightning.data.epoch_loader import EpochLoader
from eca_lightning.data.sampler import DistributedBatchSampler

ORDER = DistributedBatchSampler(40, 4, train=True, shuffle=True, seed=2)


class CountingLoader(EpochLoader):
    """Yields the indices themselves as labels; counts what is open."""

    open = 0

    def _open(self, epoch, batches):
        self.open += 1
        try:
            for batch in batches:
                yield torch.tensor([epoch]), torch.from_numpy(batch)
        finally:
            self.open -= 1


def run(loader, batches=None):
    """The epoch and the samples of the first batches of an iteration."""
    seen = []
    for images, labels in loader:
        seen.append((images.item(), labels.tolist()))
        if len(seen) == batches:
            break
    return seen


def test_each_iteration_is_the_next_epoch():
    loader = CountingLoader(ORDER)
    assert len(loader) == 10
    for epoch in range(3):
        expected = [(epoch, batch.tolist()) for batch in ORDER.batches(epoch)]
        assert run(loader) == expected
        assert (loader.epoch, loader.batches_done) == (epoch, 10)
        assert loader.batch_indices(3).tolist() == expected[3][1]


def test_lightning_sets_the_epoch():
    loader = CountingLoader(ORDER)
    trial = iter(loader)  # Lightning makes iterators that it does not use
    iterator = iter(loader)
    _set_sampler_epoch(loader, 6)
    assert next(iterator)[0].item() == 6
    del trial
    assert run(loader)[0][0] == 7


@pytest.mark.slow
def test_a_break_closes_at_once_and_a_new_iteration_ends_the_old():
    loader = CountingLoader(ORDER)
    run(loader, 2)
    gc.collect()
    assert loader.open == 0
    old = iter(loader)
    next(old)
    new = iter(loader)
    next(new)
    assert loader.open == 1
    with pytest.raises(RuntimeError, match="ended by a newer one"):
        next(old)
    next(new)
    loader.close()
    loader.close()
    assert loader.open == 0


@pytest.mark.parametrize("done", [1, 7, 9])
def test_resumes_at_the_next_batch(done):
    whole = CountingLoader(ORDER)
    run(whole)
    expected = run(whole), run(whole)

    interrupted = CountingLoader(ORDER)
    run(interrupted)
    iterator = iter(interrupted)
    for _ in range(done):
        next(iterator)
    state = interrupted.state_dict()

    resumed = CountingLoader(ORDER)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    iter(resumed)
    assert run(resumed) == expected[0][done:]
    assert resumed.batches_done == 10
    assert run(resumed) == expected[1]


def test_a_finished_epoch_is_not_repeated():
    loader = CountingLoader(ORDER)
    run(loader)
    resumed = CountingLoader(ORDER)
    resumed.load_state_dict(loader.state_dict())
    assert run(resumed)[0][0] == 1

    resumed.load_state_dict(loader.state_dict())
    resumed.set_epoch(0)  # Lightning finishing the epoch whose last batch was saved
    assert run(resumed) == []
    resumed.load_state_dict(loader.state_dict())
    resumed.set_epoch(4)
    assert run(resumed)[0] == (4, ORDER.batches(4)[0].tolist())


def test_resuming_with_other_data_warns():
    state = {**CountingLoader(ORDER).state_dict(), "batches_done": 3}
    same_samples = CountingLoader(
        DistributedBatchSampler(40, 2, rank=1, world_size=2, train=True, shuffle=True, seed=2)
    )
    same_samples.load_state_dict(state)
    other = CountingLoader(DistributedBatchSampler(40, 8, train=True, shuffle=True, seed=3))
    with pytest.warns(UserWarning, match="global_batch_size was 4 and is 8, seed was 2 and is 3"):
        other.load_state_dict(state)
