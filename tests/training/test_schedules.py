"""WarmupThenDecay against FFCV's definition and torch's own schedulers."""

import numpy as np
import pytest
import torch
from timm.scheduler import CosineLRScheduler
from torch.optim import lr_scheduler

from eca_lightning import WarmupThenDecay

PEAK, EPOCHS, STEPS = 0.2, 8, 5


def sgd(*rates):
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]
    return torch.optim.SGD(groups, momentum=0.9)


def ours(optimizer, **options):
    return WarmupThenDecay(optimizer, EPOCHS * STEPS, STEPS, **options)


def rates(make, steps=EPOCHS * STEPS):
    """The learning rate that each optimizer step is taken with."""
    optimizer = sgd(PEAK)
    schedule = make(optimizer)
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return values


def test_triangle_is_that_of_ffcvs_recipes():
    values = rates(lambda o: ours(o, decay="linear", warmup_epochs=2, start_fraction=1e-4))
    epochs = np.arange(EPOCHS * STEPS) / STEPS
    expected = np.interp(epochs, [0, 2, EPOCHS], [1e-4 * PEAK, PEAK, 0])
    np.testing.assert_allclose(values, expected, rtol=1e-9)


@pytest.mark.parametrize("end", [0.0, 0.1])
def test_cosine_with_warmup_equals_two_of_torchs_schedulers(end):
    def chained(optimizer):
        rise = lr_scheduler.LinearLR(optimizer, 0.01, total_iters=2 * STEPS)
        fall = lr_scheduler.CosineAnnealingLR(optimizer, 6 * STEPS, eta_min=end * PEAK)
        return lr_scheduler.SequentialLR(optimizer, [rise, fall], [2 * STEPS])

    values = rates(lambda o: ours(o, warmup_epochs=2, end_fraction=end))
    np.testing.assert_allclose(values, rates(chained), rtol=1e-9)


def test_steps_are_those_of_torch():
    values = rates(lambda o: ours(o, decay="step", milestones=[3, 6.2], gamma=0.1))
    expected = rates(lambda o: lr_scheduler.MultiStepLR(o, [3 * STEPS, 31], 0.1))
    np.testing.assert_allclose(values, expected, rtol=1e-12)


def test_milestones_count_the_warmup_and_exponents_do_not():
    steps = rates(lambda o: ours(o, decay="step", milestones=[3], gamma=0.1, warmup_epochs=1))
    assert steps[STEPS : 3 * STEPS] == [PEAK] * 2 * STEPS
    assert steps[3 * STEPS] == pytest.approx(PEAK / 10)
    fall = rates(lambda o: ours(o, decay="exponential", gamma=0.98, warmup_epochs=1))
    assert fall[STEPS] == PEAK


def test_exponential_is_torchs_at_the_epochs():
    values = rates(lambda o: ours(o, decay="exponential", gamma=0.9))
    expected = rates(lambda o: lr_scheduler.ExponentialLR(o, 0.9), EPOCHS)
    np.testing.assert_allclose(values[::STEPS], expected, rtol=1e-9)
    assert values == sorted(values, reverse=True)


def test_cosine_rise_is_that_of_one_cycle():
    """torch ends rise and fall one step earlier, which moves no rate of 937 steps by 0.3%."""
    steps = 937
    options = {"warmup": "cosine", "start_fraction": 0.04, "end_fraction": 4e-6}
    values = rates(lambda o: WarmupThenDecay(o, steps, steps, warmup_epochs=0.3, **options), steps)
    torchs = {"div_factor": 25, "final_div_factor": 1e4, "cycle_momentum": False}
    expected = rates(lambda o: lr_scheduler.OneCycleLR(o, PEAK, steps + 1, **torchs), steps)
    np.testing.assert_allclose(values, expected, atol=3e-3 * PEAK)


def test_groups_keep_their_ratio_and_their_momentum():
    optimizer = sgd(0.1, 0.4)
    schedule = ours(optimizer, warmup_epochs=2)
    for _ in range(17):
        optimizer.step()
        schedule.step()
    first, second = optimizer.param_groups
    assert second["lr"] / first["lr"] == pytest.approx(4)
    assert first["momentum"] == second["momentum"] == 0.9


def test_a_run_shorter_than_its_warmup_only_rises():
    values = rates(lambda o: WarmupThenDecay(o, 3, STEPS, warmup_epochs=2), steps=3)
    np.testing.assert_allclose(values, PEAK * (0.01 + 0.99 * np.arange(3) / 10))


def test_resumes_from_its_state():
    straight = ours(sgd(PEAK), warmup_epochs=1)
    for _ in range(13):
        straight.optimizer.step()
        straight.step()
    resumed = ours(sgd(PEAK), warmup_epochs=1)
    resumed.load_state_dict(straight.state_dict())
    for schedule in (straight, resumed):
        schedule.optimizer.step()
        schedule.step()
    assert resumed.get_last_lr() == straight.get_last_lr()


def test_needs_the_number_of_steps():
    with pytest.raises(ValueError, match="lr_interval: step"):
        WarmupThenDecay(sgd(PEAK))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup_epochs": -1}, "at least 0"),
        ({"start_fraction": 1.5}, "fractions from 0 to 1"),
        ({"decay": "step", "gamma": 0.1}, "give increasing milestones"),
        ({"decay": "step", "gamma": 0.1, "milestones": [6, 3]}, "give increasing milestones"),
        ({"milestones": [3]}, "give increasing milestones"),
        ({"decay": "exponential"}, "give gamma"),
        ({"gamma": 0.1}, "give gamma"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ours(sgd(PEAK), **options)


def test_as_timm_is_timms_cosine():
    theirs = sgd(PEAK)
    schedule = CosineLRScheduler(theirs, EPOCHS, warmup_t=2, warmup_lr_init=0.02 * PEAK)
    expected = []
    for epoch in range(EPOCHS):
        schedule.step(epoch)
        expected += [theirs.param_groups[0]["lr"]] * STEPS
    options = {"warmup_epochs": 2, "start_fraction": 0.02}
    np.testing.assert_allclose(rates(lambda o: ours(o, as_timm=True, **options)), expected)
    plain = np.array(rates(lambda o: ours(o, **options)))
    assert np.abs(plain - expected).max() > 0.04 * PEAK
    with pytest.raises(ValueError, match="as_timm is for decay: cosine"):
        ours(sgd(PEAK), as_timm=True, decay="linear")
