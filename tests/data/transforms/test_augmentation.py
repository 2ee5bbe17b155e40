"""Color jitter and random erasing: distributed as torchvision's, and what they refuse."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch
from thorough import thorough
from torchvision.transforms import v2

from eca_lightning import ColorJitter, RandAugment, RandomErasing, TrivialAugment
from eca_lightning.data.transforms.augmentation import Augmentation, PixelOp
from eca_lightning.data.transforms.crop import uniforms

COUNT = 6000
ALL = [
    ColorJitter(0.4, 0.4, 0.4, 0.1),
    TrivialAugment(),
    RandAugment(),
    RandomErasing(),
]


def steps(augmentation, count=COUNT, height=224, width=224):
    numbers = uniforms(7, 0, np.arange(count), augmentation.draws)
    return augmentation.steps(numbers, height, width)


def assert_same_distribution(ours, theirs):
    """Two-sample Kolmogorov-Smirnov: chance of a greater distance below 1e-4."""
    both = np.sort(np.concatenate([ours, theirs]))
    distance = np.abs(
        np.searchsorted(np.sort(ours), both, "right") / len(ours)
        - np.searchsorted(np.sort(theirs), both, "right") / len(theirs)
    ).max()
    assert distance < 2.23 * np.sqrt(1 / len(ours) + 1 / len(theirs))


@pytest.mark.parametrize("strengths", [(0.4, 0.3, 0.2, 0.1), (1.6, 0.9, 2.0, 0.5)])
def test_jitter_is_distributed_as_torchvisions(strengths):
    ours = steps(ColorJitter(*strengths))
    torch.manual_seed(0)
    peer = v2.ColorJitter(*strengths)
    theirs = [peer.make_params([]) for _ in range(COUNT)]
    for code, name in (
        (PixelOp.BRIGHTNESS, "brightness_factor"),
        (PixelOp.CONTRAST, "contrast_factor"),
        (PixelOp.SATURATION, "saturation_factor"),
        (PixelOp.HUE, "hue_factor"),
    ):
        values = ours[ours[:, :, 0] == code][:, 1]
        assert len(values) == COUNT
        assert_same_distribution(values, np.array([params[name] for params in theirs]))
    orders = Counter(map(tuple, ours[:, :, 0].astype(int).tolist()))
    every = permutations([PixelOp.BRIGHTNESS, PixelOp.CONTRAST, PixelOp.SATURATION, PixelOp.HUE])
    expected = COUNT / 24
    chi_squared = sum((orders[order] - expected) ** 2 / expected for order in every)
    assert chi_squared < 65  # 23 degrees of freedom: chance of more below 1e-5


def test_jitter_leaves_out_what_it_does_not_change():
    everything = steps(ColorJitter(0.4, 0.4, 0.4, 0.1), 100)
    some = steps(ColorJitter(contrast=0.4, hue=0.1), 100)
    assert some.shape == (100, 2, 8)
    kept = np.isin(everything[:, :, 0], [PixelOp.CONTRAST, PixelOp.HUE])
    assert np.array_equal(everything[kept].reshape(some.shape), some)
    assert steps(ColorJitter(), 100).shape == (100, 0, 8)


@pytest.mark.parametrize(
    ("size", "scale", "ratio"),
    [
        ((224, 224), (0.02, 0.33), (0.3, 3.3)),
        ((96, 160), (0.3, 1.0), (0.5, 3.0)),  # many rectangles do not fit
        *thorough(((32, 28), (0.7, 0.9), (0.1, 0.2))),  # and here few do
    ],
)
def test_rectangles_are_distributed_as_torchvisions(size, scale, ratio):
    ours = steps(RandomErasing(1.0, scale, ratio), COUNT, *size)[:, 0]
    torch.manual_seed(0)
    peer = v2.RandomErasing(1.0, scale, ratio)
    image = torch.empty(3, *size)
    params = [peer.make_params([image]) for _ in range(COUNT)]
    theirs = np.array([[p[key] for key in "ijhw"] for p in params if p["v"] is not None])
    ours = ours[ours[:, 0] == PixelOp.ERASE]
    deviation = np.sqrt(2 * COUNT * 0.25)  # of the difference of two counts, at most
    assert abs(len(ours) - len(theirs)) < 4 * deviation
    if len(theirs) > 500:
        for ours_, theirs_ in zip(ours[:, 1:5].T, theirs.T, strict=True):
            assert_same_distribution(ours_, theirs_)
    assert (ours[:, 1:3] + ours[:, 3:5] <= size).all()
    assert (ours[:, 5:] == (124, 116, 104)).all()


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_a_share_of_the_samples_is_erased(probability):
    erased = steps(RandomErasing(probability))[:, 0, 0] == PixelOp.ERASE
    assert abs(erased.mean() - probability) < 4 * np.sqrt(0.25 * 0.75 / COUNT)
    assert set(erased.tolist()) == {probability > 0, probability == 1}


@pytest.mark.parametrize("augmentation", ALL, ids=lambda a: type(a).__name__)
def test_steps_of_a_sample_do_not_depend_on_its_company(augmentation):
    together = steps(augmentation, 50)
    for sample in (0, 7, 49):
        numbers = uniforms(7, 0, [sample], augmentation.draws)
        alone = augmentation.steps(numbers, 224, 224)
        assert alone.shape == (1, *together.shape[1:])
        assert np.array_equal(alone[0], together[sample])


def test_no_two_augmentations_share_their_numbers():
    streams = [kind.stream for kind in Augmentation.__subclasses__()]
    assert len(set(streams)) == len(streams) >= len(ALL)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (ColorJitter, {"brightness": -1.0}, r"ColorJitter\.brightness must be at least 0, got -1"),
        (ColorJitter, {"hue": 0.6}, r"ColorJitter\.hue must be at most 0\.5"),
        (TrivialAugment, {"num_magnitude_bins": 1}, r"num_magnitude_bins must be at least 2"),
        (RandAugment, {"num_magnitude_bins": 1}, r"num_magnitude_bins must be at least 2"),
        (RandAugment, {"num_ops": 0}, r"num_ops must be at least 1"),
        (RandAugment, {"magnitude": 31}, r"magnitude must be from 0 to 30, got 31"),
        (RandAugment, {"magnitude": -1}, r"magnitude must be from 0 to 30"),
        (RandomErasing, {"probability": 1.5}, r"probability must be from 0 to 1, got 1\.5"),
        (RandomErasing, {"scale": (0.3, 0.1)}, r"scale must be two increasing fractions"),
        (RandomErasing, {"ratio": (0.0, 1.0)}, r"ratio must be two increasing numbers"),
        (RandomErasing, {"fill": (0, 0, 256)}, r"fill must be from 0 to 255 each"),
    ],
)
def test_impossible_options_are_refused(kind, options, message):
    with pytest.raises(ValueError, match=rf"^data\.augment: .*{message}"):
        kind(**options)
