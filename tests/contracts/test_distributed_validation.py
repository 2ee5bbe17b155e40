"""Validation and prediction give the same figures, to the last digit, on any number of ranks."""

import csv
import functools
import json
from importlib.util import find_spec

import distributed_validation
import numpy as np
import pytest
from forked import run_forked
from PIL import Image
from thorough import thorough

from eca_lightning.data.datasets.image_folder import write_image_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CLASSES = 7
NAMES = ("loss", "top1", "top5", "macro_accuracy")
SAMPLES = 26
"""In batches of four: two rows of the seventh are padding, and on two or three ranks whole ones."""


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    """What was found on a number of ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    rng = np.random.default_rng(0)
    for sample in range(SAMPLES):
        path = folder / "images" / f"{sample % CLASSES}" / f"{sample}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (24, 20, 3), np.uint8)).save(path)
    paths = sorted((folder / "images").rglob("*.png"))
    paths[5:5] = [folder / "gone.png"]
    (folder / "list.txt").write_text("\n".join(map(str, paths)))
    (folder / "one.txt").write_text(str(paths[0]))  # fewer images than ranks
    if find_spec("ffcv"):
        write_image_folder(folder / "images", folder / "images.beton", mode="raw")

    @functools.cache
    def on(ranks):
        score = distributed_validation.score_and_train
        run_forked(folder / "logs", score, folder, ranks, ranks=ranks)
        found = json.loads((folder / f"{ranks}.json").read_text())
        for table in (folder / str(ranks)).rglob("predictions.csv"):
            name = f"{table.parents[1].name} predict {table.parent.name}"
            with table.open() as file:
                found[name] = list(csv.DictReader(file))
        return found

    on(2)  # first: one rank takes up what two have trained
    return on


@pytest.fixture(params=["folder", "ffcv"])
def module(request):
    if request.param == "ffcv":
        pytest.importorskip("ffcv")
    return request.param


@pytest.mark.parametrize("ranks", [2, *thorough(3)])
@pytest.mark.parametrize("stage", ["validate", "test"])
def test_ranks_leave_no_trace_in_the_figures(figures, module, stage, ranks):
    (alone,) = figures(1)[f"{module} {stage}"]
    prefix = "val" if stage == "validate" else "test"
    assert set(alone) == {f"{prefix}/{name}" for name in NAMES}
    assert 0 < alone[f"{prefix}/top5"] < 1
    assert figures(ranks)[f"{module} {stage}"] == [alone]


def test_validation_within_a_run_on_two_ranks_is_that_of_its_weights(figures, module):
    assert figures(2)[f"{module} trained"] == figures(1)[f"{module} trained"]
    assert figures(2)[f"{module} trained"] != figures(2)[f"{module} validate"]  # it has learned


@pytest.mark.parametrize("ranks", [1, 2, *thorough(3)])
@pytest.mark.parametrize("source", ["list", "one", "images"])
def test_ranks_leave_no_trace_in_the_predictions(figures, module, source, ranks):
    if (module, source) == ("folder", "images"):
        pytest.skip("a .beton is for FFCV")
    rows = figures(ranks)[f"{module} predict {source}"]
    assert rows == figures(1)[f"{module} predict {source}"]
    assert len(rows) == {"list": SAMPLES + 1, "one": 1, "images": SAMPLES}[source]
    unreadable = [number for number, row in enumerate(rows) if row["error"]]
    assert unreadable == ([5] if source == "list" else [])
