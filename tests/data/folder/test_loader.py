"""The loader of image files: torchvision's pixels, our order, and clear errors from workers."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from eca_lightning.data.folder.files import list_class_folders, open_rgb
from eca_lightning.data.folder.loader import FileDataset, FolderLoader, resized_crop
from eca_lightning.data.sampler import DistributedBatchSampler
from eca_lightning.data.transforms.crop import Crop

TRAIN = Crop("random_resized_crop", 32, 32, flip=True, seed=4)


@pytest.fixture(scope="module")
def files(image_folder):
    return list_class_folders(image_folder)


def loader(files, view, order, num_workers=0):
    return FolderLoader(FileDataset(files.paths, files.labels, view), order, num_workers)


def equal(batches, others):
    return len(batches) == len(others) and all(
        torch.equal(images, other_images) and torch.equal(labels, other_labels)
        for (images, labels), (other_images, other_labels) in zip(batches, others, strict=True)
    )


def test_a_centre_crop_is_torchvisions_up_to_the_order_of_crop_and_resize(files):
    view = Crop("center_crop", 56, 56, resize_size=64)
    images, labels = next(iter(loader(files, view, DistributedBatchSampler(21, 21))))
    assert labels.tolist() == files.labels
    peer = v2.Compose([v2.Resize(64), v2.CenterCrop(56), v2.PILToTensor()])
    expected = torch.stack([peer(open_rgb(path)) for path in files.paths])
    assert (images.float() - expected.float()).abs().mean() < 4
    assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [16, 64])
def test_a_crop_is_cut_resized_and_flipped(files, size):
    image = open_rgb(files.paths[0])
    top, left, height, width = 5, 9, 40, 30
    result = resized_crop(image, np.array([top, left, height, width, 1]), size, size)
    box = image.crop((left, top, left + width, top + height))
    expected = np.asarray(box.resize((size, size), Image.Resampling.BILINEAR))[:, ::-1]
    assert np.array_equal(np.asarray(result), expected)


def test_the_workers_change_nothing_and_persist(files):
    order = DistributedBatchSampler(21, 4, train=True, shuffle=True)
    here, there = loader(files, TRAIN, order), loader(files, TRAIN, order, num_workers=1)
    try:
        first = list(here)
        assert equal(first, list(there))
        assert not equal(first, list(here))  # the next epoch
        next(iter(there))  # left early
        here.set_epoch(7)
        there.set_epoch(7)
        assert equal(list(here), list(there))
    finally:
        there.close()


def test_resumes_exactly(files):
    order = DistributedBatchSampler(21, 4, train=True, shuffle=True)
    whole = loader(files, TRAIN, order)
    iterator = iter(whole)
    for _ in range(2):
        next(iterator)
    resumed = loader(files, TRAIN, order)
    resumed.load_state_dict(whole.state_dict())
    assert equal(list(resumed), list(iterator))


def test_ranks_are_padded_with_label_minus_one(files):
    view = Crop("center_crop", 8, 8, resize_size=8)
    batches = [
        batch
        for rank in range(4)
        for batch in loader(files, view, DistributedBatchSampler(21, 4, rank, 4))
    ]
    labels = torch.cat([labels for _, labels in batches])
    assert sorted(labels[labels >= 0].tolist()) == files.labels
    assert (labels == -1).sum() == 4 * 4 * 2 - 21


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_unreadable_image_is_named_in_one_line(image_folder, tmp_path, num_workers):
    source = shutil.copytree(image_folder, tmp_path / "source")
    (source / "bus" / "1.jpg").write_bytes(b"no image")
    batches = loader(
        list_class_folders(source), TRAIN, DistributedBatchSampler(21, 21), num_workers
    )
    with pytest.raises(ValueError, match=r"^cannot read the image .*bus/1\.jpg: .*$") as error:
        list(batches)
    assert "\n" not in str(error.value)
    batches.close()


def test_a_full_view_needs_images_of_one_size(files):
    first = open_rgb(files.paths[0])
    view = Crop("full", first.height, first.width)
    with pytest.raises(ValueError, match=r"the crop 'full' needs images of one size.*center_crop"):
        list(loader(files, view, DistributedBatchSampler(21, 21)))
