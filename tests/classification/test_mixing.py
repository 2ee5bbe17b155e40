"""Mixtures: images and labels have the same shares, of the right distribution."""

import pytest
import torch
from thorough import thorough

from eca_lightning.classification.mixing import Mixing

CLASSES = 4


def batch(images=6, size=32):
    """Images of one value each, so that their shares in a mixture can be read off it."""
    labels = torch.arange(images) % CLASSES
    values = torch.linspace(-1, 1, images)
    return values.view(-1, 1, 1, 1).expand(-1, 3, size, size).clone(), labels


def mix(mixing, seed=0, **shape):
    torch.manual_seed(seed)
    return mixing(*batch(**shape), CLASSES)


def share(targets):
    """The share of the first image in the mixtures; its neighbors have other labels."""
    return targets[0, 0].item()


@pytest.mark.parametrize("seed", range(5))
def test_mixup_blends_images_and_labels_alike(seed):
    images, labels = batch()
    mixed, targets = mix(Mixing(mixup=1.0), seed)
    first = share(targets)
    torch.testing.assert_close(mixed, first * images + (1 - first) * images.roll(1, 0))
    one_hot = torch.eye(CLASSES)[labels]
    torch.testing.assert_close(targets, first * one_hot + (1 - first) * one_hot.roll(1, 0))


@pytest.mark.parametrize("seed", range(5))
def test_cutmix_gives_labels_the_shares_of_the_areas(seed):
    images, labels = batch()
    mixed, targets = mix(Mixing(cutmix=1.0), seed)
    own = mixed == images
    assert torch.equal(mixed[~own], images.roll(1, 0)[~own])
    torch.testing.assert_close(targets[torch.arange(6), labels], own.float().mean((1, 2, 3)))
    torch.testing.assert_close(targets.sum(1), torch.ones(6))


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.2, *thorough(1.0)])
def test_shares_are_beta_distributed(alpha):
    shares = torch.tensor([share(mix(Mixing(mixup=alpha), seed, size=1)[1]) for seed in range(800)])
    assert shares.mean() == pytest.approx(0.5, abs=0.06)
    variance = 1 / (4 * (2 * alpha + 1))
    assert shares.var() == pytest.approx(variance, rel=0.15)


@pytest.mark.slow
def test_kinds_take_turns_and_probability_leaves_batches_alone():
    mixing = Mixing(mixup=1.0, cutmix=1.0, probability=0.6)
    kinds = {"none": 0, "cutmix": 0, "mixup": 0}
    originals = set(batch(size=8)[0].flatten().tolist())
    for seed in range(400):
        mixed, targets = mix(mixing, seed, size=8)
        if share(targets) == 1:
            kinds["none"] += 1
        else:
            kinds["cutmix" if set(mixed.flatten().tolist()) <= originals else "mixup"] += 1
    # CutMix leaves a batch alone where its box is less than a pixel.
    assert kinds["none"] / 400 == pytest.approx(0.4, abs=0.08)
    assert kinds["cutmix"] / 400 == pytest.approx(0.3, abs=0.08)
    assert kinds["mixup"] / 400 == pytest.approx(0.3, abs=0.08)


def test_what_has_no_label_takes_its_share_away():
    images, labels = batch()
    labels[2] = -1
    torch.manual_seed(0)
    _, targets = Mixing(mixup=1.0)(images, labels, CLASSES)
    first = share(targets)
    expected = torch.ones(6)
    expected[2], expected[3] = 1 - first, first
    torch.testing.assert_close(targets.sum(1), expected)


def test_the_generator_decides():
    mixing = Mixing(mixup=0.2, cutmix=1.0)
    for seed in range(4):
        for first, second in zip(mix(mixing, seed), mix(mixing, seed), strict=True):
            assert torch.equal(first, second)
    assert not torch.equal(mix(mixing, 0)[1], mix(mixing, 1)[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "an alpha above 0"),
        ({"mixup": -0.1, "cutmix": 1.0}, "an alpha above 0"),
        ({"mixup": 0.2, "probability": 1.5}, "from 0 to 1"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Mixing(**options)
