"""The check that runs on a GPU, tiny on the CPU: it measures, and what is wrong fails it."""

import csv
import subprocess

import gpu_check
import gpu_parts
import pytest
import torch


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.usefixtures("_ffcv")
def test_all_parts_run_tiny_on_the_cpu(tmp_path):
    assert gpu_check.main(["--tiny", "--workers=1", f"--output={tmp_path}"]) == 0
    rows = rows_of(tmp_path / "checks.csv")
    assert {row["check"] for row in rows} == {"tail", "loader", "fit"}
    assert {row["verdict"] for row in rows} == {"", "ok"}
    networks = rows_of(tmp_path / "models_eager.csv")
    assert [row["model"] for row in networks] == ["resnet20", "eca_resnet20"]
    assert {row["device"] for row in rows + networks} == {"cpu"}
    summary = (tmp_path / "summary.txt").read_text()
    assert [summary.count(f" {name}: ") for name in gpu_parts.TINY] == [1] * len(gpu_parts.TINY)


def wrong_tail(z, residual, norm, gate, relu):
    return relu(1.001 * gate(norm(z)) + residual)


def test_a_tail_that_is_a_thousandth_wrong_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "TINY", ["tail"])
    monkeypatch.setattr(
        "eca_lightning.attention.fused.tail.FusedTail.forward", staticmethod(wrong_tail)
    )
    assert gpu_check.main(["--tiny", f"--output={tmp_path}"]) == 1
    wrong = [row for row in rows_of(tmp_path / "checks.csv") if row["verdict"] == "FAILED"]
    assert "error of output" in {row["metric"] for row in wrong}


def test_a_part_that_hangs_leaves_what_was_found_and_time_for_no_other(tmp_path, monkeypatch):
    place = gpu_parts.Place(tmp_path, tmp_path, "cpu")
    left = {}

    def hangs(command, *, timeout, **options):
        place.row("tail", "first", "error", 0.0, True)
        monkeypatch.setattr(gpu_check.time, "monotonic", lambda: start + timeout)
        left["given"] = timeout
        raise subprocess.TimeoutExpired(command, timeout)

    start = gpu_check.time.monotonic()
    monkeypatch.setattr(gpu_check.time, "monotonic", lambda: start)
    monkeypatch.setattr(gpu_check.subprocess, "run", hangs)
    monkeypatch.setattr(gpu_check, "PARTS", {"tail": (None, 10, 100), "loader": (None, 10, 60)})
    assert not gpu_check.check(place, budget=30)
    assert left["given"] == 30
    failed, skipped = (tmp_path / "summary.txt").read_text().splitlines()[:2]
    assert failed.startswith("FAILED")
    assert "status none after 30 s" in failed
    assert skipped == "skipped  loader: 0 s are left, and it takes 10"
    assert [row["case"] for row in rows_of(tmp_path / "checks.csv")] == ["first"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_keeps_earlier_figures(tmp_path, capsys):
    (tmp_path / "checks.csv").write_text("earlier")
    with pytest.raises(SystemExit) as stop:
        gpu_check.main([f"--output={tmp_path}"])
    assert stop.value.code == 2
    assert "torch sees no GPU" in capsys.readouterr().err
    assert (tmp_path / "checks.csv").read_text() == "earlier"
