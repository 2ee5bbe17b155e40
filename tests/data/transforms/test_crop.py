"""Crops and flips: inside the image, reproducible, and distributed as torchvision's."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from thorough import thorough
from torchvision.transforms import v2

from eca_lightning import ColorJitter, RandAugment, RandomErasing, TrivialAugment
from eca_lightning.data.transforms.crop import Crop, uniforms

SHAPES = [(375, 500), (500, 333), (28, 28), (40, 300), (300, 40), (1, 1), (2, 900)]


def crops(view, count, height, width, epoch=0):
    return view.boxes(np.arange(count), np.full(count, height), np.full(count, width), epoch)


def test_numbers_are_uniform_and_independent_of_their_company():
    numbers = uniforms(7, 3, np.arange(50_000), 4)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    histogram = np.stack([np.histogram(column, 50, (0, 1))[0] for column in numbers.T])
    chi_squared = ((histogram - 1000) ** 2 / 1000).sum(axis=1)
    assert chi_squared.max() < 100  # 49 degrees of freedom: chance of more than 100 is 2e-5
    correlation = np.corrcoef(np.concatenate([numbers.T, [np.roll(numbers[:, 0], 1)]]))
    assert abs(correlation - np.eye(5)).max() < 0.02
    alone = np.concatenate([uniforms(7, 3, [i], 4) for i in (0, 9, 49_999)])
    assert np.array_equal(alone, numbers[[0, 9, 49_999]])
    assert np.array_equal(uniforms(7, 3, [5], 2)[0], numbers[5, :2])


@pytest.mark.parametrize("other", [(8, 3), (7, 4), (3, 7)])
def test_numbers_differ_by_seed_and_epoch(other):
    assert not np.isin(uniforms(7, 3, np.arange(100), 4), uniforms(*other, np.arange(100), 4)).any()


def test_streams_of_a_sample_are_independent():
    streams = [(), (0,), (1,), (1, 0), (1, 1)]
    numbers = [uniforms(7, 3, np.arange(20_000), 1, *stream)[:, 0] for stream in streams]
    assert abs(np.corrcoef(numbers) - np.eye(5)).max() < 0.03  # 4.2 standard deviations
    assert len(np.unique(numbers)) == 100_000


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["random_resized_crop", "center_crop", "full"])
def test_boxes_lie_inside_the_image(name, shape):
    rows = crops(Crop(name, 24, 24, resize_size=32, flip=True), 500, *shape)
    tops, lefts, heights, widths, flips = rows.T
    assert tops.min() >= 0
    assert lefts.min() >= 0
    assert min(heights.min(), widths.min()) >= 1
    assert (tops + heights).max() <= shape[0]
    assert (lefts + widths).max() <= shape[1]
    assert set(flips.tolist()) == {0, 1}


@pytest.mark.parametrize("shape", [(375, 500), *thorough(((500, 333),), ((40, 300),))])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.35, 1.0)])
def test_random_boxes_are_distributed_as_torchvisions(shape, scale):
    count = 4000
    ours = crops(Crop("random_resized_crop", 224, 224, scale=scale), count, *shape)[:, :4]
    torch.manual_seed(0)
    image = torch.empty(3, *shape, dtype=torch.uint8)
    peer = v2.RandomResizedCrop(224, scale=scale)
    params = [peer.make_params([image]) for _ in range(count)]
    theirs = np.array([[p["top"], p["left"], p["height"], p["width"]] for p in params])
    for ours_, theirs_ in zip(ours.T, theirs.T, strict=True):
        both = np.sort(np.concatenate([ours_, theirs_]))
        distance = np.abs(
            np.searchsorted(np.sort(ours_), both, "right")
            - np.searchsorted(np.sort(theirs_), both, "right")
        ).max()
        # Two-sample Kolmogorov-Smirnov: chance of a greater distance below 1e-4.
        assert distance / count < 2.23 * np.sqrt(2 / count)


def test_flips_every_other_sample_and_never_unless_asked():
    flips = crops(Crop("full", 8, 8, flip=True), 10_000, 8, 8)[:, 4]
    assert abs(flips.mean() - 0.5) < 0.025
    assert crops(Crop("full", 8, 8), 100, 8, 8)[:, 4].sum() == 0


def test_crops_depend_on_seed_epoch_and_sample_alone():
    view = Crop("random_resized_crop", 24, 24, flip=True, seed=5)
    together = crops(view, 64, 100, 120, epoch=2)
    backwards = view.boxes(np.arange(64)[::-1], np.full(64, 100), np.full(64, 120), 2)
    assert np.array_equal(together, backwards[::-1])
    assert not np.array_equal(together, crops(view, 64, 100, 120, epoch=3))
    other = Crop("random_resized_crop", 24, 24, flip=True, seed=6)
    assert not np.array_equal(together, crops(other, 64, 100, 120, epoch=2))


@pytest.mark.parametrize(
    ("shape", "box"),
    [((256, 256), (16, 16, 224, 224)), ((300, 512), (19, 125, 262, 262))],
)
def test_centre_box(shape, box):
    assert crops(Crop("center_crop", 224, 224), 1, *shape)[0].tolist() == [*box, 0]


@pytest.mark.parametrize("recipe", ["resnet18_ffcv", "resnet50_ffcv"])
def test_the_recipes_of_ffcv_crop_as_ffcv_does(recipe):
    """Its ratio, 224 / 256, is no whole number of pixels that 256 are cut from."""
    path = Path(__file__).parents[3] / "configs" / "imagenet" / f"{recipe}.yaml"
    resize_size = yaml.safe_load(path.read_text())["data"]["init_args"]["resize_size"]
    view = Crop("center_crop", 256, 256, resize_size=resize_size)
    for height, width in [(256, 256), (375, 500), (512, 683), (400, 400), (333, 500), (1, 9)]:
        side = max(int(224 / 256 * min(height, width)), 1)  # ffcv.fields.rgb_image.get_center_crop
        expected = [(height - side) // 2, (width - side) // 2, side, side, 0]
        assert crops(view, 1, height, width)[0].tolist() == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "centre_crop"}, "random_resized_crop.*'centre_crop'"),
        ({"height": 0}, "image_size"),
        ({"resize_size": 10, "name": "center_crop"}, "resize_size"),
        ({"scale": (0.5, 0.2)}, "scale"),
        ({"scale": (0.5, 1.2)}, "scale"),
        ({"ratio": (0.0, 1.0)}, "ratio"),
        ({"seed": -1}, "seed"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Crop(**{"name": "random_resized_crop", "height": 24, "width": 24, **options})


def test_an_augmentation_changes_no_other_nor_crops():
    jitter, policy, erasing = ColorJitter(0.4, 0.4), TrivialAugment(), RandomErasing(1.0)
    samples = np.arange(40)

    def view(*augment):
        return Crop("random_resized_crop", 64, 48, flip=True, seed=3, augment=augment)

    alone = {a: view(a).steps(samples, 2) for a in (jitter, policy, erasing)}
    together = view(policy, jitter, erasing).steps(samples, 2)
    parts = [alone[policy], alone[jitter], alone[erasing]]
    assert np.array_equal(together, np.concatenate(parts, axis=1))
    assert np.array_equal(crops(view(), 40, 90, 90), crops(view(policy, jitter), 40, 90, 90))
    assert view().steps(samples, 2).shape == (40, 0, 8)


def test_steps_depend_on_seed_epoch_sample_and_size_alone():
    view = Crop("full", 64, 48, seed=3, augment=(RandAugment(), RandomErasing(1.0)))
    steps = view.steps(np.arange(40), 2)
    assert np.array_equal(view.steps(np.arange(40)[::-1], 2), steps[::-1])
    for other in (
        view.steps(np.arange(40), 3),
        replace(view, seed=4).steps(np.arange(40), 2),
        replace(view, width=64).steps(np.arange(40), 2),
    ):
        assert other.shape == steps.shape
        assert not np.array_equal(other, steps)


def test_the_same_augmentation_twice_draws_twice():
    view = Crop("full", 64, 48, augment=(RandomErasing(1.0), RandomErasing(1.0)))
    first, second = view.steps(np.arange(40), 0).transpose(1, 0, 2)
    assert not (first == second).all(axis=1).any()
