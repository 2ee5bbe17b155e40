"""What runs note of themselves, and the list of them."""

import csv
import json
import subprocess
import sys

import pytest
import yaml
from command import error_of, noise_run

from eca_lightning.cli import main
from eca_lightning.utils.atomic import lock


def note(folder, **values):
    """Write what a run notes of itself."""
    record = {
        "command": ["fit", "--config", "configs/finetune.yaml", "--config=configs/trainer/gpu.yaml"]
    }
    record |= {"weights": "torchvision:resnet50", "started": "2026-01-01T10:00:00+00:00"}
    record |= {"updated": "2026-01-01T11:30:00+00:00", "state": "finished", "epochs": 12}
    record |= {"steps": 120, "max_epochs": 30, "monitor": "val/top1", "mode": "max"}
    record |= {"best": {"epoch": 9, "val/top1": 0.75, "val/loss": 0.5}} | values
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(record))
    return folder


@pytest.fixture
def folder(tmp_path):
    runs = tmp_path / "runs"
    note(runs / "a" / "version_0")
    note(
        runs / "a" / "version_1",
        best={"epoch": 3, "val/top1": 0.875},
        updated="2026-01-03T00:00:00+00:00",
    )
    note(runs / "b" / "version_0", state="running", best={}, updated="2026-01-02T00:00:00+00:00")
    (runs / "old" / "version_0").mkdir(parents=True)
    (runs / "old" / "version_0" / "config.yaml").touch()
    note(runs / "torn" / "version_0")
    (runs / "torn" / "version_0" / "run.json").write_text('{"command": [')
    return runs


def listed(capsys, *arguments):
    capsys.readouterr()
    main(["runs", *map(str, arguments), "--json"])
    return json.loads(capsys.readouterr().out)


def test_runs_are_listed_by_score_time_or_name(folder, capsys, monkeypatch):
    rows = listed(capsys, "--folder", folder)
    assert [row["score"] for row in rows] == [0.875, 0.75, None, None, None]
    assert rows[1] == {
        "run": str(folder / "a" / "version_0"),
        "config": "finetune gpu",
        "weights": "torchvision:resnet50",
        "epochs": 12,
        "max_epochs": 30,
        "metric": "val/top1",
        "score": 0.75,
        "started": "2026-01-01T10:00:00+00:00",
        "updated": "2026-01-01T11:30:00+00:00",
        "state": "finished",
        "checkpoint": None,
        "scores": {"epoch": 9, "val/top1": 0.75, "val/loss": 0.5},
        "lower_is_better": False,
    }
    names = [
        row["run"].split("/")[-2] for row in listed(capsys, "--folder", folder, "--sort", "name")
    ]
    assert names == ["a", "a", "b", "old", "torn"]
    times = [row["updated"] for row in listed(capsys, "--folder", folder, "--sort", "when")]
    assert times == sorted(times, reverse=True)
    monkeypatch.setenv("COLUMNS", "160")
    main(["runs", "--folder", str(folder)])
    first = capsys.readouterr().out.splitlines()[2].split()
    assert first[:2] == ["a/version_1", "finetune"]
    assert "12 of 30 val/top1 0.8750 2026-01-03 00:00 finished" in " ".join(first)


def test_a_run_is_running_while_it_holds_its_lock(folder, capsys):
    def state():
        rows = listed(capsys, "--folder", folder)
        return {row["run"].split("/")[-2]: row["state"] for row in rows}

    with lock(folder / "b" / "version_0" / "checkpoints"):
        assert state()["b"] == "running"
    assert state() == {"a": "finished", "b": "stopped", "old": "unknown", "torn": "unknown"}


def test_files(folder, tmp_path, capsys):
    main(["runs", "--folder", str(folder), "--csv", str(tmp_path / "runs.csv")])
    with (tmp_path / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert (rows[0]["score"], rows[1]["val/loss"], rows[2]["score"]) == ("0.875", "0.5", "")
    capsys.readouterr()
    main(["runs", "--folder", str(folder), "--csv"])
    assert (
        capsys.readouterr().out.splitlines()[0]
        == (tmp_path / "runs.csv").read_text().splitlines()[0]
    )
    assert "must end in .json" in error_of(capsys, "runs", "--folder", folder, "--json", "a.txt")
    assert "does not exist" in error_of(capsys, "runs", "--folder", tmp_path / "gone")


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "runs",
        "runs --help",
        "data write image-folder --help",
        "data write csv --help",
        "data info --help",
    ],
)
def test_what_needs_no_torch_imports_none(tmp_path, command):
    (tmp_path / "runs").mkdir()
    code = f"""
import sys
from eca_lightning.cli import main
try:
    main({command.split()})
except SystemExit:
    pass
print([name for name in ("torch", "lightning") if name in sys.modules])
"""
    run = [sys.executable, "-c", code]
    said = subprocess.run(run, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert said.splitlines()[-1] == "[]"


@pytest.mark.slow
@pytest.mark.usefixtures("as_a_program")
def test_a_run_notes_its_scores_and_goes_on(tmp_path, capsys):
    config = tmp_path / "noise.yaml"
    options = noise_run(tmp_path)
    config.write_text(yaml.safe_dump(options))
    arguments = ["fit", "--config", str(config), "--ckpt_path", "auto"]
    main(arguments)
    (first,) = listed(capsys)
    assert (first["epochs"], first["max_epochs"], first["state"]) == (1, 1, "finished")
    assert first["config"] == "noise"
    assert first["checkpoint"] == first["run"] + "/checkpoints/best.ckpt"
    assert 0 <= first["scores"]["val/top1"] == first["score"]
    options["trainer"]["max_epochs"] = 3
    config.write_text(yaml.safe_dump(options))
    main(arguments)
    (again,) = listed(capsys)
    assert (again["started"], again["epochs"]) == (first["started"], 3)
    assert again["score"] >= first["score"]
    weights = first["checkpoint"]
    main([*arguments, "--model.weights", weights, "--trainer.logger.name", "from_weights"])
    rows = {row["run"].split("/")[1]: row["weights"] for row in listed(capsys)}
    assert rows.pop("from_weights") == weights
    assert set(rows.values()) == {""}
