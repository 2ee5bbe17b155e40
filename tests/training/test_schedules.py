"""The one-cycle schedule against its definition."""

import pytest
import torch

from eca_lightning.training.schedules import OneCycle


def rates(steps, **options):
    parameter = torch.nn.Parameter(torch.zeros(1))
    groups = [{"params": [parameter], "lr": 0.2}]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    schedule = OneCycle(optimizer, total_steps=steps, **options)
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step() if len(values) < steps else None
    assert optimizer.param_groups[0]["momentum"] == 0.9
    return values


def test_rises_to_the_optimizers_rate_and_falls_to_the_end():
    values = rates(11, warmup_fraction=4 / 11, start_fraction=0.1, end_fraction=0.01)
    peak = values.index(max(values))
    assert values[0] == pytest.approx(0.02)
    assert max(values) == pytest.approx(0.2)
    assert values[-1] == pytest.approx(0.002)
    assert values[: peak + 1] == sorted(values[: peak + 1])
    assert values[peak:] == sorted(values[peak:], reverse=True)


def test_linear_strategy_is_a_triangle():
    values = rates(
        11, warmup_fraction=4 / 11, anneal_strategy="linear", start_fraction=0.1, end_fraction=0.1
    )
    assert values[:4] == pytest.approx([0.02, 0.08, 0.14, 0.2])
    assert values[3:] == pytest.approx([0.2 - 0.18 * k / 7 for k in range(8)])


def test_needs_the_number_of_steps():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(ValueError, match="lr_interval: step"):
        OneCycle(optimizer)
