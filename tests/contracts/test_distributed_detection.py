"""Scores of detections are the same, to the last digit, on any number of ranks."""

import functools
import json

import distributed_detection
import pytest
from forked import run_forked
from thorough import thorough

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DETECTORS = ["mask_rcnn", "retinanet"]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What was found on a number of ranks: figures, and predictions of each detector."""
    folder = tmp_path_factory.mktemp("ranks")

    @functools.cache
    def on(ranks):
        score = distributed_detection.score_and_train
        run_forked(folder / "logs", score, folder, ranks, ranks=ranks)
        figures = json.loads((folder / f"{ranks}.json").read_text())
        for name in DETECTORS:
            figures[name] = json.loads((folder / f"{ranks}_{name}.json").read_text())
        return figures

    on(2)  # first: one rank takes up what two have trained
    return on


@pytest.mark.parametrize("ranks", [2, *thorough(3)])
@pytest.mark.parametrize("stage", ["validate", "test"])
@pytest.mark.parametrize("name", DETECTORS)
def test_ranks_leave_no_trace_in_the_figures(found, name, stage, ranks):
    (alone,) = found(1)[f"{name} {stage}"]
    prefix = "val" if stage == "validate" else "test"
    assert 0 < alone[f"{prefix}/box_AR100"] < 1
    assert f"{prefix}/box_AP/red" in alone
    assert (f"{prefix}/mask_AP" in alone) == (name == "mask_rcnn")
    assert found(ranks)[f"{name} {stage}"] == [alone]


@pytest.mark.parametrize("name", DETECTORS)
def test_validation_within_a_run_on_two_ranks_is_that_of_its_weights(found, name):
    """The run ended, although one rank had batches without objects."""
    assert found(2)[f"{name} trained"] == found(1)[f"{name} trained"]
    assert found(2)[f"{name} trained"] != found(2)[f"{name} validate"]  # it has learned


@pytest.mark.parametrize("ranks", [2, *thorough(3)])
@pytest.mark.parametrize("name", DETECTORS)
def test_ranks_leave_no_trace_in_what_is_predicted(found, name, ranks):
    assert len(found(1)[name]) > 8
    assert found(ranks)[name] == found(1)[name]
