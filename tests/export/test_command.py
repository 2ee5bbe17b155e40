"""Exported files compared with their networks, run as other programs would run them."""

import json
import math
import re
import sys

import pytest
import torch
from lightning.pytorch import Trainer
from safetensors.torch import load_file
from thorough import thorough
from tiny_scenes import MANY_RCNN, MANY_RETINANET, TinyScenes, tiny_detector
from torch import nn

from eca_lightning import ImageClassifier, ObjectDetector, create_backbone
from eca_lightning.backbones import BackboneConfig
from eca_lightning.classification.task import IMAGENET_MEAN, IMAGENET_STD
from eca_lightning.cli import main
from eca_lightning.export import command, formats
from eca_lightning.export.graphs import output_difference

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SHAPES = [(1, 40, 56), (7, 64, 48)]
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def checkpoint(path, model):
    """What a run writes; the norms have scales, shifts and statistics of their own."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.0, generator=generator)
            for tensor in (module.bias.data, module.running_mean):
                tensor.uniform_(-0.2, 0.2, generator=generator)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path, weights_only=True)
    return path, model.eval()


def classifier(folder, name="shallow.basic_blocks", attention="eca", **options):
    torch.manual_seed(0)
    config = BackboneConfig(name, attention, num_classes=3, **options)
    model = ImageClassifier(config, mean=MEAN, std=STD)
    model.class_names = ["cat", "dog", "emu"]
    return checkpoint(folder / "model.ckpt", model)


@pytest.fixture(scope="module")
def eca(tmp_path_factory):
    return classifier(tmp_path_factory.mktemp("eca"))


def pictures(n, height, width):
    generator = torch.Generator().manual_seed(n)
    return torch.randint(256, (n, 3, height, width), dtype=torch.uint8, generator=generator)


def normalized(images):
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
    return (images / 255 - mean) / std


def session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(path, images):
    """The outputs by their names."""
    if path.suffix == ".pt2":
        return torch.export.load(path).module()(images)
    loaded = session(path)
    names = [output.name for output in loaded.get_outputs()]
    outputs = loaded.run(None, {"images": images.numpy()})
    return {name: torch.from_numpy(o) for name, o in zip(names, outputs, strict=True)}


def export(*arguments):
    main(["export", *map(str, arguments)])


def fails(capsys, *arguments):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        export(*arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.thorough  # the file with preprocessing and folded norms stands for it
def test_onnx_has_the_logits_at_any_batch_and_size(tmp_path):
    path, model = classifier(tmp_path, attention="cbam")
    output = tmp_path / "model.onnx"
    export(path, output, "--fold", "false")
    for shape in SHAPES:
        images = pictures(*shape)
        with torch.inference_mode():
            assert_same(run(output, normalized(images)), {"logits": model(images)})
    operators = {node.op_type for node in onnx.load(output).graph.node}
    assert "BatchNormalization" in operators


@pytest.fixture(scope="module")
def preprocessing(eca, tmp_path_factory):
    """The ONNX file of a classifier with preprocessing and folded norms."""
    output = tmp_path_factory.mktemp("preprocessing") / "new folder" / "model.onnx"
    export(eca[0], output, "--preprocess", "true")
    return output


@pytest.mark.slow
def test_preprocessing_takes_bytes_and_returns_probabilities(eca, preprocessing):
    for shape in SHAPES:
        images = pictures(*shape)
        with torch.inference_mode():
            assert_same(run(preprocessing, images), {"probabilities": eca[1](images).softmax(1)})
    operators = {node.op_type for node in onnx.load(preprocessing).graph.node}
    assert "BatchNormalization" not in operators


@pytest.mark.slow
def test_onnx_describes_the_network(preprocessing):
    loaded = session(preprocessing)
    (images,) = loaded.get_inputs()
    assert (images.name, images.shape) == ("images", ["batch", 3, "height", "width"])
    known = loaded.get_modelmeta().custom_metadata_map
    assert json.loads(known["class_names"]) == ["cat", "dog", "emu"]
    assert json.loads(known["mean"]) == list(MEAN)
    assert json.loads(known["std"]) == list(STD)
    assert json.loads(known["backbone"])["attention"] == "eca"
    assert [file.name for file in preprocessing.parent.iterdir()] == ["model.onnx"]


@pytest.mark.slow
def test_program_of_torch_export(eca, tmp_path):
    path, model = eca
    output = tmp_path / "model.pt2"
    export(path, output, "--preprocess", "true")
    extra = {"config.json": ""}
    program = torch.export.load(output, extra_files=extra)
    assert not any("batch_norm" in str(node.target) for node in program.graph.nodes)
    assert json.loads(extra["config.json"])["class_names"] == ["cat", "dog", "emu"]
    for shape in SHAPES:
        images = pictures(*shape)
        with torch.inference_mode():
            assert_same(program.module()(images), {"probabilities": model(images).softmax(1)})


def test_weights_and_the_json_make_the_network_again(eca, tmp_path):
    path, model = eca
    output = tmp_path / "model.safetensors"
    export(path, output)
    config = json.loads((tmp_path / "model.json").read_text())
    network = create_backbone(**config["backbone"]).eval()
    network.load_state_dict(load_file(output))
    images = pictures(*SHAPES[0])
    with torch.inference_mode():
        torch.testing.assert_close(network(normalized(images)), model(images))
    assert config["class_names"] == ["cat", "dog", "emu"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.json", "model.safetensors"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "suffix"), [("shallow.basic_blocks", ".onnx"), *thorough(("mobilenet_v2", ".pt2"))]
)
def test_features_are_the_stages(tmp_path, name, suffix):
    path, model = classifier(tmp_path, name)
    output = tmp_path / f"features{suffix}"
    export(path, output, "--features", "true")
    pyramid = create_backbone(name, "eca", num_classes=3, features_only=True).eval()
    weights = model.backbone.state_dict().items()
    named = {key.removeprefix("features."): value for key, value in weights}
    pyramid.load_state_dict(named, strict=False)
    images = normalized(pictures(2, 64, 96))
    with torch.inference_mode():
        expected = dict(pyramid(images))
    found = run(output, images)
    assert list(found) == list(expected)
    assert_same(found, expected)


def detector(folder, name):
    options = {"options": MANY_RCNN}
    if name == "retinanet":
        options = {"head_convs": 1, "options": MANY_RETINANET | {"score_thresh": 0.05}}
    torch.manual_seed(0)
    model = ObjectDetector(tiny_detector(name, **options))
    if name == "retinanet":  # fresh scores are all alike: the last digit would choose among them
        for layer in model.detector.head.classification_head.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
    return checkpoint(folder / "model.ckpt", model)


@pytest.fixture(scope="module")
def retinanet(tmp_path_factory):
    return detector(tmp_path_factory.mktemp("retinanet"), "retinanet")


@pytest.mark.slow
@pytest.mark.thorough  # a classifier's features and a whole detector stand for it
def test_features_of_a_detector_are_its_pyramid(retinanet, tmp_path, capsys):
    path, model = retinanet
    output = tmp_path / "pyramid.pt2"
    export(path, output, "--features", "true", "--preprocess", "true")
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    images = pictures(2, 160, 192)
    with torch.inference_mode():
        expected = dict(model.detector.backbone((images / 255 - mean) / std))
    assert_same(run(output, images), expected)
    assert "can only be exported as .onnx" in fails(capsys, path, output)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["retinanet", *thorough("mask_rcnn")])
def test_detectors_find_the_same_boxes(tmp_path, name, capsys, request):
    path, model = detector(tmp_path, name) if name == "mask_rcnn" else request.getfixturevalue(name)
    output = tmp_path / "detector.onnx"
    export(path, output, "--image_size", "[64, 80]")
    assert re.search(r"1 x 3 x 64 x 80: \d+ detections", capsys.readouterr().out)
    image = TinyScenes().val_scenes[0][0]
    image = nn.functional.pad(image, (0, 80 - image.shape[2], 0, 64 - image.shape[1]))
    found = run(output, image[None])
    with torch.inference_mode():
        (expected,) = model([image])
    assert len(found["scores"]) == len(expected["scores"]) > 0
    torch.testing.assert_close(found["scores"], expected["scores"], rtol=0, atol=1e-4)
    for box, label in zip(expected["boxes"], expected["labels"], strict=True):
        distance = (found["boxes"] - box).abs().amax(1)
        assert distance[found["labels"] == label].min() < 0.01
    if name == "retinanet":
        assert run(output, torch.zeros_like(image[None]))["boxes"].shape == (0, 4)


def test_a_file_that_differs_is_not_left(eca, tmp_path, capsys, monkeypatch):
    true_runner = formats.runner
    monkeypatch.setattr(
        command,
        "runner",
        lambda path: lambda images: {k: v + 0.01 for k, v in true_runner(path)(images).items()},
    )
    error = fails(capsys, eca[0], tmp_path / "model.safetensors")
    assert re.search(r"would differ from PyTorch by \d\.\de-0[23], above 0.0001", error)
    assert not list(tmp_path.iterdir())


def test_a_failure_keeps_the_previous_file(eca, tmp_path, monkeypatch):
    output = tmp_path / "model.safetensors"
    output.write_text("before")

    def full(*arguments, **options):
        raise OSError("no space left")

    monkeypatch.setattr("safetensors.torch.save", full)
    with pytest.raises(OSError, match="no space left"):
        export(eca[0], output)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["before"]


@pytest.mark.parametrize(
    ("output", "options", "message"),
    [
        ("model.pth", [], "let it end in .onnx, .pt2 (torch.export) or .safetensors"),
        (
            "model.safetensors",
            ["--preprocess", "true"],
            "leave out preprocess, features and",
        ),
        (
            "model.safetensors",
            ["--features", "true"],
            "leave out preprocess, features and",
        ),
        ("model.onnx", ["--image_size", "[64, 64]"], "image_size is for whole detectors"),
    ],
)
def test_what_cannot_be_written_is_refused(eca, tmp_path, capsys, output, options, message):
    assert message in fails(capsys, eca[0], tmp_path / output, *options)
    assert not list(tmp_path.iterdir())


def test_missing_checkpoint(tmp_path, capsys):
    error = fails(capsys, tmp_path / "nowhere.ckpt", tmp_path / "model.onnx")
    assert "nowhere.ckpt" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "library"), [("m.onnx", "onnxruntime"), ("m.safetensors", "safetensors")]
)
def test_missing_library(tmp_path, capsys, monkeypatch, name, library):
    monkeypatch.setitem(sys.modules, library, None)
    error = fails(capsys, "model.ckpt", tmp_path / name)
    assert f"need {library}, which is missing: pip install 'eca-lightning[export]'" in error


def test_no_nan_is_lost_among_outputs():
    maps = {"0": torch.ones(2), "1": torch.tensor([1.0, torch.nan])}
    assert math.isnan(output_difference(maps, maps))


def test_a_detector_whose_outputs_overflow_is_not_exported(tmp_path):
    path, _ = detector(tmp_path, "retinanet")
    checkpoint = torch.load(path, weights_only=True)
    key = "detector.head.classification_head.cls_logits.bias"
    checkpoint["state_dict"][key].fill_(3e38)
    checkpoint["state_dict"][key.replace("bias", "weight")].fill_(3e38)
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match="the outputs of its network are NaN or infinite"):
        command.export(path, tmp_path / "detector.onnx")
    assert not (tmp_path / "detector.onnx").exists()
