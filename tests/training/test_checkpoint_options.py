"""With --ckpt_path, what a command gives wins, and what it leaves out is the checkpoint's."""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from thorough import thorough

from eca_lightning.classification.callbacks import confusion
from eca_lightning.export.command import export
from eca_lightning.lightning_cli import lightning_cli

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_a_program")]

BASE = ["--model", "ImageClassifier", "--model.backbone.name", "resnet20"]
BASE += ["--model.backbone.num_classes", "3", "--data", "conftest.TinyData"]
BASE += ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
FIT = ["--trainer.num_sanity_val_steps", "0", "--trainer.enable_model_summary", "false"]
TRAINED = ["--model.backbone.attention", "eca", "--model.label_smoothing", "0.1"]
TRAINED += ["--model.mixing.mixup", "0.2", "--model.flip_tta", "true"]
TRAINED += ["--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "0.02"]
TRAINED += ["--model.optimizer.momentum", "0.8"]
TRAINED += ["--model.lr_scheduler", "StepLR", "--model.lr_scheduler.step_size", "1"]
TRAINED += ["--model.lr_scheduler.gamma", "0.5"]


@pytest.fixture(scope="module")
def last(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    where = ["--trainer.logger.save_dir", str(folder), "--trainer.max_epochs", "1"]
    lightning_cli(["fit", *BASE, *FIT, *TRAINED, *where])
    (path,) = folder.rglob("last.ckpt")
    return path


def validated(last, *options):
    return lightning_cli(["validate", *BASE, "--ckpt_path", str(last), *options]).model


def resumed(last, *options):
    where = ["--trainer.logger.save_dir", str(Path.cwd()), "--trainer.max_epochs", "2"]
    given = ["--ckpt_path", str(last), *where, *options]
    return lightning_cli(["fit", *BASE, *FIT, *TRAINED[4:], *given])


def test_what_the_command_leaves_out_is_as_in_the_checkpoint(last):
    model = validated(last)
    assert model.backbone_config.attention == "eca"
    assert (model.label_smoothing, model.flip_tta, model.mixing.mixup) == (0.1, True, 0.2)


@pytest.mark.parametrize("kind", ["option", *thorough("file")])
def test_what_the_command_gives_wins_even_if_it_is_the_default(last, tmp_path, kind):
    options = ["--model.label_smoothing", "0", "--model.flip_tta", "false", "--model.mixing"]
    options += ["null", "--model.loss", "binary_cross_entropy"]
    if kind == "file":
        given = {"label_smoothing": 0, "flip_tta": False, "mixing": None}
        given["loss"] = "binary_cross_entropy"
        (tmp_path / "run.yaml").write_text(yaml.safe_dump({"model": {"init_args": given}}))
        options = ["--config", "run.yaml"]
    model = validated(last, *options)
    assert (model.label_smoothing, model.flip_tta, model.mixing) == (0, False, None)
    assert model.loss == "binary_cross_entropy"


@pytest.mark.parametrize(
    "options",
    [
        ["--model.backbone.attention_options", "{kernel: [3, 3, 3]}"],
        [
            "--model.backbone.attention",
            "eca_lightning.attention.eca.EfficientChannelAttention",
        ],
        *thorough(
            ["--model.backbone.attention_options", "{kernel: equation}"],
            ["--model.backbone.stem", "small"],
            ["--model.backbone.stochastic_depth", "0.1"],
        ),
    ],
)
def test_the_same_network_in_other_words_is_taken(last, options):
    validated(last, *options)


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (["--model.backbone.attention", "none"], "attention is 'eca' in the checkpoint and 'none'"),
        (["--model.backbone.attention_options.kernel", "5"], "attention_options is {} in the"),
        (["--model.backbone.blur_pool", "true"], "blur_pool is False in the checkpoint and True"),
    ],
)
def test_another_network_is_refused(last, options, difference):
    with pytest.raises(ValueError, match=f"is of another architecture: {difference}"):
        validated(last, *options)


def test_a_resumed_run_takes_the_learning_rate_that_is_given(last):
    (group, *_) = resumed(last).trainer.optimizers[0].param_groups
    assert (group["initial_lr"], group["lr"]) == pytest.approx((0.02, 0.02 / 4))
    run = resumed(last, "--model.optimizer.lr", "0.2", "--model.optimizer.weight_decay", "0.01")
    (group, *_) = run.trainer.optimizers[0].param_groups
    assert (group["initial_lr"], group["lr"]) == pytest.approx((0.2, 0.2 / 4))
    assert (group["weight_decay"], group["momentum"]) == (0.01, 0.8)
    run = resumed(last, "--model.lr_scheduler.gamma", "0.1", "--model.lr_base_batch_size", "4")
    (group, *_) = run.trainer.optimizers[0].param_groups
    assert (group["initial_lr"], group["lr"]) == pytest.approx((0.04, 0.04 / 2 / 10))


def test_the_options_of_the_optimizer_that_are_left_out_are_the_checkpoints(last):
    where = ["--trainer.logger.save_dir", str(Path.cwd()), "--trainer.max_epochs", "2"]
    scheduler = ["--model.lr_scheduler", "StepLR", "--model.lr_scheduler.step_size", "1"]
    run = lightning_cli(["fit", *BASE, *FIT, *scheduler, "--ckpt_path", str(last), *where])
    (group, *_) = run.trainer.optimizers[0].param_groups
    assert (group["initial_lr"], group["momentum"]) == (0.02, 0.8)
    assert group["lr"] == pytest.approx(0.02 / 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--model.optimizer", "torch.optim.AdamW"],
            "model.optimizer is SGD in the checkpoint and",
        ),
        (["--model.lr_scheduler", "null"], "model.lr_scheduler is StepLR in the checkpoint and"),
        *thorough(
            (
                ["--model.lr_interval", "step"],
                "lr_interval: step gives the schedule total_steps and",
            ),
            (["--model.no_decay_norm_bias", "true"], "no_decay_norm_bias"),
        ),
    ],
)
def test_a_resumed_run_refuses_what_the_state_does_not_fit(last, options, message):
    with pytest.raises(ValueError, match=message):
        resumed(last, *options)


def changed(last, tmp_path, **hyper_parameters):
    checkpoint = torch.load(last, weights_only=True)
    checkpoint["hyper_parameters"] |= hyper_parameters
    torch.save(checkpoint, tmp_path / "changed.ckpt")
    return tmp_path / "changed.ckpt"


def test_nothing_that_a_checkpoint_names_is_imported(last, tmp_path, monkeypatch):
    (tmp_path / "foreign.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    saved = torch.load(last, weights_only=True)["hyper_parameters"]["backbone"]
    path = changed(last, tmp_path, backbone=saved | {"attention": "foreign.Attention"})
    with pytest.raises(ValueError, match=r"give --model\.backbone\.attention foreign\.Attention"):
        validated(path)
    with pytest.raises(ValueError, match=r"attention is 'foreign\.Attention' in the checkpoint"):
        validated(path, "--model.backbone.attention", "eca")
    options = {"kernel": {"class_path": "foreign.Kernel"}}
    for own in ({"_class_path": "foreign.ImageClassifier"}, {"loss": {"class_path": "foreign.X"}}):
        validated(changed(last, tmp_path, **own))
    path = changed(last, tmp_path, backbone=saved | {"attention_options": options})
    with pytest.raises(ValueError, match="is of another architecture"):
        validated(path)
    assert "foreign" not in sys.modules


def test_options_that_the_model_does_not_have_are_named(last, tmp_path):
    path = changed(last, tmp_path, shade="red")
    with pytest.raises(ValueError, match=r"the options in \S+changed.ckpt do not fit .*shade"):
        validated(path)


OTHERS = ["--data.class_names", "[cherry, leaf, sky]"]


def test_training_from_a_checkpoint_takes_the_class_names_of_the_data(last, monkeypatch):
    drawn = []
    draw = confusion.draw
    monkeypatch.setattr(
        confusion, "draw", lambda counts, names: drawn.append(names) or draw(counts, names)
    )
    run = resumed(last, *OTHERS, "--reports", "[ConfusionReport]")
    path = run.trainer.checkpoint_callback.best_model_path
    export(Path(path), Path("new.safetensors"))
    names = [*drawn, torch.load(path, weights_only=True)["class_names"]]
    names.append(json.loads(Path("new.json").read_text())["class_names"])
    assert names == [["cherry", "leaf", "sky"]] * 3


@pytest.mark.parametrize("command", ["predict", *thorough("validate", "test")])
def test_scoring_takes_other_class_names_only_if_told(last, command):
    arguments = [command, *BASE, *OTHERS, "--ckpt_path", str(last)]
    if command == "predict":
        arguments += ["--output", "images.csv"]
    difference = "class 0 is 'cherry' in the data and 'red' in the checkpoint"
    with pytest.raises(ValueError, match=difference):
        lightning_cli(arguments)
    assert not list(Path.cwd().iterdir()), "a command that is refused leaves an empty folder"
    run = lightning_cli([*arguments, "--rename_classes", "true"])
    assert run.model.class_names == ["cherry", "leaf", "sky"]
    if command == "predict":
        assert "cherry" in Path("images.csv").read_text()
