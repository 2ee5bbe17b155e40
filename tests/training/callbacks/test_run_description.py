"""The text and the layout of a run's pages."""

import logging
import re
from dataclasses import replace

import pytest
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from tensorboard.plugins.custom_scalar import layout_pb2

from eca_lightning import (
    AttentionMonitor,
    CalibrationMonitor,
    GradientNormMonitor,
    LearningRateMonitor,
    RunDescription,
    SpeedMonitor,
)
from eca_lightning.backbones import BackboneConfig
from eca_lightning.backbones.complexity import complexity
from eca_lightning.training.callbacks.run_description import NetworkSummary, cost_table


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["se", None])
def test_costs_are_those_of_the_models_table(attention):
    plain = BackboneConfig("resnet20", num_classes=10)
    costs = [complexity(c, 28) for c in (plain, replace(plain, attention=attention))]
    expected = [(cost.parameters, cost.macs) for cost in costs]
    expected.append(tuple(b - a for a, b in zip(*expected, strict=True)))
    table = cost_table(replace(plain, attention=attention), (28, 28))
    rows = re.findall(r"\| ([+\d,]+) \| ([+\d,]+) \|$", table, re.M)
    assert [tuple(int(n.replace(",", "")) for n in row) for row in rows] == expected
    assert "28 x 24" in cost_table(plain, (28, 24))


def test_every_chart_has_its_curves(fit):
    events = fit(
        RunDescription(),
        AttentionMonitor(4),
        CalibrationMonitor(),
        GradientNormMonitor(),
        LearningRateMonitor(),
        SpeedMonitor(),
    )
    (event,) = events.events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    charts = {chart.title: chart.multiline.tag for page in layout.category for chart in page.chart}
    assert {"training loss", "validation top-1", "learning rate", "images per second"} <= set(
        charts
    )
    for title, patterns in charts.items():
        for pattern in patterns:
            assert any(re.match(pattern, tag) for tag in events.tags("scalars")), (title, pattern)


def test_a_run_without_the_command_line_shows_the_models_options(fit):
    (text,) = fit(RunDescription(), limit_train_batches=1).texts("run/config")
    shown = yaml.safe_load(text.removeprefix("```yaml\n").removesuffix("```"))
    assert shown["model"]["backbone"]["attention"] == "eca"


def test_a_run_from_the_command_line_shows_all_that_it_was_given(fit):
    parser = LightningArgumentParser()
    parser.add_argument("--seed_everything", type=int)
    parser.add_argument("--data.batch_size", type=int)
    config = parser.parse_args(["--seed_everything=3", "--data.batch_size=64"])
    saver = SaveConfigCallback(parser, config)
    (text,) = fit(RunDescription(), saver, limit_train_batches=1).texts("run/config")
    assert text == "```yaml\nseed_everything: 3\ndata:\n  batch_size: 64\n```"


def test_a_resumed_run_is_described_anew(fit, tmp_path):
    description = RunDescription()  # the same object, as in a script that fits twice
    options = {"limit_train_batches": 1, "limit_val_batches": 0}
    fit(description, ModelCheckpoint(tmp_path, "last"), **options)
    events = fit(description, checkpoint=tmp_path / "last.ckpt", max_epochs=2, **options)
    assert len(events.texts("run/config")) == len(events.texts("run/complexity")) == 1
    assert "16 x 16" in events.texts("run/complexity")[0]


def test_the_network_is_told_in_one_line(fit, caplog):
    caplog.set_level(logging.INFO, "lightning.pytorch.utilities.rank_zero")
    fit(NetworkSummary(), limit_train_batches=2)
    (line,) = [message for message in caplog.messages if message.startswith("network:")]
    cost = complexity(BackboneConfig("resnet20", "eca", num_classes=3), 16)
    expected = [cost.parameters, cost.macs, 16, 16]
    assert [int(n) for n in re.findall(r"\d+", line.replace(",", ""))] == expected


def test_frozen_parameters_are_counted(fit, classifier, caplog):
    caplog.set_level(logging.INFO, "lightning.pytorch.utilities.rank_zero")
    model = classifier()
    model.backbone.conv1.weight.requires_grad = False
    fit(NetworkSummary(), model=model, limit_train_batches=1)
    assert f"of which {model.backbone.conv1.weight.numel()} are frozen" in caplog.text
