"""The figures of the gates: which images they are of, and what is drawn."""

import numpy as np
import pytest
import torch

from eca_lightning import AttentionFigures, create_backbone
from eca_lightning.classification.callbacks import attention_figures
from eca_lightning.classification.callbacks.attention_figures import (
    ClassSample,
    class_means,
    draw_channel_weights,
    draw_gates,
    draw_kernels,
    evenly_spread,
    kernels_of,
)
from eca_lightning.classification.callbacks.attention_gates import gates_of

TAGS = ["attention/channel_weights", "attention/gates", "attention/kernels"]


@pytest.mark.slow
def test_figures_at_each_validation(fit, classifier):
    events = fit(AttentionFigures(), model=classifier(), max_epochs=2)
    assert sorted(events.tags("images")) == TAGS
    for tag in TAGS:
        images = events.events.Images(tag)
        assert [image.step for image in images] == [4, 9]
        assert min(images[0].width, images[0].height) > 200


@pytest.mark.slow
def test_only_eca_has_kernels(fit, classifier):
    events = fit(AttentionFigures(), model=classifier("se"), limit_train_batches=1)
    assert sorted(events.tags("images")) == TAGS[:2]


@pytest.mark.parametrize("attention", [None, "cbam"])
def test_networks_without_channel_gates_have_none_to_show(fit, classifier, attention):
    events = fit(AttentionFigures(), model=classifier(attention), limit_train_batches=1)
    assert events.tags("images") == []


@pytest.mark.slow
def test_images_are_the_first_of_each_class_and_no_padding(fit, classifier, tiny_data, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        attention_figures,
        "draw_channel_weights",
        lambda gates, labels, names: drawn.append((gates, labels)) or draw_gates(gates),
    )
    model = classifier(optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    fit(AttentionFigures(classes=2, images_per_class=7), model=model, limit_train_batches=1)
    ((gates, labels),) = drawn
    counted = torch.arange(40) % 10 != 9
    taken = torch.cat(
        [((tiny_data.labels == label) & counted).nonzero().flatten()[:7] for label in (0, 2)]
    )
    assert labels.tolist() == [0] * 7 + [2] * 7
    for layer, expected in gates_of(model, tiny_data.images[taken]).items():
        torch.testing.assert_close(gates[layer], expected, rtol=1e-4, atol=1e-5)


def test_classes_that_are_not_seen_are_left_out(fit, classifier, tiny_data):
    tiny_data.labels[:] = 1
    events = fit(AttentionFigures(classes=2), model=classifier(), limit_train_batches=1)
    assert events.tags("images") == []


def test_a_sample_wants_so_many_images_of_each_class():
    sample = ClassSample([2, 0], 2)
    assert sample.is_empty
    images = torch.arange(12, dtype=torch.uint8).view(6, 1, 1, 2)
    sample.add(images[:3], torch.tensor([0, 1, 2]))
    assert not sample.is_complete
    sample.add(images[3:], torch.tensor([2, 2, 0]))
    assert sample.is_complete
    taken, labels = sample.taken()
    assert labels.tolist() == [0, 0, 2, 2]
    assert taken[:, 0, 0, 0].tolist() == [0, 10, 4, 6]


@pytest.mark.parametrize(
    ("total", "count", "expected"),
    [(10, 4, [0, 3, 6, 9]), (3, 4, [0, 1, 2]), (5, 1, [0]), (1, 3, [0])],
)
def test_evenly_spread(total, count, expected):
    assert evenly_spread(total, count) == expected


def test_lines_are_the_means_of_the_classes():
    generator = torch.Generator().manual_seed(0)
    gates = {f"layer{i}": torch.rand(6, 5 + i, generator=generator) for i in range(20)}
    labels = torch.tensor([4, 1, 4, 1, 1, 4])
    figure = draw_channel_weights(gates, labels, None)
    assert len(figure.axes) == 16
    assert [axes.get_title().split(":")[0] for axes in figure.axes][:2] == ["layer0", "layer1"]
    assert figure.axes[-1].get_title().startswith("layer19:")
    first, second = figure.axes[0].lines
    values = gates["layer0"].numpy()
    np.testing.assert_allclose(first.get_ydata(), values[[1, 3, 4]].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(second.get_ydata(), values[[0, 2, 5]].mean(axis=0), rtol=1e-6)
    assert list(class_means(gates["layer0"], labels)) == [1, 4]


def test_gates_that_depend_on_the_image_are_told_from_those_that_do_not():
    fixed = torch.tensor([0.2, 0.8]).expand(50, 2)
    figure = draw_gates({"fixed": fixed, "alive": fixed.T.repeat(25, 1)[:50, :2].contiguous()})
    between_channels, between_images = (line.get_ydata() for line in figure.axes[1].lines)
    assert between_channels == pytest.approx([0.3, 0.0])
    assert between_images == pytest.approx([0.0, 0.3])


def test_kernels_are_the_convolutions_weights():
    network = create_backbone("resnet20", "eca", {"kernel": [3, 5, 7]})
    kernels = kernels_of(network)
    assert [len(kernel) for kernel in kernels.values()] == [3] * 3 + [5] * 3 + [7] * 3
    weight = network.layer2[1].attention.conv.weight
    assert torch.equal(kernels["layer2.1"], weight.detach().view(5))
    image = draw_kernels(kernels).axes[0].images[0].get_array().filled(np.nan)
    assert image.shape == (7, 9)
    np.testing.assert_array_equal(image[1:6, 4], weight.detach().view(5))
    assert np.isnan(image[[0, 6], 4]).all()


@pytest.mark.parametrize("options", [{"classes": 0}, {"images_per_class": 0}])
def test_numbers_must_be_positive(options):
    with pytest.raises(ValueError, match="must be at least 1"):
        AttentionFigures(**options)
