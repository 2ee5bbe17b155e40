"""Which samples a rank sees: properties over many sizes."""

from collections import Counter
from itertools import product

import numpy as np
import pytest

from eca_lightning.data.sampler import PADDING, DistributedBatchSampler

SIZES = list(product((1, 2, 7, 64, 101), (1, 2, 3, 8), (1, 2, 5, 64)))


def ranks(samples, world_size, batch_size, **options):
    return [
        DistributedBatchSampler(samples, batch_size, rank, world_size, **options)
        for rank in range(world_size)
    ]


@pytest.mark.parametrize(("samples", "world_size", "batch_size"), SIZES)
def test_evaluation_counts_each_sample_once_in_equal_batches(samples, world_size, batch_size):
    orders = ranks(samples, world_size, batch_size)
    batches = [order.batches(0) for order in orders]
    seen = Counter(np.concatenate([index for rank in batches for index in rank]).tolist())
    padded = seen.pop(PADDING, 0)
    assert seen == Counter(range(samples))
    assert padded < world_size * batch_size
    assert {len(batch) for rank in batches for batch in rank} == {batch_size}
    assert {len(rank) for rank in batches} == {len(order) for order in orders} == {len(orders[0])}


@pytest.mark.parametrize(("samples", "world_size", "batch_size"), SIZES)
def test_evaluation_batches_are_the_same_on_any_number_of_ranks(samples, world_size, batch_size):
    def batches(world_size):
        orders = ranks(samples, world_size, batch_size)
        return [batch.tolist() for order in orders for batch in order.batches(0)]

    alone, shared = batches(1), batches(world_size)
    assert shared[: len(alone)] == alone
    assert all(set(batch) == {PADDING} for batch in shared[len(alone) :])


@pytest.mark.parametrize(("samples", "world_size", "batch_size"), SIZES)
@pytest.mark.parametrize("paged", [False, True])
def test_training_ranks_are_disjoint_and_drop_less_than_a_global_batch(
    samples, world_size, batch_size, paged
):
    if samples < world_size * batch_size:
        with pytest.raises(ValueError, match=r"lower data\.batch_size"):
            DistributedBatchSampler(samples, batch_size, 0, world_size, train=True)
        return
    pages = np.arange(samples, dtype=np.uint64) // 3 if paged else None
    orders = ranks(samples, world_size, batch_size, train=True, shuffle=True, pages=pages)
    batches = [order.batches(5) for order in orders]
    seen = Counter(np.concatenate([index for rank in batches for index in rank]).tolist())
    assert max(seen.values()) == 1
    assert set(seen) <= set(range(samples))
    assert samples - len(seen) < world_size * batch_size
    assert {len(batch) for rank in batches for batch in rank} == {batch_size}
    assert {len(rank) for rank in batches} == {len(orders[0])}


def test_a_training_step_takes_the_same_samples_on_any_number_of_ranks():
    alone = DistributedBatchSampler(100, 24, train=True, shuffle=True, seed=3).batches(7)
    shared = [order.batches(7) for order in ranks(100, 3, 8, train=True, shuffle=True, seed=3)]
    for step, batch in enumerate(alone):
        assert np.array_equal(batch, np.concatenate([rank[step] for rank in shared]))


@pytest.mark.parametrize("pages", [None, np.arange(1000, dtype=np.uint64) // 4])
def test_shuffled_order_depends_on_seed_and_epoch_alone(pages):
    def order(seed, epoch):
        options = {"train": True, "shuffle": True, "seed": seed, "pages": pages}
        return DistributedBatchSampler(1000, 10, **options).indices(epoch).tolist()

    assert order(1, 2) == order(1, 2)
    orders = [order(1, 2), order(1, 3), order(2, 2), list(range(1000))]
    assert len(set(map(tuple, orders))) == 4


@pytest.mark.parametrize("pages", [None, np.arange(103, dtype=np.uint64) // 4])
def test_repeats_take_each_of_some_samples_several_times_in_a_row(pages):
    options = {"train": True, "shuffle": True, "pages": pages}
    once = DistributedBatchSampler(103, 10, **options)
    thrice = DistributedBatchSampler(103, 10, repeats=3, **options)
    assert len(thrice) == len(once)
    numbers = thrice.indices(4)
    samples, repetitions = numbers % 103, numbers // 103
    assert samples.tolist() == np.repeat(once.indices(4), 3)[:100].tolist()
    assert repetitions.tolist() == ([0, 1, 2] * 34)[:100]


def test_shuffling_has_no_bias():
    positions = np.zeros((20, 20))
    for epoch in range(2000):
        order = DistributedBatchSampler(20, 20, train=True, shuffle=True).indices(epoch)
        positions[order, np.arange(20)] += 1
    # Each cell is binomial with mean 100 and standard deviation 9.7.
    assert abs(positions - 100).max() < 5 * 9.7


def test_quasi_random_order_reads_few_pages_at_a_time():
    pages = np.arange(300_000, dtype=np.uint64) // 100
    order = DistributedBatchSampler(300_000, 64, 1, 2, train=True, shuffle=True, pages=pages)
    batches = order.batches(0)
    last_use = {}
    first_use = {}
    for number, batch in enumerate(batches):
        for page in set(pages[batch].tolist()):
            first_use.setdefault(page, number)
            last_use[page] = number
    open_pages = Counter()
    for page, first in first_use.items():
        for number in range(first, last_use[page] + 1):
            open_pages[number] += 1
    assert max(open_pages.values()) <= 128  # two groups of 64 around a boundary
    assert len(set(pages[batches[50]].tolist())) > 20  # and yet a batch is mixed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 4, "batch_size": 1, "repeats": 0, "train": True}, "repeats must be"),
        ({"samples": 4, "batch_size": 1, "repeats": 2}, "and 1 for evaluation"),
        ({"samples": 0, "batch_size": 1}, "at least 1"),
        ({"samples": 1, "batch_size": 0}, "at least 1"),
        ({"samples": 1, "batch_size": 1, "seed": -1}, "seed"),
        (
            {"samples": 1, "batch_size": 1, "rank": 2, "world_size": 2},
            "rank must be from 0 to 1, got 2",
        ),
    ],
)
def test_impossible_sizes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DistributedBatchSampler(**options)


LABELS = np.repeat([0, 1, 2, 4], [60, 30, 7, 4])


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_balanced_training_visits_all_classes_equally_often(world_size):
    options = {"train": True, "shuffle": True, "seed": 3}
    orders = ranks(101, world_size, 5, balanced=LABELS, **options)
    used = len(orders[0]) * 5 * world_size
    batches = [order.indices(2).reshape(-1, 5) for order in orders]
    indices = np.concatenate(batches, axis=1).reshape(-1)
    (alone,) = ranks(101, 1, 5, balanced=LABELS, **options)
    assert indices.tolist() == alone.indices(2)[:used].tolist()
    assert len(set(indices.tolist())) == used  # so that each visit has its own crop
    visits = np.bincount(alone.indices(2) % 101, minlength=101)
    of_classes = [visits[label == LABELS] for label in (0, 1, 2, 4)]
    assert {int(of_class.sum()) for of_class in of_classes} <= {24, 25, 26}
    assert all(np.ptp(of_class) <= 1 for of_class in of_classes)
    assert alone.indices(2).tolist() != alone.indices(3).tolist()


def test_balanced_training_excludes_other_orders():
    for others in ({"repeats": 2}, {"pages": np.arange(101, dtype=np.uint64)}):
        with pytest.raises(ValueError, match="balanced_sampling must be false with aug_repeats"):
            DistributedBatchSampler(101, 4, train=True, balanced=LABELS, **others)
