"""The one network of a file, wherever in it, and what is said of it."""

import pytest
import torch

import eca_lightning
from eca_lightning import ImageClassifier, create_backbone
from eca_lightning.backbones import BackboneConfig
from eca_lightning.cli import main
from eca_lightning.weights.read import read_weights

RAW = create_backbone("resnet20", num_classes=5).state_dict()
EMA = {key: value + 1 if value.is_floating_point() else value for key, value in RAW.items()}


@pytest.fixture(autouse=True)
def _as_a_program(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")


def prefixed(prefix, state=RAW):
    return {prefix + key: value for key, value in state.items()}


LOOP = {"state_dict": prefixed("net.")}
LOOP["itself"] = LOOP


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (RAW, None),
        ({"model": RAW, "epoch": 3}, "those of model"),
        ({"a": {"b": RAW}, "optimizer": {"state": {0: {"momentum": torch.ones(3)}}}}, "a/b"),
        (prefixed("net."), "those of net."),
        ({"state_dict": prefixed("model."), "hyper_parameters": {"lr": 0.1}}, "state_dict/model."),
        (prefixed("module._orig_mod."), "module._orig_mod."),
        ({"state_dict": prefixed("module.encoder_q.")}, "state_dict/module.encoder_q."),
        (LOOP, "state_dict/net."),
        (
            {
                **prefixed("encoder_q."),
                **prefixed("encoder_k.", EMA),
                "queue": torch.ones(3),
            },
            f"{len(RAW) + 1} outside encoder_q. left out (encoder_k.conv1.weight",
        ),
        ({**prefixed("net."), "loss.weight": torch.ones(5)}, "1 outside net. left out (loss.weig"),
    ],
)
def test_nested_and_prefixed(capsys, content, note):
    torch.save(content, "w.pth")
    main(["import", "w.pth", "out.ckpt"])
    report = capsys.readouterr().out
    assert note is None or note in report
    found = eca_lightning.load_classifier("out.ckpt").backbone.state_dict()
    assert all(torch.equal(found[key], value) for key, value in RAW.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "ema", "raw"),
    [
        ({"state_dict": RAW, "state_dict_ema": EMA}, "state_dict_ema", "state_dict"),
        (
            {"model": RAW, "model_ema": {**prefixed("module.", EMA), "n_averaged": torch.ones(1)}},
            "model_ema/module.",
            "model",
        ),
        (
            {"student": prefixed("net."), "teacher": prefixed("net.", EMA)},
            "teacher/net.",
            "student/net.",
        ),
        (prefixed("net.") | prefixed("ema_net.module.", EMA), "ema_net.module.", "net."),
    ],
)
def test_averages_beside_trained_weights(capsys, content, ema, raw):
    torch.save(content, "w.pth")
    for options, taken, note in (
        ([], EMA, f"ema, of {ema}; raw, of {raw}, by import --weights raw"),
        (["--weights", "ema"], EMA, f"ema, of {ema}; "),
        (["--weights", "raw"], RAW, f"raw, of {raw}; ema, of {ema}, by import --weights ema"),
    ):
        main(["import", "w.pth", "out.ckpt", *options])
        assert note in capsys.readouterr().out
        found = eca_lightning.load_classifier("out.ckpt").backbone.state_dict()
        assert torch.equal(found["conv1.weight"], taken["conv1.weight"])


def test_averages_of_an_own_run():
    """Lightning saves the average as state_dict, and beside it what the run goes on with."""
    model = ImageClassifier(BackboneConfig("resnet20", num_classes=5))
    hyper_parameters = {"backbone": model.hparams["backbone"]}
    states = {"state_dict": prefixed("backbone.", EMA)}
    states["current_model_state"] = prefixed("backbone.")
    torch.save({**states, "hyper_parameters": hyper_parameters}, "best.ckpt")
    key = "conv1.weight"
    assert torch.equal(read_weights("best.ckpt").tensors[key], EMA[key])
    assert torch.equal(read_weights("best.ckpt", "raw").tensors[key], RAW[key])


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ({"generator": RAW, "critic": RAW}, [], "several networks (generator, critic): save one"),
        (prefixed("a.") | prefixed("b."), [], "several networks (a., b.): save one"),
        ({"model": RAW}, ["--weights", "ema"], "holds no ema weights, only raw ones: leave out"),
        ({"model_ema": RAW}, ["--weights", "raw"], "holds no raw weights, only ema ones"),
        ({"epoch": 3, "scale": torch.ones(3)}, [], "holds no weights"),
    ],
)
def test_not_the_one_network(capsys, content, options, message):
    torch.save(content, "w.pth")
    with pytest.raises(SystemExit) as stop:
        main(["import", "w.pth", "out.ckpt", *options])
    assert stop.value.code == 2
    assert f"w.pth {message}".replace("w.pth several", "w.pth holds several") in (
        capsys.readouterr().err
    )
