"""A run of two ranks that is stopped, whenever and however, ends as if nothing had happened."""

import os

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

pytest.importorskip("ffcv")

import killed_ranks
from forked import run_forked
from noise_run import write_run

KILLS = int(os.environ.get("KILLED_RANKS", "3"))
"""30 in `make killtest`."""
SEED = int(os.environ.get("KILLED_RANKS_SEED", "0"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600 + 120 * KILLS)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders of both runs, and what was done to the second."""
    folder = tmp_path_factory.mktemp("ranks")
    write_run(folder, devices=2, callbacks=[{"class_path": "killed_ranks.Report"}])
    stop = killed_ranks.stop_again_and_again
    try:
        printed = run_forked(folder / "logs", stop, folder, KILLS, SEED)
    except AssertionError as error:
        logs = [path.read_text()[-3000:] for path in sorted(folder.glob("*/rank*.log"))]
        pytest.fail("\n".join([f"seed {SEED}: {error}", *logs]))
    print(printed)
    versions = [folder / name / "run" / "version_0" for name in ("alone", "killed")]
    return versions, printed.splitlines()


def test_every_signal_was_sent_and_the_run_kept_one_folder(runs):
    versions, kills = runs
    assert len(kills) == KILLS
    assert {line.split()[0] for line in kills} == {"SIGKILL", "SIGTERM", "SIGUSR1"}
    for version in versions:
        assert [path.name for path in version.parent.iterdir()] == ["version_0"]
        names = {path.name for path in (version / "checkpoints").glob("*.ckpt")}
        assert names == {"best.ckpt", "last-previous.ckpt", "last.ckpt"}


@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
def test_a_run_stopped_again_and_again_ends_with_the_weights_of_one_left_alone(runs, name):
    versions, kills = runs
    alone, killed = (
        torch.load(version / "checkpoints" / name, weights_only=True) for version in versions
    )
    assert killed["lr_schedulers"] == alone["lr_schedulers"]
    for key in ("global_step", "state_dict", "optimizer_states"):
        seen = f"{key}; seed {SEED}; signal, phase, ranks, delay, step and step saved: {kills}"
        torch.testing.assert_close(killed[key], alone[key], rtol=0, atol=0, msg=seen)


def test_every_validation_was_made_and_came_to_the_same(runs):
    figures = []
    for version in runs[0]:
        events = EventAccumulator(str(version))
        events.Reload()
        figures.append({event.step: event.value for event in events.Scalars("val/loss")})
    assert figures[0] == figures[1]
    assert len(figures[0]) == 2 * -(-KILLS * 11 // 10)
