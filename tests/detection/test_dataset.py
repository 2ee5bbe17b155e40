"""Batches of annotated images: order, groups, flips and resuming."""

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("pycocotools")

from tiny_coco import OBJECT, make_coco, write_json

from eca_lightning.detection.coco_json import read_annotations
from eca_lightning.detection.dataset import CocoImages, CocoLoader, GroupedBatchSampler

GROUPS = np.array([0] * 41 + [1] * 23 + [0] * 19)
SAMPLES = len(GROUPS)


def order(**options):
    return GroupedBatchSampler(SAMPLES, groups=GROUPS, train=True, **{"shuffle": True, **options})


@pytest.mark.parametrize("batch_size", [1, 3, 4])
@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_batches_hold_one_group_as_far_as_they_go(batch_size, ranks):
    parts = [order(batch_size=batch_size, rank=r, world_size=ranks, seed=4) for r in range(ranks)]
    for epoch in range(3):
        steps = list(zip(*(part.batches(epoch) for part in parts), strict=True))
        assert len(steps) == SAMPLES // (batch_size * ranks)
        seen = np.concatenate([np.concatenate(step) for step in steps])
        assert len(set(seen)) == len(seen) == len(steps) * batch_size * ranks
        mixed = [step for step in steps if len(set(GROUPS[np.concatenate(step)])) > 1]
        # What each of two groups leaves over is less than a step of all ranks.
        assert len(mixed) <= 1


def test_each_epoch_has_its_own_order_and_tail():
    epochs = [order(batch_size=4, seed=1).indices(epoch) for epoch in range(40)]
    assert not np.array_equal(epochs[0], epochs[1])
    assert np.array_equal(epochs[1], order(batch_size=4, seed=1).indices(1))
    assert not np.array_equal(epochs[1], order(batch_size=4, seed=2).indices(1))
    left_out = set.intersection(*(set(range(SAMPLES)) - set(epoch) for epoch in epochs))
    assert not left_out
    kinds = [GROUPS[epoch.reshape(-1, 4)[:, 0]] for epoch in epochs]
    assert any(kind[0] != kind[-1] for kind in kinds)  # batches are mixed, too


def test_ranks_share_out_the_steps_of_one_with_their_batch():
    alone = order(batch_size=8, seed=3).batches(2)
    parts = [order(batch_size=4, rank=r, world_size=2, seed=3).batches(2) for r in range(2)]
    together = [np.concatenate(step) for step in zip(*parts, strict=True)]
    assert np.array_equal(alone, together)


def test_without_shuffling_all_epochs_are_equal():
    fixed = order(batch_size=4, shuffle=False)
    assert np.array_equal(fixed.indices(0), fixed.indices(5))
    assert sorted(fixed.indices(0)) == sorted(set(fixed.indices(0)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("coco") / "images"


@pytest.fixture(scope="module")
def known(folder):
    return read_annotations(write_json(folder.parent / "a.json", make_coco(folder)), masks=True)


FLIPPED, UNFLIPPED = 6, None  # seeds of the flips


def load(folder, known, flip_seed=UNFLIPPED, num_workers=0, train=False, **options):
    options = {"batch_size": 3, "train": train, "shuffle": train, "seed": 6, **options}
    groups = (known.sizes[:, 0] > known.sizes[:, 1]).astype(int) if train else None
    order = GroupedBatchSampler(len(known), groups=groups, **options)
    return CocoLoader(CocoImages(folder, known, flip_seed), order, num_workers)


def flatten(batches):
    return [pair for batch in batches for pair in zip(*batch, strict=True)]


def same(ours, theirs):
    """Whether two lists of batches are equal in every pixel, box and mask."""
    ours, theirs = list(ours), list(theirs)
    assert [len(images) for images, _ in ours] == [len(images) for images, _ in theirs]
    for (image, target), (other_image, other) in zip(flatten(ours), flatten(theirs), strict=True):
        if not torch.equal(image, other_image) or target.keys() != other.keys():
            return False
        if not all(torch.equal(value, other[key]) for key, value in target.items()):
            return False
    return True


def test_samples_are_what_the_contract_says(folder, known):
    samples = flatten(load(folder, known))
    assert [int(target["image_id"]) for _, target in samples] == known.image_ids.tolist()
    kinds = {
        "image_id": (torch.int64, ()),
        "boxes": (torch.float32, (4,)),
        "labels": (torch.int64, ()),
        "area": (torch.float32, ()),
        "iscrowd": (torch.bool, ()),
        "masks": (torch.uint8, None),
    }
    for image, target in samples:
        path = folder / known.file_names[known.image_ids.tolist().index(target["image_id"])]
        expected = np.array(Image.open(path)).transpose(2, 0, 1)
        assert image.dtype == torch.uint8
        assert image.is_contiguous()
        assert np.array_equal(image, expected)
        assert target.keys() == kinds.keys()
        n = len(target["labels"])
        for key, (dtype, shape) in kinds.items():
            assert type(target[key]) is torch.Tensor
            assert target[key].dtype == dtype
            if key == "masks":
                assert target[key].shape == (n, *image.shape[1:])
            elif key != "image_id":
                assert target[key].shape == (n, *shape)
    assert any(len(target["boxes"]) == 0 for _, target in samples)
    assert any(target["iscrowd"].any() for _, target in samples)


def test_boxes_and_masks_are_flipped_with_the_pixels(folder, known):
    usable = known.for_training()
    straight = {int(t["image_id"]): image for image, t in flatten(load(folder, usable))}
    flips = 0
    for epoch in range(3):
        loader = load(folder, usable, FLIPPED, train=True, batch_size=1)
        loader.set_epoch(epoch)
        for image, target in flatten(loader):
            original = straight[int(target["image_id"])]
            flips += torch.equal(image, original.flip(-1))
            assert torch.equal(image, original) or torch.equal(image, original.flip(-1))
            found = (image[0] >= OBJECT).numpy()
            assert np.array_equal(found, target["masks"].any(0))
            for box, mask in zip(target["boxes"].tolist(), target["masks"], strict=True):
                rows, columns = np.nonzero(mask.numpy())
                assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert 0.25 < flips / (3 * len(usable)) < 0.75


def test_flips_stay_when_images_are_left_out(folder, known):
    usable = known.for_training()
    index_of = {id_: index for index, id_ in enumerate(known.image_ids.tolist())}
    for index, id_ in enumerate(usable.image_ids.tolist()):
        image, _ = CocoImages(folder, usable, FLIPPED)[index, 3, FLIPPED]
        expected, _ = CocoImages(folder, known, FLIPPED)[index_of[id_], 3, FLIPPED]
        assert torch.equal(image, expected)


@pytest.mark.parametrize("ranks", [1, 2, 4, 5])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_evaluation_has_each_image_once_on_any_ranks(folder, known, ranks, batch_size):
    alone = list(load(folder, known, batch_size=batch_size))
    options = {"batch_size": batch_size, "world_size": ranks}
    parts = [list(load(folder, known, rank=r, **options)) for r in range(ranks)]
    assert len({len(part) for part in parts}) == 1
    batches = [batch for part in parts for batch in part]
    assert all(batch == ([], []) for batch in batches if not batch[0])
    assert same(alone, [batch for batch in batches if batch[0]])


def test_the_workers_change_nothing_and_persist(folder, known):
    usable = known.for_training()
    here = load(folder, usable, FLIPPED, train=True)
    there = load(folder, usable, FLIPPED, num_workers=2, train=True)
    try:
        first = list(here)
        assert same(first, there)
        assert not same(first, here)  # the next epoch
        next(iter(there))
        here.set_epoch(7)
        there.set_epoch(7)
        assert same(here, there)
    finally:
        there.close()


@pytest.mark.parametrize("done", [1, 4])
def test_resumes_exactly(folder, known, done):
    usable = known.for_training()
    whole = load(folder, usable, FLIPPED, train=True)
    list(whole)
    iterator = iter(whole)
    for _ in range(done):
        next(iterator)
    resumed = load(folder, usable, FLIPPED, train=True)
    resumed.load_state_dict(whole.state_dict())
    assert same(resumed, iterator)
    assert resumed.epoch == 1


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_bad_image_is_named_in_one_line(tmp_path, num_workers):
    content = make_coco(tmp_path / "images")
    known = read_annotations(write_json(tmp_path / "a.json", content))
    path = tmp_path / "images" / known.file_names[4]
    for spoil, message in (
        (
            lambda: Image.new("RGB", (9, 7)).save(path),
            rf"{path.name} has 9 x 7 pixels, but .*a\.js",
        ),
        (lambda: path.write_bytes(b"no image"), rf"^cannot read the image .*{path.name}: .*$"),
    ):
        spoil()
        loader = load(tmp_path / "images", known, num_workers=num_workers)
        with pytest.raises(ValueError, match=message) as error:
            list(loader)
        assert "\n" not in str(error.value)
        loader.close()
