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


@pytest.fixture
def damaged(image_folder, tmp_path):
    """Files of which the second and third end too early."""
    source = shutil.copytree(image_folder, tmp_path / "source")
    files = list_class_folders(source)
    for path in files.paths[1:3]:
        path.write_bytes(path.read_bytes()[:-500])
    return files


@pytest.mark.parametrize("num_workers", [0, 1])
def test_others_take_the_places_of_unreadable_images_in_training(
    damaged, num_workers, files, caplog
):
    order = DistributedBatchSampler(21, 4, train=True)
    dataset = FileDataset(damaged.paths, damaged.labels, TRAIN)
    batches = FolderLoader(dataset, order, num_workers, on_unreadable="skip")
    first = list(batches)
    batches.set_epoch(0)
    assert equal(first, list(batches))
    batches.close()
    whole = list(loader(files, TRAIN, order))
    for place in range(4):
        expected = whole[0][0][3 if place in (1, 2) else place]
        assert torch.equal(first[0][0][place], expected)
    assert equal(first[1:], whole[1:])
    assert sorted(batches.unreadable) == [1, 2]
    said = [record.message for record in caplog.records]
    assert [path for path in damaged.paths if any(str(path) in text for text in said)] == (
        damaged.paths[1:3]
    )
    assert (
        said[2:]
        == ["2 images could not be read in this epoch: others took their places in training"] * 2
    )


def test_unreadable_images_are_not_scored(damaged, files):
    view, order = Crop("center_crop", 8, 8, resize_size=8), DistributedBatchSampler(21, 4)
    dataset = FileDataset(damaged.paths, damaged.labels, view)
    batches = FolderLoader(dataset, order, on_unreadable="skip")
    images, labels = next(iter(batches))
    whole, own = next(iter(loader(files, view, order)))
    assert labels.tolist() == [own[0], -1, -1, own[3]]
    assert torch.equal(images[[0, 3]], whole[[0, 3]])
    assert not images[1:3].any()


def test_training_ends_when_too_many_in_a_row_cannot_be_read(damaged):
    for path in damaged.paths:
        path.unlink()
    order = DistributedBatchSampler(21, 4, train=True)
    dataset = FileDataset(damaged.paths, damaged.labels, TRAIN)
    with pytest.raises(ValueError, match=r"^10 images in a row cannot be read; the first: cannot"):
        list(FolderLoader(dataset, order, on_unreadable="skip"))
