"""Command lines as people type them, and errors in one line that name the nearest known name."""

import os
import re
import threading
from pathlib import Path

import pytest
import yaml
from command import error_of
from jsonargparse import ArgumentParser, auto_cli

from eca_lightning.lightning_cli import lightning_cli
from eca_lightning.utils.arguments import OneLineErrors, as_typed

pytestmark = pytest.mark.usefixtures("as_a_program")

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"


FIT = ["fit", "--config", str(QUICKSTART)]


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["dta", "info"], "data"),
        (["data", "wirte"], "write"),
        (["data", "write", "image-foldr"], "image-folder"),
        (["data", "write", "image-folder", "--sorce", "photos"], "source"),
        ([*FIT, "--ckptpath", "x"], "ckpt_path"),
        ([*FIT, "--trainer.max_epoch", "3"], "trainer.max_epochs"),
        ([*FIT, "--trainr.max_epochs", "3"], "trainer.max_epochs"),
        ([*FIT, "--data.batchsize", "3"], "batch_size"),
        ([*FIT, "--model.backbone.atention", "eca"], "backbone.attention"),
        ([*FIT, "--model.optimizer.lrr", "3"], "lr"),
        ([*FIT, "--model.optimzer.lr", "3"], "optimizer.lr"),
        ([*FIT, "--model.optimizer", "sgd"], "SGD"),
        ([*FIT, "--model", "ImageClasifier"], "ImageClassifier"),
        ([*FIT, "--data", "FFCVDatamodule"], "FFCVDataModule"),
        ([*FIT, "--model.optimizer", "torch.optim.Adamm"], "torch.optim.Adam"),
        ([*FIT, "--trainer.callbacks+=EarlyStoping"], "EarlyStopping"),
    ],
)
def test_the_nearest_name_is_suggested(capsys, arguments, near):
    assert f"(did you mean '{near}'?)" in error_of(capsys, *arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainr:\n  max_epochs: 3", "bad.yaml, line 2: .*did you mean 'trainer.max_epochs'"),
        ("model:\n  init_args:\n    loos: x", "bad.yaml, line 3: model: .*did you mean 'loss'"),
        ("data:\n  init_args:\n    batch-size: 4", "bad.yaml, line 3: .*did you mean 'batch_size'"),
        ("data:\n  class-path: CocoDataModule", "line 2: .*did you mean 'class_path'"),
        ("model: {class_path: ImageClasifier}", "bad.yaml: .*did you mean 'ImageClassifier'"),
        ("trainer:\n  devices: 1\n  devices: 2", "bad.yaml: line 3: 'devices' is given in line 2"),
        ("model:\n  init_args: {backbone: twice.yaml}", "twice.yaml .*line 2: 'name' is given"),
        ("model:\n  init_args:\n    optimzer: {lr: 3}", "line 3: model: .*mean 'optimizer.lr'"),
        ("model: {init_args: {optimizer: {class_path: SGD, init_args: {lr: x}}}}", "x"),
        ("trainer:\n  max_epochs: some", "bad.yaml: trainer.max_epochs: expected int, got some"),
        ("- 1", "bad.yaml: a config must be a map of options"),
        ("", "bad.yaml: a config must be a map of options"),
        ("trainer: [", "bad.yaml: line 2: did not find"),
        ("{a: " * 100_000, "bad.yaml: line 1: it is nested too deeply"),
        ("trainer: &a [*a]", "bad.yaml: line 1: an alias contains itself"),
        ("trainer: null", "trainer is not set"),
    ],
)
def test_mistakes_in_configs_are_placed(capsys, tmp_path, text, message):
    (tmp_path / "bad.yaml").write_text(text)
    (tmp_path / "twice.yaml").write_text("name: resnet20\nname: resnet18")
    error = error_of(capsys, *FIT, "--config", "bad.yaml")
    assert re.search(message, error), error


def test_aliases_that_stand_for_a_lot_end_at_once(capsys, tmp_path):
    bomb = "a0: &a0 [x, x]\n" + "".join(
        f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60)
    )
    (tmp_path / "bomb.yaml").write_text(bomb)
    error = error_of(capsys, *FIT, "--config", "bomb.yaml")
    assert "bomb.yaml: line 16: its aliases stand for over 100,000 values" in error


def command(path: Path, annotated: bool = False, top: int | None = None, batch_size: int = 1):
    """A command."""
    return path, annotated, top, batch_size


def parsed(*arguments):
    parser = type("Parser", (OneLineErrors, ArgumentParser), {})
    return auto_cli(command, args=as_typed(arguments), parser_class=parser, as_positional=False)


def test_a_yes_or_no_needs_no_value():
    assert parsed("--path", "x", "--annotated") == (Path("x"), True, None, 1)
    assert parsed("--annotated", "--path=x", "--top", "-3") == (Path("x"), True, -3, 1)
    assert parsed("--annotated", "false", "--path", "x")[1] is False
    for bare in ("--path", "--top"):
        with pytest.raises(ValueError, match=r"expected (one argument|int)"):
            parsed("--annotated", "--path", "x", bare)


def test_home_and_hyphens(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    expected = (Path("/home/me/x-y"), False, None, 4)
    assert parsed("--path", "~/x-y", "--batch-size", "4") == expected
    assert parsed("--path=~/x-y", "--batch-size=4") == expected
    assert parsed("--path", "~root/x")[0] == Path("/root/x")


def printed(capsys, *arguments):
    with pytest.raises(SystemExit):
        lightning_cli(as_typed([*FIT, *arguments, "--print_config"]))
    return yaml.safe_load(capsys.readouterr().out)


def test_nested_options_in_a_run(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "home.yaml").write_text("data: {init_args: {root: ~/data}}")
    options = ["--config", "home.yaml", "--model.compile", "--model.backbone.num-classes=4"]
    options += ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.check-finite=false"]
    options += ["--trainer.callbacks.monitor", "val/top-1", "--data.flip"]
    run = printed(capsys, *options)
    assert run["data"]["init_args"]["root"] == "/home/me/data"
    assert run["data"]["init_args"]["flip"] is True
    assert run["model"]["init_args"]["compile"] is True
    assert run["model"]["init_args"]["backbone"]["num_classes"] == 4
    stopping = run["trainer"]["callbacks"][-1]["init_args"]
    assert (stopping["check_finite"], stopping["monitor"]) == (False, "val/top-1")
    assert run["trainer"]["logger"]["init_args"]["name"].count("compile") == 0


def test_a_config_may_come_from_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=["trainer: {}\n"])
    writer.start()
    assert as_typed(["fit", "--config", str(tmp_path / "pipe")])[2] == "trainer: {}\n"
    writer.join()
