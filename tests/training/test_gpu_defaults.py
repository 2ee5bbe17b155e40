"""What runs do on GPUs unless told, shown without one."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins import MixedPrecision, Precision
from torch import nn

from eca_lightning import ImageClassifier, ObjectDetector
from eca_lightning.lightning_cli import lightning_cli
from eca_lightning.training.gpu_defaults import fused_where_possible, set_benchmark
from eca_lightning.utils import compilers


def trainer(device="cuda", clip=None, precision=None):
    return SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device(device)),
        gradient_clip_val=clip,
        callbacks=[],
        precision_plugin=precision or Precision(),
    )


def groups():
    one, two = nn.Linear(3, 3), nn.Linear(3, 3)
    plain = {"params": list(two.parameters()), "weight_decay": 0.0, "lr": 0.5}
    return [{"params": list(one.parameters())}, plain]


def test_sgd_on_a_gpu_becomes_fused_and_keeps_its_options():
    given = torch.optim.SGD(groups(), lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
    made = fused_where_possible(given, trainer())
    for old, new in zip(given.param_groups, made.param_groups, strict=True):
        assert new["fused"]
        assert new | {"fused": None} == old
    wanted = [[p.clone() for p in group["params"]] for group in given.param_groups]
    steps = []
    for optimizer in (given, made):
        for group, values in zip(optimizer.param_groups, wanted, strict=True):
            for parameter, value in zip(group["params"], values, strict=True):
                parameter.data.copy_(value)
                parameter.grad = torch.ones_like(value)
        optimizer.step()
        steps.append([p.clone() for group in optimizer.param_groups for p in group["params"]])
    torch.testing.assert_close(steps[0], steps[1])


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (torch.optim.SGD, trainer("cpu")),
        (torch.optim.SGD, trainer(clip=1.0)),
        (torch.optim.AdamW, trainer()),
        (lambda p, lr: torch.optim.SGD(p, lr, foreach=True), trainer()),
        (lambda p, lr: torch.optim.SGD(p, lr, fused=False), trainer()),
    ],
    ids=["cpu", "clipping", "another", "foreach", "unfused"],
)
def test_an_optimizer_is_left_as_it_is(make, where):
    given = make(groups(), lr=0.1)
    assert fused_where_possible(given, where) is given


def test_a_fused_optimizer_whose_gradients_are_clipped_is_refused():
    make = lambda params: torch.optim.SGD(params, lr=0.1, fused=True)  # noqa: E731
    given = make(groups())
    assert fused_where_possible(given, trainer(clip=1.0)) is given
    with pytest.raises(ValueError, match=r"gradient_clip_val: .* leave fused out"):
        fused_where_possible(
            given, trainer(clip=1.0, precision=MixedPrecision("bf16-mixed", "cuda"))
        )


@pytest.mark.parametrize(
    ("options", "model", "expected"),
    [
        ({}, ImageClassifier, True),
        ({"benchmark": False}, ImageClassifier, False),
        ({"deterministic": True}, ImageClassifier, False),
        ({}, ObjectDetector, False),
        ({"benchmark": True}, ObjectDetector, True),
        ({}, LightningModule, False),
    ],
)
def test_algorithms_are_chosen_by_time_for_images_of_equal_sizes(options, model, expected):
    set_benchmark(options, model)
    assert options["benchmark"] is expected


def test_the_program_sets_it(monkeypatch, as_a_program, tmp_path):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    model = {"name": "resnet20", "num_classes": 3}
    arguments = ["--model", "ImageClassifier", "--model.backbone", f"{model}".replace("'", '"')]
    arguments += ["--data", "ImageFolderDataModule", "--data.root", f"{tmp_path}"]
    arguments += ["--trainer.accelerator", "cpu", "--trainer.max_epochs", "1"]
    lightning_cli(arguments, run=False)
    assert torch.backends.cudnn.benchmark
    both = ["--trainer.deterministic", "true", "--trainer.benchmark", "true"]
    with pytest.raises(ValueError, match=r"benchmark must be false with trainer\.deterministic"):
        lightning_cli([*arguments, *both], run=False)


@pytest.fixture
def compilations(monkeypatch):
    """The modes in which something was compiled."""
    modes = []

    def compile(function, mode=None, **options):
        modes.append(mode)
        return function

    monkeypatch.setattr(torch, "compile", compile)
    return modes


@pytest.mark.parametrize("option", [None, False, True, "reduce-overhead", "max-autotune"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_training_on_a_gpu_alone_is_compiled_by_itself(
    compilations, classifier, monkeypatch, option, device
):
    monkeypatch.setattr(compilers, "find_spec", lambda name: name)
    monkeypatch.setenv("CC", "cc")
    model = classifier(compile=option)
    model._trainer = trainer(device)
    model._agree_on_classes = lambda known: None
    model.setup("validate")
    by_itself = option is None and device == "cuda"
    expected = [None if option is True else option] if option else []
    assert compilations == expected
    model.setup("fit")
    assert compilations == expected + [None] * by_itself


@pytest.mark.parametrize(
    ("has_triton", "compiler", "message"),
    [(False, "cc", "pip install triton"), (True, "", "install a C compiler")],
)
def test_a_gpu_that_lacks_what_compiles_trains_without(
    compilations, classifier, monkeypatch, has_triton, compiler, message
):
    monkeypatch.setattr(compilers, "find_spec", lambda name: name if has_triton else None)
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setenv("PATH", "")
    model = classifier()
    model._trainer = trainer("cuda")
    model._agree_on_classes = lambda known: None
    with pytest.warns(UserWarning, match=f"not compiled, .*: {message}"):
        model.setup("fit")
    assert compilations == []
