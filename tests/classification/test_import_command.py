"""``eca-lightning import``, and what can be done with its checkpoints."""

import csv
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from original_project import resnet_logits, resnet_weights, save
from PIL import Image

import eca_lightning
from eca_lightning import ImageClassifier, create_backbone
from eca_lightning.backbones import BackboneConfig
from eca_lightning.cli import main
from eca_lightning.lightning_cli import lightning_cli

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
PICTURES = torch.randint(
    0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
)


@pytest.fixture(autouse=True)
def _as_a_program(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("sys.argv", ["eca-lightning"])


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A released checkpoint's like, and its weights."""
    state = resnet_weights("eca_resnet18", [3, 5, 5, 7])
    path = tmp_path_factory.mktemp("original") / "model_best.pth.tar"
    return save(path, "eca_resnet18", state), state


def fails(capsys, *arguments):
    """Run a command that must fail as bad input does; return what it printed and its last line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["import", *map(str, arguments)])
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    return printed.out, " ".join(printed.err.split())


@pytest.mark.slow
def test_an_original_checkpoint_becomes_ours(original, tmp_path, capsys):
    path, state = original
    main(["import", str(path), "models/best.ckpt"])
    report = capsys.readouterr().out
    assert "resnet18 with attention eca (kernel [3, 5, 5, 7])" in report
    assert "eca_resnet18" in report
    assert [p.name for p in (tmp_path / "models").iterdir()] == ["best.ckpt"]
    expected = resnet_logits(state, (PICTURES / 255 - MEAN) / STD)
    model = ImageClassifier.load_from_checkpoint("models/best.ckpt", weights_only=True).eval()
    assert len(model.class_names) == 1000
    assert model.class_names[0] == "tench"
    for loaded in (
        model,
        eca_lightning.load_classifier("models/best.ckpt"),
        eca_lightning.load_classifier(path),
    ):
        assert not loaded.training
        assert loaded.class_names == model.class_names
        with torch.inference_mode():
            torch.testing.assert_close(loaded(PICTURES), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "lines", "message"),
    [
        (
            ["--backbone.name", "resnet18", "--backbone.attention", "eca"],
            ["layer2.0.attention.conv.weight", "of another kernel size k = 5 instead of 3"],
            "of another kernel size (",
        ),
        (
            ["--backbone.name", "resnet34", "--backbone.attention", "eca"],
            ["layer1.2.conv1.weight", "missing"],
            "missing (layer1.2.conv1.weight",
        ),
        (
            ["--backbone.name", "resnet18"],
            ["layer4.1.attention.conv.weight", "unexpected"],
            "8 unexpected (",
        ),
    ],
)
def test_what_does_not_match_is_listed_and_nothing_is_written(
    original, tmp_path, capsys, options, lines, message
):
    printed, error = fails(capsys, original[0], "out.ckpt", *options)
    for line in lines:
        assert line in printed
    assert f"{original[0]} does not match {options[1]} with attention" in error
    assert message in error
    assert "--strict false" in error
    assert not list(tmp_path.iterdir())


def test_a_new_classifier_if_asked_for(original, capsys):
    torch.save(create_backbone("resnet20", num_classes=5).state_dict(), "five.pth")
    of_three = ["--backbone.name", "resnet20", "--backbone.num_classes", "3"]
    _, error = fails(capsys, "five.pth", "three.ckpt", *of_three)
    assert "2 of another number of classes (fc.weight 5 instead of 3" in error
    main(["import", "five.pth", "three.ckpt", *of_three, "--strict", "false"])
    assert "of another number of classes 5 instead of 3" in capsys.readouterr().out
    model = eca_lightning.load_classifier("three.ckpt")
    five = torch.load("five.pth", weights_only=True)
    assert torch.equal(model.backbone.layer3[2].conv1.weight, five["layer3.2.conv1.weight"])
    assert model.backbone.fc.weight.shape == (3, 64)


def test_attention_may_be_added(capsys):
    torch.manual_seed(0)
    torch.save(create_backbone("resnet20", num_classes=5).state_dict(), "plain.pth")
    eca = ["--backbone.name", "resnet20", "--backbone.attention", "eca"]
    main(["import", "plain.pth", "eca.ckpt", *eca])
    assert "starts neutrally" in capsys.readouterr().out
    model, plain = (
        eca_lightning.load_classifier("eca.ckpt"),
        eca_lightning.load_classifier("plain.pth"),
    )
    assert any(".attention." in key for key in model.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(model(PICTURES), plain(PICTURES))


def checkpoint_of_a_run(path, config, **options):
    """What a run of the classifier writes."""
    model = ImageClassifier(config, **options)
    model.class_names = [f"class {i}" for i in range(config.num_classes)]
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path)
    return model.eval()


@pytest.mark.slow
def test_own_checkpoints_keep_what_they_know(capsys):
    config = BackboneConfig("resnet20", "se", num_classes=3, in_channels=1, blur_pool=True)
    model = checkpoint_of_a_run("run.ckpt", config, mean=[0.2], std=[0.3])
    main(["import", "run.ckpt", "small.ckpt"])
    for path in ("run.ckpt", "small.ckpt"):
        loaded = eca_lightning.load_classifier(path)
        assert loaded.class_names == ["class 0", "class 1", "class 2"]
        with torch.inference_mode():
            assert torch.equal(loaded(PICTURES[:, :1]), model(PICTURES[:, :1]))
    plain = ["--backbone.name", "resnet20", "--backbone.attention", "se"]
    classes = ["--backbone.num_classes", "3", "--backbone.in_channels", "1"]
    _, error = fails(capsys, "run.ckpt", "other.ckpt", *plain, *classes)
    assert (
        "run.ckpt is of another network: blur_pool is True in the checkpoint and False here"
        in error
    )


def test_attention_without_weights_is_not_lost(capsys):
    checkpoint_of_a_run("run.ckpt", BackboneConfig("resnet20", "se_var1", num_classes=3))
    plain = ["--backbone.name", "resnet20", "--backbone.num_classes", "3"]
    _, error = fails(capsys, "run.ckpt", "out.ckpt", *plain)
    assert "attention is 'se_var1' in the checkpoint and None here" in error


def test_images_of_another_scale(capsys):
    torch.save(create_backbone("resnet20", num_classes=3, in_channels=1).state_dict(), "gray.pth")
    _, error = fails(capsys, "gray.pth", "gray.ckpt")
    assert "images of 1 channel(s)" in error
    assert "as in --mean '[0.5]' --std '[0.5]'" in error
    main(["import", "gray.pth", "gray.ckpt", "--mean", "[0.286]", "--std", "[0.353]"])
    model = ImageClassifier.load_from_checkpoint("gray.ckpt").eval()
    assert model.mean.flatten().tolist() == pytest.approx([255 * 0.286])
    gray = [Image.fromarray(p.permute(1, 2, 0).numpy()).convert("L") for p in PICTURES]
    pixels = torch.stack([torch.from_numpy(np.array(image)) for image in gray]).unsqueeze(1)
    with torch.inference_mode():
        logits = model(pixels)
        assert torch.equal(model(PICTURES), logits)  # color images, as Pillow turns them gray
        assert torch.equal(model(pixels.expand(-1, 3, -1, -1)), logits)
    with pytest.raises(ValueError, match=r"images have 4 channels, but .*in_channels is 1"):
        model(torch.zeros(1, 4, 32, 32, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["--mean", "[127.5, 127.5, 127.5]"], "mean must be values from 0 to 1"),
        (["--std", "[0.2, 0, 0.2]"], "std must be above 0"),
        (["--std", "[0.2]"], "for images of 3 channel(s)"),
    ],
)
def test_impossible_mean_and_std(capsys, values, message):
    torch.save(create_backbone("resnet20", num_classes=3).state_dict(), "w.pth")
    assert message in fails(capsys, "w.pth", "out.ckpt", *values)[1]


@pytest.mark.parametrize(
    ("source", "output", "message"),
    [
        ("gone.pth", "out.ckpt", "weights not found: gone.pth"),
        ("page.pth", "out.ckpt", "page.pth is a web page"),
        ("page.pth", "out.safetensors", "out.safetensors is none: let it end in .ckpt"),
        ("run.ckpt", "run.ckpt", "run.ckpt is the file to be imported"),
    ],
)
def test_bad_input(capsys, tmp_path, source, output, message):
    (tmp_path / "page.pth").write_text("<html>Not found</html>")
    checkpoint_of_a_run("run.ckpt", BackboneConfig("resnet20", num_classes=3))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert message in fails(capsys, source, output)[1]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.fixture
def run(tmp_path):
    """A run on twelve pictures of three classes, and weights for it to begin with."""
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("blue", "green", "red"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(4):
                pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    sets = {split: str(tmp_path / "images" / split) for split in ("train", "val")}
    options = {"batch_size": 4, "num_workers": 0, "train_crop": "full", "eval_crop": "full"}
    backbone = {"name": "resnet20", "attention": "eca", "num_classes": 3, "stochastic_depth": 0.1}
    model = {"backbone": backbone, "label_smoothing": 0.1}
    data = sets | options | {"predict": sets["val"]}
    config = {
        "model": {"class_path": "eca_lightning.ImageClassifier", "init_args": model},
        "data": {"class_path": "eca_lightning.ImageFolderDataModule", "init_args": data},
        "trainer": {"accelerator": "cpu", "max_epochs": 1, "logger": False},
    }
    config["trainer"] |= {"enable_progress_bar": False, "default_root_dir": str(tmp_path / "runs")}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    torch.manual_seed(0)
    network = create_backbone("resnet20", "eca", num_classes=3)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    main(["import", "weights.pth", "weights.ckpt"])
    return ["--config", "run.yaml", "--ckpt_path", "weights.ckpt"]


@pytest.mark.slow
def test_runs_take_an_imported_checkpoint(run, tmp_path, capsys):
    command = lightning_cli(["fit", *run])
    assert command.trainer.global_step == 3
    assert command.trainer.current_epoch == 1
    # The checkpoint says of the run only what belongs to the weights.
    assert command.model.label_smoothing == 0.1
    assert command.model.hparams["backbone"]["stochastic_depth"] == 0.1
    capsys.readouterr()
    main(["validate", *run])
    assert "val/top1" in capsys.readouterr().out
    main(["predict", *run, "--output", "table.csv"])
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    model = eca_lightning.load_classifier("weights.ckpt")
    with Image.open(rows[0]["image"]) as picture:
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        best = model(pixels).softmax(dim=1).max()
    assert float(rows[0]["probability_1"]) == pytest.approx(float(best), abs=1e-4)


def test_importing_the_package_imports_no_torch():
    code = "import eca_lightning, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="nothing_here"):
        _ = eca_lightning.nothing_here
