"""Frozen stages, rates by depth, and Lightning's callbacks that freeze and average."""

import pytest
import torch
from forked import run_forked
from frozen_ranks import unfreeze_on_ranks
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    EarlyStopping,
    StochasticWeightAveraging,
)

from eca_lightning import ExponentialMovingAverage, ImageClassifier, WarmupThenDecay
from eca_lightning.backbones import BackboneConfig
from eca_lightning.backbones.network import layout_of
from eca_lightning.classification.finetuning import FineTuning
from eca_lightning.training.optim import parameter_groups


def warmed(optimizer, **horizon):
    return WarmupThenDecay(optimizer, warmup_epochs=0.5, **horizon)


STEPWISE = {"lr_scheduler": warmed, "lr_interval": "step"}


class Seen(Callback):
    """Remembers the network's state and the optimizer's rates at the end of each epoch."""

    def __init__(self):
        self.states, self.rates = [], []

    def on_train_start(self, trainer, pl_module):
        self.on_train_epoch_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer, pl_module):
        state = pl_module.backbone.state_dict()
        self.states.append({key: value.clone() for key, value in state.items()})
        self.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    def changed(self, epoch):
        before, after = self.states[epoch : epoch + 2]
        return {key for key in after if not torch.equal(before[key], after[key])}


@pytest.fixture
def train(make_trainer, tiny_data):
    def run(*callbacks, classes=3, model=None, **options):
        torch.manual_seed(0)
        backbone = BackboneConfig("resnet20", "eca", num_classes=classes)
        classifier = ImageClassifier(backbone, **(STEPWISE | (model or {})))
        seen = Seen()
        defaults = {"max_epochs": 3, "limit_train_batches": 3, "limit_val_batches": 1}
        trainer = make_trainer(*callbacks, seen, logger=False, **(defaults | options))
        trainer.fit(classifier, datamodule=tiny_data)
        return classifier, seen, trainer

    return run


def stage_of(key):
    return key.split(".")[0]


@pytest.mark.parametrize("average", [False, True])
def test_frozen_stages_stay_to_the_bit_until_they_are_unfrozen(train, average):
    callbacks = [ExponentialMovingAverage(0.5)] if average else []
    frozen = {"conv1", "bn1", "layer1"}
    _, seen, _ = train(*callbacks, model={"finetuning": FineTuning(freeze=2, unfreeze_epoch=2)})
    for epoch in (0, 1):
        assert {stage_of(key) for key in seen.changed(epoch)} == {"layer2", "layer3", "fc"}
    assert {stage_of(key) for key in seen.changed(2)} == frozen | {"layer2", "layer3", "fc"}
    statistics = {key for key in seen.changed(2) if "running" in key}
    assert {"bn1.running_mean", "bn1.running_var"} <= statistics


def test_all_stages_frozen_train_the_classifier_alone(train):
    model, seen, trainer = train(model={"finetuning": FineTuning(freeze=4)})
    assert {key for epoch in range(3) for key in seen.changed(epoch)} == {"fc.weight", "fc.bias"}
    assert sum(p.numel() for g in trainer.optimizers[0].param_groups for p in g["params"]) == 195
    assert [p.requires_grad for p in model.backbone.fc.parameters()] == [True, True]


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_layer_decay_is_timms(name):
    timm, optim = pytest.importorskip("timm"), pytest.importorskip("timm.optim")
    theirs = timm.create_model(name)
    expected = {}
    names = {parameter: key for key, parameter in theirs.named_parameters()}
    for group in optim.param_groups_layer_decay(theirs, weight_decay=0.1, layer_decay=0.7):
        for parameter in group["params"]:
            expected[names[parameter]] = group["lr_scale"], group["weight_decay"]
    network = BackboneConfig(name).build()
    names = {parameter: key for key, parameter in network.named_parameters()}
    scales = FineTuning(layer_decay=0.7, head_lr_factor=1.0).lr_scales(network)
    found = {}
    for group in parameter_groups(network, True, scales):
        for parameter in group["params"]:
            found[names[parameter]] = group.get("lr_scale", 1.0), group.get("weight_decay", 0.1)
    assert found == expected


def test_rates_follow_the_schedule_at_their_fractions(train):
    finetuning = FineTuning(layer_decay=0.5, head_lr_factor=10)
    model, _, trainer = train(model={"finetuning": finetuning, "no_decay_norm_bias": True})
    rates = {p: g["lr"] for g in trainer.optimizers[0].param_groups for p in g["params"]}
    network = model.backbone
    last = rates[network.layer3[2].conv2.weight]
    assert rates[network.fc.bias] == pytest.approx(rates[network.fc.weight])
    assert rates[network.fc.weight] == pytest.approx(20 * last)
    assert rates[network.layer1[0].bn1.weight] == pytest.approx(last / 2**8)
    assert rates[network.conv1.weight] == pytest.approx(last / 2**9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"freeze": -1}, "freeze must be at least 0"),
        ({"freeze": 5}, "freeze must be from 0 to 4"),
        ({"freeze": 1, "unfreeze_epoch": 0}, "unfreeze_epoch must be at least 1"),
        ({"unfreeze_epoch": 1}, "unfreeze_epoch must be left out without"),
        ({"layer_decay": 0.0}, "layer_decay must be above 0"),
        ({"layer_decay": 1.1}, "layer_decay must be above 0"),
        ({"head_lr_factor": 0.0}, "head_lr_factor must be above 0"),
        ({"head_lr_factor": float("nan")}, "head_lr_factor must be above 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ImageClassifier(BackboneConfig("resnet20"), finetuning=FineTuning(**options))


@pytest.mark.parametrize("classes", [3, None])
def test_backbone_finetuning_trains_the_classifier_and_then_all(train, classes):
    callback = BackboneFinetuning(1, lambda epoch: 3.0, backbone_initial_ratio_lr=0.1)
    _, seen, trainer = train(callback, classes=classes, model={"lr_scheduler": None})
    first = seen.changed(0)  # with the batch norms, as Lightning says
    assert {"fc.weight", "fc.bias"} <= first
    assert not [key for key in first if "conv" in key or "downsample.0" in key]
    assert {"conv1.weight", "layer3.2.conv2.weight", "fc.weight"} <= seen.changed(1)
    assert seen.rates[2] == pytest.approx([0.1, 0.01])
    assert seen.rates[3] == pytest.approx([0.1, 0.03])
    assert trainer.lightning_module.num_classes == 3


def test_backbone_finetuning_keeps_its_rate_beside_a_schedule(train):
    _, seen, _ = train(BackboneFinetuning(1, lambda epoch: 1.0))
    assert seen.rates[2][1] == seen.rates[3][1] < seen.rates[2][0]


@pytest.mark.slow
def test_several_ranks_train_alike_what_is_unfrozen(tmp_path):
    printed = run_forked(tmp_path, unfreeze_on_ranks, ranks=2)
    assert printed.split() == ["frozen", "trained", "alike", "refused"]


def test_callbacks_that_freeze_what_is_frozen_are_refused(train):
    frozen = {"finetuning": FineTuning(freeze=1)}
    for callback in (BackboneFinetuning(), StochasticWeightAveraging(0.1)):
        with pytest.raises(ValueError, match=r"excludes model\.finetuning\.freeze"):
            train(callback, model=frozen)


def test_early_stopping_ends_the_run_when_its_metric_stays(train):
    stop = EarlyStopping("val/loss", patience=2, min_delta=1e9)
    _, _, trainer = train(stop, max_epochs=20)
    assert trainer.current_epoch == 3
    assert stop.stopped_epoch == 2


def test_stochastic_weight_averaging_ends_with_the_mean_of_the_last_epochs(train):
    averaging = StochasticWeightAveraging(0.01, swa_epoch_start=1, annealing_epochs=1)
    model, seen, _ = train(averaging, max_epochs=3, classes=None)
    means = torch.stack([state["conv1.weight"] for state in seen.states[:3]]).mean(dim=0)
    torch.testing.assert_close(model.backbone.conv1.weight.detach(), means)
    assert layout_of(model.backbone).classifier == "fc"
    assert model.num_classes == 3


def test_averages_follow_the_classes_of_the_data(train):
    model, _, trainer = train(ExponentialMovingAverage(0.9), classes=None, max_epochs=1)
    assert model.backbone.fc.out_features == model.num_classes == 3
    assert trainer.callback_metrics["val/loss"].isfinite()
