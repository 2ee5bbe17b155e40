"""The command ``export``."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eca_lightning.backbones.features import FeaturePyramid
from eca_lightning.backbones.fold_bn import fold_batch_norms
from eca_lightning.classification.import_command import load_classifier
from eca_lightning.classification.task import ImageClassifier
from eca_lightning.detection.export import DeployedDetector, detection_difference, trace_detector
from eca_lightning.detection.task import ObjectDetector
from eca_lightning.export.formats import Runner, check_format, runner, write_graph, write_weights
from eca_lightning.export.graphs import Deployed, output_difference, trace
from eca_lightning.utils.atomic import atomic_write

LIMIT = 1e-4
"""How far an output may be from PyTorch's; of outputs above 1, as a share of the largest."""

# RetinaNet's coarsest level has more than one position, which its .pt2 insists on.
_BATCHES, _SIZES = (1, 3), ((160, 160), (192, 256))


def export(
    checkpoint: Path,
    output: Path,
    preprocess: bool = False,
    features: bool = False,
    fold: bool = True,
    image_size: tuple[int, int] | None = None,
) -> None:
    """Write a trained network as a file that runs without this package.

    The end of the output's name tells the format. An ONNX file (.onnx) and a torch.export program
    (.pt2) hold a graph, of which "images", (N, C, H, W), is the input; N, H and W are open. Weights
    (.safetensors) come with a .json that names the network for eca_lightning.create_backbone.

    Before the file gets its name it is run beside PyTorch on random images. Outputs may differ by
    1e-4, or by 1e-4 of the largest where that is above 1; else no file is left.

    The graph of a detector, in ONNX alone, is for one image of one size, uint8. It returns "boxes"
    (n, 4) in pixels, "scores", "labels" from 0 and, of Mask R-CNN, "masks" (n, 28, 28) within the
    boxes.

    Args:
        checkpoint: A checkpoint of a detector, or a classifier of any kind that import reads.
        output: The file to write: .onnx, .pt2 or .safetensors. One of this name is replaced. A
            .pt2 refuses sizes for which its graph may be wrong, such as RetinaNet's up to 128.
        preprocess: Make normalization and softmax part of the graph, which then takes uint8 images
            and returns "probabilities". Without, it takes float32 images, normalized with the mean
            and the standard deviation (std) of the file's metadata, and returns "logits".
        features: Export the maps of the stages, "0", "1" and so on from the finest, in place of the
            logits; of a detector the levels of its pyramid.
        fold: Fold batch norms into convolutions, and let ONNX's exporter simplify the graph.
            Weights are never folded.
        image_size: Height and width of a detector's image, to which yours are to be scaled or
            padded. Default: a square of the detector's min_size.
    """
    check_format(output)
    if output.suffix == ".safetensors" and (preprocess or features):
        raise ValueError(
            f"{output}: a .safetensors holds weights and no graph: "
            "leave preprocess and features out, or write an .onnx or a .pt2"
        )
    model = _load(checkpoint)
    if isinstance(model, ObjectDetector) and not features:
        if output.suffix != ".onnx":
            raise ValueError(
                f"{output}: a whole detector is exported as .onnx alone, "
                "its pyramid with features as .pt2 as well"
            )
        height, width = image_size or (model.detector.transform.min_size[-1],) * 2
        eager: Deployed | DeployedDetector = DeployedDetector(model)
        batches = _random_images([(1, 3, height, width)] * 3)
    elif image_size is not None:
        raise ValueError(f"{checkpoint}: image_size is for whole detectors: leave it out")
    else:
        eager = _deployed(model, preprocess, features)
        channels = len(eager.mean)
        batches = _random_images([(n, channels, *size) for n in _BATCHES for size in _SIZES])
        if not preprocess:
            batches = [(images - eager.mean) / eager.std for images in batches]
    with atomic_write(output) as part:
        _write(eager.eval(), part, _config(model), fold, batches[0])
        run = runner(part)
        for images in batches:
            _check(eager, run, images, output)
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB")


def _load(path: Path) -> ImageClassifier | ObjectDetector:
    if not _is_detector(path):
        return load_classifier(path)
    return ObjectDetector.load_from_checkpoint(path, map_location="cpu", weights_only=True).eval()


def _is_detector(path: Path) -> bool:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # load_classifier says what is wrong with the file
        return False
    return isinstance(content, dict) and "detector" in content.get("hyper_parameters", {})


def _deployed(
    model: ImageClassifier | ObjectDetector, preprocess: bool, features: bool
) -> Deployed:
    if isinstance(model, ObjectDetector):
        network = model.detector.backbone
    else:
        network = FeaturePyramid(model.backbone) if features else model.backbone
    mean, std = (255 * torch.tensor(values) for values in _statistics(model))
    return Deployed(network, mean, std, preprocess)


def _statistics(model: ImageClassifier | ObjectDetector) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation of each channel, on the scale from 0 to 1."""
    if isinstance(model, ObjectDetector):
        return model.detector.transform.image_mean, model.detector.transform.image_std
    return model.hparams["mean"], model.hparams["std"]


def _config(model: ImageClassifier | ObjectDetector) -> dict[str, Any]:
    """What the user of a file has to know of a network."""
    kind = "detector" if isinstance(model, ObjectDetector) else "backbone"
    mean, std = map(list, _statistics(model))
    network = {kind: model.hparams[kind]}
    return network | {"mean": mean, "std": std, "class_names": model.class_names}


def _random_images(shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(256, s, dtype=torch.uint8, generator=generator) for s in shapes]


def _write(
    eager: Deployed | DeployedDetector,
    path: Path,
    config: dict[str, Any],
    fold: bool,
    images: Tensor,
) -> None:
    if path.suffix == ".safetensors":
        write_weights(eager.network, path, config)
        return
    graph = copy.deepcopy(eager)
    if isinstance(graph, DeployedDetector):
        if fold:
            graph.network.backbone = fold_batch_norms(graph.network.backbone)
    elif fold:
        graph.network = fold_batch_norms(graph.network)
    graph.to(memory_format=torch.contiguous_format)  # torch.export.save warns of any other
    program = trace(graph) if isinstance(graph, Deployed) else trace_detector(graph, images)
    with torch.inference_mode():
        names = list(eager(images))
    write_graph(program, path, names, config, optimize=fold)


def _check(eager: Deployed | DeployedDetector, run: Runner, images: Tensor, output: Path) -> None:
    """Compare the outputs of PyTorch and of a file, and say how they differ.

    Raises:
        ValueError: If they differ by more than the limit.
    """
    with torch.inference_mode():
        expected, found = eager(images), run(images)
    if isinstance(eager, DeployedDetector):
        difference = detection_difference(expected, found, max(images.shape[2:]))
        what = f"{len(expected['boxes'])} detections" if len(expected["boxes"]) else "nothing found"
    else:
        difference = output_difference(expected, found)
        what = ", ".join(expected)
    shape = " x ".join(map(str, images.shape))
    print(f"{shape}: {what}: largest difference {difference:.1e}")
    if not difference <= LIMIT:  # not a number is no success either
        raise ValueError(
            f"{output} would differ from PyTorch by {difference:.1e}, above {LIMIT:g}, and was not "
            "written: try another format, or --fold false"
        )
