"""What nodes need, checked against figures worked out by hand."""

import pytest

from eca_lightning.benchmarks.plan import (
    benchmark_plan,
    cores_needed,
    gradient_traffic,
    linear_rule,
)


def test_cores_decode_with_headroom_and_serve_each_process():
    # 16,000 images/s at 1,000 a core take 16 cores, a quarter more is 20.
    assert cores_needed(16_000, 1000, processes=8) == 28
    assert cores_needed(16_001, 1000, processes=8) == 29
    assert cores_needed(16_000, 1000, processes=8, headroom=1.0) == 24


def test_gradients_are_exchanged_within_the_backward_pass():
    # A million parameters are 32 Mbit; a ring of 2 carries them once. A step of 30 images at 100 a
    # second takes 0.3 s, its backward pass 0.2 s.
    assert gradient_traffic(2, 1e6, 30, 100.0) == pytest.approx(160e6)
    # Of many GPUs the ring carries them nearly twice; larger batches leave more time.
    assert gradient_traffic(1000, 1e6, 30, 100.0) == pytest.approx(320e6, rel=0.01)
    assert gradient_traffic(2, 1e6, 60, 100.0) == pytest.approx(80e6)
    assert gradient_traffic(1, 1e6, 30, 100.0) == 0


@pytest.mark.parametrize(
    ("images", "rate", "advice"),
    [
        (32, 0.0125, "as it is"),
        (256, 0.1, "as it is"),
        (512, 0.2, "needs a warm-up"),
        (8192, 3.2, "needs a warm-up"),  # Goyal et al.'s 256 GPUs of 32 images
        (8448, 3.3, "beyond the rule"),
    ],
)
def test_learning_rates_follow_the_linear_rule_to_its_limit(images, rate, advice):
    assert linear_rule(images, 0.1, 256) == (pytest.approx(rate), advice)


def test_the_tables_are_markdown(capsys):
    benchmark_plan(1000.0, 500.0, gpus_per_node=4, gpus=(4, 8), dataset_gb=100.0)
    printed = capsys.readouterr().out
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert all(line.startswith("|") and line.endswith("|") for line in lines)
    # 4,000 images/s: 10 cores with headroom and 4; 100 GB and 5 a process; 78 KB an image.
    assert ["CPU cores", "14"] in cells
    assert ["memory", "120 GB"] in cells
    assert ["reading, if memory is less", "0.31 GB/s"] in cells
    assert ["4", "1", "128", "0.05", "as it is", "320", "", "0.3"] in cells
    assert ["8", "2", "256", "0.1", "as it is", "160", "67", "0.6"] in cells


@pytest.mark.parametrize("option", ["gpus_per_node", "headroom", "dataset_images"])
def test_bad_input_is_named(option):
    with pytest.raises(ValueError, match=f"{option} must be positive, got 0"):
        benchmark_plan(1000.0, 500.0, **{option: 0})
    with pytest.raises(ValueError, match="gpus must be positive, got \\(8, 0\\)"):
        benchmark_plan(1000.0, 500.0, gpus=(8, 0))
