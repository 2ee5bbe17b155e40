"""``--trainer.deterministic true`` refuses none of our operations, shown without a GPU."""

import sys

import pytest
import torch
from tiny_scenes import collate, scene, tiny_detector
from torch.utils._python_dispatch import TorchDispatchMode

from eca_lightning import ImageClassifier, ObjectDetector
from eca_lightning.attention import attention_names
from eca_lightning.backbones import BackboneConfig
from eca_lightning.classification.losses import classification_loss
from eca_lightning.classification.metrics import TopKAccuracy
from eca_lightning.classification.mixing import Mixing

REFUSED = {
    *(f"aten::_adaptive_avg_pool{d}d_backward" for d in (2, 3)),
    *(f"aten::adaptive_max_pool{d}d_backward" for d in (2, 3)),
    *("aten::avg_pool3d_backward", "aten::max_pool3d_with_indices_backward"),
    *(f"aten::fractional_max_pool{d}d_backward" for d in (2, 3)),
    *(f"aten::max_unpool{d}d" for d in (2, 3)),
    *(f"aten::reflection_pad{d}d_backward" for d in (1, 2, 3)),
    *(f"aten::replication_pad{d}d_backward" for d in (1, 2, 3)),
    *("aten::upsample_linear1d_backward", "aten::upsample_trilinear3d_backward"),
    *(f"aten::{n}_backward" for n in ("upsample_bilinear2d", "_upsample_bilinear2d_aa")),
    *(f"aten::{n}_backward" for n in ("upsample_bicubic2d", "_upsample_bicubic2d_aa")),
    *(f"aten::grid_sampler_{d}d_backward" for d in (2, 3)),
    *("aten::nll_loss2d_forward", "aten::_ctc_loss_backward", "aten::_embedding_bag"),
    *("aten::put_", "aten::histc", "aten::bincount", "aten::kthvalue", "aten::median"),
    *("aten::nanmedian", "aten::scatter_reduce", "aten::scatter_reduce_"),
    *("torchvision::_roi_align_backward", "torchvision::_deform_conv2d_backward"),
    *(f"torchvision::_{n}_backward" for n in ("ps_roi_align", "roi_pool", "ps_roi_pool")),
}
"""Operations without a deterministic form on GPUs: documented at `use_deterministic_algorithms`."""


class Recorded(TorchDispatchMode):
    """Collects the names of all operations."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.name().partition(".")[0])
        return function(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def _deterministic():
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def operations(model, loss):
    """The names of the operations of a training step, with SGD and clipped gradients."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with Recorded() as recorded:
        loss().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert "aten::convolution_backward" in recorded.names
    return recorded.names


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["none", *attention_names()])
def test_classifiers(attention):
    backbone = BackboneConfig("resnet10_half", attention, num_classes=3, blur_pool=True)
    model = ImageClassifier(backbone)
    images = torch.randint(256, (4, 3, 40, 40), dtype=torch.uint8)
    labels = torch.tensor([0, 2, -1, 1])
    top1 = TopKAccuracy()

    def loss():
        logits = model(images)
        top1.update(logits, labels)
        mixed, targets = Mixing(mixup=0.2, cutmix=1.0)(model.normalize(images), labels, 3)
        both = (logits, labels, "cross_entropy"), (model.backbone(mixed), targets)
        losses = (
            classification_loss(*both[0], 0.1),
            classification_loss(*both[1], "binary_cross_entropy", 0.1, 0.2),
        )
        return sum(losses)

    assert not operations(model, loss) & REFUSED


@pytest.mark.slow
@pytest.mark.parametrize("name", ["faster_rcnn", "mask_rcnn", "retinanet"])
def test_detectors(name, monkeypatch):
    """On GPUs torchvision then has a RoIAlign of other operations, which it is made to use here."""
    monkeypatch.setattr(sys.modules["torchvision.ops.roi_align"], "_has_ops", lambda: False)
    model = ObjectDetector(tiny_detector(name))
    images, targets = collate([scene(1, objects=2), scene(2, objects=1)])

    def loss():
        return sum(model.detector([i / 255 for i in images], targets).values())

    with torch.compiler.set_stance("force_eager"):
        assert not operations(model, loss) & REFUSED


def test_an_operation_without_a_deterministic_form_would_be_found():
    layers = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.AdaptiveAvgPool2d(3))
    found = operations(layers, lambda: layers(torch.rand(1, 1, 8, 8)).sum()) & REFUSED
    assert found == {"aten::_adaptive_avg_pool2d_backward"}
