"""Augmented batches of a .beton: the same pixels however they are computed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("ffcv")

from eca_lightning import ColorJitter, RandAugment, RandomErasing, TrivialAugment
from eca_lightning.data.ffcv.format import check_beton
from eca_lightning.data.ffcv.loader import BetonLoader
from eca_lightning.data.folder.files import list_class_folders
from eca_lightning.data.folder.loader import FileDataset, FolderLoader
from eca_lightning.data.sampler import DistributedBatchSampler
from eca_lightning.data.transforms.crop import Crop

AUGMENT = (
    ColorJitter(0.4, 0.4, 0.4, 0.1),
    TrivialAugment(),
    RandAugment(),
    RandomErasing(),
)
PLAIN = Crop("random_resized_crop", 40, 32, flip=True, seed=4)
VIEW = replace(PLAIN, augment=AUGMENT)
ORDER = DistributedBatchSampler(21, 4, train=True, shuffle=True)


@pytest.fixture(scope="module")
def photos(photo_beton):
    return check_beton(photo_beton)


@pytest.fixture(scope="module")
def loader(photos):
    return BetonLoader(photos, VIEW, ORDER, num_workers=2)


def samples(loader, epoch=2):
    """The images of an epoch by sample index."""
    loader.set_epoch(epoch)
    return {
        index: image
        for number, (images, _) in enumerate(loader)
        for index, image in zip(loader.batch_indices(number).tolist(), images, strict=True)
    }


def assert_agree(samples, others):
    common = samples.keys() & others.keys()
    assert len(common) >= 8
    for index in common:
        assert torch.equal(samples[index], others[index])


@pytest.mark.slow
def test_pixels_do_not_depend_on_threads_batch_size_or_ranks(loader, photos):
    expected = samples(loader)
    assert_agree(samples(loader), expected)
    order = DistributedBatchSampler(21, 5, 0, 2, train=True, shuffle=True)
    other = BetonLoader(photos, VIEW, order, num_workers=1)
    seen = {}
    for rank in range(2):
        other.index_sampler = replace(order, rank=rank)
        seen |= samples(other)
    assert len(seen) == 20
    assert_agree(seen, expected)


def test_pixels_depend_on_the_epoch_and_the_seed(loader, photos):
    expected = samples(loader)
    other_epoch = samples(loader, 3)
    loader.crop = replace(VIEW, seed=5)
    other_seed = samples(loader)
    loader.crop = VIEW
    for others in (other_epoch, other_seed):
        common = expected.keys() & others.keys()
        assert not any(torch.equal(expected[index], others[index]) for index in common)


def test_resumes_exactly_within_an_epoch(loader, photos):
    loader.set_epoch(5)
    expected = list(loader)
    loader.set_epoch(5)
    iterator = iter(loader)
    for _ in range(2):
        next(iterator)
    state = loader.state_dict()
    iterator.close()
    loader.set_epoch(0)
    loader.load_state_dict(state)
    rest = list(loader)
    assert len(rest) == len(expected) - 2
    for (images, labels), (other_images, other_labels) in zip(expected[2:], rest, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)


def test_files_are_augmented_alike(loader, image_folder):
    """But for the filter of the resize, which steps may amplify, and which are few samples' all."""
    files = list_class_folders(image_folder)
    views = {
        view: samples(FolderLoader(FileDataset(files.paths, files.labels, view), ORDER))
        for view in (VIEW, PLAIN)
    }
    expected = samples(loader)
    loader.crop = PLAIN
    plain = samples(loader)
    loader.crop = VIEW

    def distances(samples, others):
        return [
            (samples[index].float() - others[index].float()).abs().mean().item()
            for index in sorted(samples)
        ]

    assert np.median(distances(expected, views[VIEW])) < 4
    assert np.median(distances(plain, views[PLAIN])) < 4
    assert np.median(distances(expected, plain)) > 20  # so much the augmentations change


@pytest.mark.slow
def test_workers_of_image_files_change_nothing(image_folder):
    files = list_class_folders(image_folder)
    dataset = FileDataset(files.paths, files.labels, VIEW)
    here, there = FolderLoader(dataset, ORDER), FolderLoader(dataset, ORDER, num_workers=1)
    try:
        assert_agree(samples(there), samples(here))
    finally:
        there.close()
    images, _ = next(iter(here))
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_the_size_may_change_between_epochs(loader):
    loader.set_image_size(24)
    try:
        images, _ = next(iter(loader))
        assert images.shape == (4, 3, 24, 24)
    finally:
        loader.crop = VIEW
