"""A run that is killed, whenever and however often, ends as if nothing had happened."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("ffcv")

import killed_runs
from forked import run_forked

from eca_lightning.data.ffcv.sidecar import Encoding
from eca_lightning.data.ffcv.write import write_beton

# Of one process; test_killed_ranks.py has two.
pytestmark = [pytest.mark.slow, pytest.mark.thorough, pytest.mark.timeout(900)]

KILLS = 4
SEED = int(os.environ.get("KILLED_RUNS_SEED", "0"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Weights and momenta of each run, by its name, and the kills."""
    rng = np.random.default_rng(0)
    coarse = [Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)) for _ in range(82)]
    samples = [
        (np.array(image.resize((40, 32 + i % 7), Image.Resampling.BICUBIC)), i % 4)
        for i, image in enumerate(coarse)
    ]
    folder = tmp_path_factory.mktemp("runs")
    write_beton(
        samples,
        folder / "train.beton",
        class_names=list("abcd"),
        source="noise",
        encoding=Encoding("jpg"),
    )
    kill = killed_runs.kill_again_and_again
    printed = run_forked(folder / "logs", kill, folder, KILLS, SEED)
    weights = {
        name: torch.load(folder / f"{name}.pt", weights_only=True)
        for name in ("one", "two", "killed")
    }
    return weights, printed.splitlines()


def test_a_run_killed_again_and_again_ends_with_the_weights_of_one_left_alone(runs):
    weights, kills = runs
    seen = f"seed {SEED}; batch, delay and last checkpoint of each kill: {kills}"
    assert len(kills) == KILLS, seen
    assert len({line.split()[-1] for line in kills}) > 2, seen  # it did go on in between
    torch.testing.assert_close(
        weights["killed"], weights["two"], rtol=0, atol=0, msg=lambda what: f"{what}\n{seen}"
    )


def test_the_number_of_decoding_threads_leaves_no_trace_in_the_weights(runs):
    torch.testing.assert_close(runs[0]["one"], runs[0]["two"], rtol=0, atol=0)
