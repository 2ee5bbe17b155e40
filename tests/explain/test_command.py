"""Figures of a trained network: the gates by hand, and Grad-CAM by its closed form."""

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from PIL import Image
from torch.nn import functional as F

from eca_lightning import ImageClassifier, create_backbone
from eca_lightning.backbones import BackboneConfig
from eca_lightning.classification.callbacks.attention_gates import gates_of
from eca_lightning.explain import command as attention_weights
from eca_lightning.explain.command import attention
from eca_lightning.explain.grad_cam import View, draw, grad_cam

CLASSES = ("blue", "green", "red")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Checkpoints with ECA and without attention, pictures in folders, and a config of them."""
    folder = tmp_path_factory.mktemp("attention")
    rng = np.random.default_rng(0)
    for channel, name in enumerate(CLASSES):
        (folder / "images" / name).mkdir(parents=True)
        for number in range(5):
            pixels = rng.integers(0, 128, (20, 20, 3), dtype=np.uint8)
            pixels[..., 2 - channel] += 127
            Image.fromarray(pixels).save(folder / "images" / name / f"{number}.png")
    networks = {"eca": ("eca", 3), "plain": (None, 3), "named": (None, 3), "ten": ("se", 10)}
    for name, (attention_name, classes) in networks.items():
        torch.manual_seed(0)
        model = ImageClassifier(BackboneConfig("resnet20", attention_name, num_classes=classes))
        trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
        if name == "named":
            model.class_names = ["blue", "leaf", "red"]
        trainer.strategy.connect(model)
        trainer.save_checkpoint(folder / f"{name}.ckpt")
    options = {"val": str(folder / "images"), "image_size": 16, "eval_crop": "full"}
    options |= {"num_workers": 0, "batch_size": 4}
    config = {"class_path": "eca_lightning.ImageFolderDataModule", "init_args": options}
    (folder / "data.yaml").write_text(yaml.safe_dump(config))
    return folder


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
def test_all_figures_from_a_config(work, tmp_path):
    attention(work / "eca.ckpt", work / "data.yaml", against=work / "plain.ckpt", output=tmp_path)
    found = names_in(tmp_path)
    assert found == ["channel_weights.png", "gates.png", "grad_cam.png", "kernels.png"]
    for name in found:
        assert len(np.unique(np.asarray(Image.open(tmp_path / name).convert("L")))) > 20


@pytest.mark.slow
def test_a_folder_and_a_network_without_gates(work, tmp_path):
    attention(work / "plain.ckpt", work / "images", image_size=32, output=tmp_path)
    assert names_in(tmp_path) == ["grad_cam.png"]
    renamed = {"image_size": 32, "output": tmp_path / "renamed", "rename_classes": True}
    attention(work / "named.ckpt", work / "images", **renamed)
    assert names_in(tmp_path / "renamed") == ["grad_cam.png"]


@pytest.mark.slow
def test_the_images_are_those_of_the_classes(work, tmp_path, monkeypatch):
    seen = {}

    def noted(model, images, labels, names):
        seen.update(images=images, labels=labels.tolist(), names=list(names))
        return draw(images[:1], labels[:1], [], names)

    monkeypatch.setattr(attention_weights, "_overlays", noted)
    attention(
        work / "eca.ckpt",
        work / "data.yaml",
        classes=["red", "blue"],
        images_per_class=3,
        output=tmp_path,
    )
    assert seen["labels"] == [0, 0, 0, 2, 2, 2]
    assert seen["names"] == list(CLASSES)
    paths = [work / "images" / name / f"{i}.png" for name in ("blue", "red") for i in range(3)]
    expected = np.stack([np.asarray(Image.open(path)) for path in paths])
    np.testing.assert_array_equal(seen["images"].permute(0, 2, 3, 1).numpy(), expected)


def test_gates_equal_those_computed_by_hand():
    """Pool, convolve along the channels, sigmoid: each block from its parts in float64."""
    torch.manual_seed(0)
    model = ImageClassifier(
        BackboneConfig("resnet20", "eca", {"kernel": 5}, num_classes=3), mean=(0.3,) * 3
    ).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # statistics of a trained network
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    images = torch.randint(0, 256, (70, 3, 12, 12), dtype=torch.uint8)
    found = gates_of(model, images)
    network = model.backbone.double()
    with torch.no_grad():
        x = (images.double() / 255 - 0.3) / torch.tensor(model.hparams["std"]).double().view(
            3, 1, 1
        )
        x = F.relu(network.bn1(network.conv1(x)))
        for stage in ("layer1", "layer2", "layer3"):
            for number, block in enumerate(getattr(network, stage)):
                branch = block.conv2(F.relu(block.bn1(block.conv1(x))))
                branch = block.bn2(branch)
                pooled = F.pad(branch.mean(dim=(2, 3)), (2, 2))
                taps = block.attention.conv.weight.flatten()
                gates = sum(
                    taps[i] * pooled[:, i : i + branch.shape[1]] for i in range(5)
                ).sigmoid()
                torch.testing.assert_close(
                    found[f"{stage}.{number}"].double(), gates, rtol=1e-4, atol=1e-5
                )
                identity = x if block.downsample is None else block.downsample(x)
                x = F.relu(branch * gates[:, :, None, None] + identity)
    assert len(found) == 9


@pytest.mark.parametrize(
    ("name", "options"), [("resnet20", {}), ("mobilenet_v2", {"stem": "small"})]
)
def test_grad_cam_is_cam_where_the_classifier_pools(name, options):
    """Behind a pool and one linear layer, the mean gradient is the class's weights / positions."""
    torch.manual_seed(0)
    network = create_backbone(name, "eca", num_classes=3, **options).eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    inputs, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 2, 1, 0])
    maps, logits = grad_cam(network, inputs, labels)
    with torch.no_grad():
        torch.testing.assert_close(logits, network(inputs), rtol=1e-4, atol=1e-5)
        linear = network.fc if name == "resnet20" else network.classifier[-1]
        pooled = []
        linear.register_forward_hook(lambda module, arguments, output: pooled.append(arguments[0]))
        last = []
        stage = network.layer3 if name == "resnet20" else network.features
        stage.register_forward_hook(lambda module, arguments, output: last.append(output))
        network(inputs)
        positions = last[0].shape[2] * last[0].shape[3]
        weights = linear.weight[labels] / positions
        expected = F.relu(torch.einsum("nc,nchw->nhw", weights, last[0]))
    torch.testing.assert_close(last[0].mean(dim=(2, 3)), pooled[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(maps, expected, rtol=1e-3, atol=1e-6)
    assert maps.max() > 0


def test_overlays_show_the_prediction_of_each_classifier():
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    views = [
        View("with", torch.rand(2, 2, 2), torch.tensor([[0.9, 0.1], [0.2, 0.8]])),
        View("without", torch.zeros(2, 2, 2), torch.tensor([[0.3, 0.7], [0.4, 0.6]])),
    ]
    figure = draw(images, torch.tensor([0, 1]), views, ["cat", "dog"])
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["cat", "dog", "cat, 90%", "dog, 80%", "dog, 70%", "dog, 60%"]
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == ["image", "with", "without"]
    wrong = [axes.title.get_color() == "tab:red" for axes in figure.axes[2:]]
    assert wrong == [False, False, True, False]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("ten.ckpt", "data.yaml"), {}, "has 3 classes, and the classifiers have 10"),
        (("eca.ckpt", "data.yaml"), {"against": "ten.ckpt"}, "the classifiers have 3, 10"),
        (("eca.ckpt", "data.yaml"), {"classes": ["pink"]}, "classes: pink: choose from blue, gr"),
        (("eca.ckpt", "data.yaml"), {"images_per_class": 0}, "images_per_class must be at least 1"),
        (("eca.ckpt", "data.yaml"), {"image_size": 20}, "leave out image_size"),
        (("eca.ckpt", "eca.ckpt"), {}, "is not the config of a data module"),
        (("eca.ckpt", "missing.yaml"), {}, "config or folder not found"),
        (("missing.ckpt", "data.yaml"), {}, "weights not found"),
        (("named.ckpt", "data.yaml"), {}, "class 1 is 'green' in the data and 'leaf' in the check"),
    ],
)
def test_bad_input_is_named(work, tmp_path, arguments, options, message):
    if "against" in options:
        options = {"against": work / options["against"]}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        attention(*(work / name for name in arguments), **options, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
