"""A run that is killed, whenever and however often, ends as if nothing had happened."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("ffcv")

from eca_lightning.data.ffcv.sidecar import Encoding
from eca_lightning.data.ffcv.write import write_beton

pytestmark = pytest.mark.timeout(900)  # one minute on a quiet machine

KILLS = 5
SEED = int(os.environ.get("KILLED_RUNS_SEED", "0"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """For one and two decoding threads: weights and momenta of both runs, and the kills."""
    rng = np.random.default_rng(0)
    coarse = [Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)) for _ in range(82)]
    samples = [
        (np.array(image.resize((40, 32 + i % 7), Image.Resampling.BICUBIC)), i % 4)
        for i, image in enumerate(coarse)
    ]
    driver = Path(__file__).with_name("killed_runs.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2", "NUMBA_OPT": "0"}
    outcomes = {}
    for threads in (1, 2):
        folder = tmp_path_factory.mktemp("runs")
        write_beton(
            samples,
            folder / "train.beton",
            class_names=list("abcd"),
            source="noise",
            encoding=Encoding("jpg"),
        )
        arguments = [str(folder), str(threads), str(KILLS), str(SEED + threads)]
        done = subprocess.run(
            [sys.executable, str(driver), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"seed {SEED}: {done.stdout}{done.stderr[-3000:]}"
        alone, killed = (
            torch.load(folder / f"{name}.pt", weights_only=True) for name in ("alone", "killed")
        )
        outcomes[threads] = alone, killed, done.stdout.splitlines()
    return outcomes


@pytest.mark.parametrize("threads", [1, 2])
def test_a_run_killed_again_and_again_ends_with_the_weights_of_one_left_alone(runs, threads):
    alone, killed, kills = runs[threads]
    seen = f"seed {SEED}; batch, delay and last checkpoint of each kill: {kills}"
    assert len(kills) == KILLS, seen
    assert len({line.split()[-1] for line in kills}) > 2, seen  # it did go on in between
    torch.testing.assert_close(killed, alone, rtol=0, atol=0, msg=lambda what: f"{what}\n{seen}")


def test_the_number_of_decoding_threads_leaves_no_trace_in_the_weights(runs):
    torch.testing.assert_close(runs[1][0], runs[2][0], rtol=0, atol=0)
