"""The loader around FFCV: exact pixels and order, and none of FFCV's hangs."""

import gc
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from thorough import thorough

pytest.importorskip("ffcv")

from eca_lightning.data.ffcv import crop_decode
from eca_lightning.data.ffcv.format import check_beton
from eca_lightning.data.ffcv.loader import BetonLoader
from eca_lightning.data.sampler import DistributedBatchSampler
from eca_lightning.data.transforms.crop import Crop

FULL = Crop("full", 20, 24)
TRAIN = Crop("random_resized_crop", 16, 16, scale=(0.3, 1.0), flip=True, seed=4)


@pytest.fixture(scope="module")
def raw(raw_beton):
    return check_beton(raw_beton)


@pytest.fixture(scope="module")
def sequential(raw):
    """All images as stored, in order."""
    return BetonLoader(raw, FULL, DistributedBatchSampler(101, 8), num_workers=2)


@pytest.fixture(scope="module")
def training(raw):
    """Random crops in random order."""
    return BetonLoader(
        raw, TRAIN, DistributedBatchSampler(101, 8, train=True, shuffle=True), num_workers=2
    )


@pytest.fixture(scope="module")
def one_thread(raw, training):
    """The same with one thread."""
    return BetonLoader(raw, TRAIN, training.index_sampler, num_workers=1)


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    before = threading.active_count()
    yield
    gc.collect()
    assert threading.active_count() == before


def epoch(loader, number=0):
    loader.set_epoch(number)
    return list(loader)


def equal(batches, others):
    return len(batches) == len(others) and all(
        torch.equal(images, other_images) and torch.equal(labels, other_labels)
        for (images, labels), (other_images, other_labels) in zip(batches, others, strict=True)
    )


@pytest.mark.slow
def test_raw_pixels_are_exact_and_kept_batches_are_not_overwritten(sequential, arrays):
    images, labels = zip(*epoch(sequential), strict=True)
    assert [len(batch) for batch in images] == [8] * 13
    assert torch.cat(labels).tolist() == [*arrays.labels, -1, -1, -1]
    expected = torch.from_numpy(arrays.images).permute(0, 3, 1, 2)
    assert torch.equal(torch.cat(images)[:101], expected)


def test_torch_keeps_its_threads(sequential):
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for _ in sequential:
                assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_order_and_pixels_depend_on_seed_and_epoch(training):
    first, again, other = epoch(training, 3), epoch(training, 3), epoch(training, 4)
    assert equal(first, again)
    assert not equal(first, other)
    view = training.crop
    try:
        training.crop = replace(view, seed=5)
        assert not equal(first, epoch(training, 3))
    finally:
        training.crop = view
    labels = [batch[1].tolist() for batch in first]
    assert labels == [(indices % 4).tolist() for indices in training.index_sampler.batches(3)]


def test_pixels_do_not_depend_on_threads_batch_size_or_ranks(training, raw):
    def samples(loader):
        return {
            index: image
            for number, (images, _) in enumerate(epoch(loader, 2))
            for index, image in zip(loader.batch_indices(number).tolist(), images, strict=True)
        }

    expected = samples(training)
    order = DistributedBatchSampler(101, 5, 0, 2, train=True, shuffle=True)
    loader = BetonLoader(raw, TRAIN, order, num_workers=1)
    for rank in range(2):
        loader.index_sampler = replace(order, rank=rank)
        for index, image in samples(loader).items():
            if index in expected:
                assert torch.equal(image, expected[index])


def test_crops_and_flips_are_those_of_the_view(training, raw, arrays):
    """Each output is the area average of its box, here computed in float64."""
    for number, (images, _) in enumerate(epoch(training, 1)):
        indices = training.batch_indices(number)
        crops = TRAIN.boxes(indices, [20] * 8, [24] * 8, 1)
        for image, index, (top, left, height, width, flip) in zip(
            images, indices, crops, strict=True
        ):
            if height < 16 or width < 16:
                continue  # enlarged: bilinear
            box = arrays.images[index, top : top + height, left : left + width].astype(float)
            rows, columns = area_weights(height), area_weights(width)
            expected = np.einsum("yh,hwc,xw->cyx", rows, box, columns)
            expected = expected[:, :, ::-1] if flip else expected
            assert abs(image.numpy() - expected).max() <= 1


def area_weights(length, size=16):
    """The matrix that averages ``length`` pixels to ``size`` by area."""
    edges = np.arange(size + 1) * length / size
    overlap = np.minimum(edges[1:, None], np.arange(1, length + 1)) - np.maximum(
        edges[:-1, None], np.arange(length)
    )
    return overlap.clip(0) * size / length


@pytest.mark.parametrize("world_size", [2, 3])
def test_evaluation_on_ranks_pads_with_label_minus_one(raw, arrays, world_size):
    labels = []
    loader = BetonLoader(raw, FULL, DistributedBatchSampler(101, 20), num_workers=1)
    for rank in range(world_size):
        loader.index_sampler = DistributedBatchSampler(101, 20, rank, world_size)
        for number, (images, batch) in enumerate(loader):
            assert torch.equal(batch == -1, torch.from_numpy(loader.batch_indices(number)) == -1)
            counted = images[batch != -1]
            first_pixels = counted[:, 0, 0, 0].tolist()
            assert first_pixels == [i for i in loader.batch_indices(number).tolist() if i >= 0]
            labels += batch.tolist()
    assert sorted(label for label in labels if label >= 0) == sorted(arrays.labels)
    assert labels.count(-1) == -101 % (20 * world_size)


@pytest.mark.parametrize("done", [6, *thorough(1, 11)])
def test_resumes_exactly_with_batches_prefetched(training, one_thread, done):
    expected = epoch(training, 5)
    training.set_epoch(5)
    iterator = iter(training)
    for _ in range(done):
        next(iterator)
    state = training.state_dict()
    iterator.close()
    one_thread.load_state_dict(state)
    assert equal(list(one_thread), expected[done:])
    training.set_epoch(6)
    assert equal(list(one_thread), list(training))


@pytest.mark.slow
def test_pages_read_ahead_and_a_quasi_random_order_give_the_same_pixels(training, raw):
    order = replace(training.index_sampler, pages=raw.pages)
    loader = BetonLoader(raw, TRAIN, order, num_workers=1, os_cache=False)
    pixels = {}
    for number, (images, _) in enumerate(epoch(training, 1)):
        pixels.update(zip(training.batch_indices(number).tolist(), images, strict=True))
    common = 0
    for number, (images, labels) in enumerate(epoch(loader, 1)):
        indices = loader.batch_indices(number)
        assert labels.tolist() == (indices % 4).tolist()
        for index, image in zip(indices.tolist(), images, strict=True):
            if index in pixels:
                common += 1
                assert torch.equal(image, pixels[index])
    assert common > 80
    next(iter(loader))  # and an early end closes the readers too


def test_another_image_size_needs_no_new_compilation(training):
    epoch(training)
    view = training.crop
    try:
        training.set_image_size(12)
        start = time.process_time()
        assert next(iter(training))[0].shape == (8, 3, 12, 12)
        assert time.process_time() - start < 1
    finally:
        training.crop = view


def test_both_decoders_give_nearly_the_same_pixels(photo_beton):
    """OpenCV's decoder upsamples color more crudely; the crop decoder's test compares with PIL."""
    info = check_beton(photo_beton)
    view = Crop("random_resized_crop", 64, 64, flip=True, seed=1)
    order = DistributedBatchSampler(info.samples, info.samples)
    crop, ffcv = (
        next(iter(BetonLoader(info, view, order, decoder=decoder)))[0].float()
        for decoder in ("crop", "ffcv")
    )
    assert not torch.equal(crop, ffcv)
    assert (crop - ffcv).abs().mean() < 2.5


def test_where_the_crop_decoder_was_not_built_ffcvs_is_used(training, raw, monkeypatch):
    monkeypatch.setattr(crop_decode, "unavailable_reason", lambda: "install it")
    with pytest.warns(UserWarning, match="Decoding with FFCV, which is slower: install it"):
        loader = BetonLoader(raw, TRAIN, training.index_sampler)
    assert equal(
        epoch(loader), epoch(BetonLoader(raw, TRAIN, training.index_sampler, decoder="ffcv"))
    )


def test_threads_end_with_each_epoch_and_each_break(training):
    before = threading.active_count()
    for _ in range(3):
        for _ in training:
            break
        assert threading.active_count() == before
        list(training)
        assert threading.active_count() == before
    iterator = iter(training)
    next(iterator)
    assert threading.active_count() == before + 1
    training.close()
    assert threading.active_count() == before


def test_the_order_must_be_of_this_file(raw):
    with pytest.raises(ValueError, match="holds 101 samples, not 100"):
        BetonLoader(raw, FULL, DistributedBatchSampler(100, 8))
