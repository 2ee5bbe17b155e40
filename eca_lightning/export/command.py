"""The command ``export``."""

import copy
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eca_lightning.backbones.features import FeaturePyramid
from eca_lightning.backbones.fold_bn import fold_batch_norms
from eca_lightning.classification.import_command import load_classifier
from eca_lightning.classification.task import ImageClassifier
from eca_lightning.data.from_config import create_data_module
from eca_lightning.detection.export import DeployedDetector, detection_difference, trace_detector
from eca_lightning.detection.heads import finite_heads
from eca_lightning.detection.task import ObjectDetector
from eca_lightning.export.formats import check_format, runner, write_graph, write_weights
from eca_lightning.export.graphs import Deployed, output_difference, trace
from eca_lightning.export.libraries import Library, write_for
from eca_lightning.export.temperature import calibrate as fit
from eca_lightning.training.checkpoint_io import read_checkpoint
from eca_lightning.utils.atomic import exclusive_write

LIMIT = 1e-4
"""Maximum difference of an output from PyTorch's; of outputs above 1, relative to the largest."""

# RetinaNet's coarsest level needs more than one position, which its .pt2 asserts.
_BATCHES, _SIZES = (1, 3), ((160, 160), (192, 256))


def export(
    checkpoint: Path,
    output: Path,
    preprocess: bool = False,
    features: bool = False,
    fold: bool = True,
    image_size: tuple[int, int] | None = None,
    modules: list[str] | None = None,
    format: Library | None = None,
    calibrate: bool | Path = False,
) -> None:
    """Export a trained network to a file that runs without this package.

    The suffix of the output is the format. An ONNX file (.onnx) and a torch.export program (.pt2)
    hold a graph with the input "images", (N, C, H, W), of any N, H and W. Weights (.safetensors)
    come with a .json that describes the network for eca_lightning.create_backbone.

    The file is written only if its outputs on random images equal PyTorch's within 1e-4, or within
    1e-4 of the largest output where that is above 1.

    The graph of a detector, in ONNX only, is for one image of one size, uint8. It returns "boxes"
    (n, 4) in pixels, "scores", "labels" from 0 and, of Mask R-CNN, "masks" (n, 28, 28) within the
    boxes.

    Args:
        checkpoint: A checkpoint of a detector, or any classifier that import reads. --run with the
            folder of a run stands for its best checkpoint.
        output: The file to write or replace: .onnx, .pt2 or .safetensors. A .pt2 refuses sizes
            for which its graph may be wrong, such as RetinaNet's up to 128.
        preprocess: Make normalization and softmax part of the graph, which then takes uint8 images
            and returns "probabilities". Without, it takes float32 images, normalized with the mean
            and the standard deviation (std) of the file's metadata, and returns "logits".
        features: Export the feature maps of the stages, "0", "1" and so on from the finest, instead
            of the logits; of a detector the levels of its pyramid.
        fold: Fold batch norms into convolutions, and let ONNX's exporter simplify the graph.
            Weights are never folded.
        image_size: Height and width of a detector's image, to which to scale or pad images.
            Default: a square of the detector's min_size.
        modules: Modules of your own to import first: a checkpoint may name the attention and the
            backbones in them.
        format: Write a state dict, .pth or .safetensors, that another library loads strictly: timm,
            torchvision, or the original project of ECA-Net.
        calibrate: Divide the logits of a classifier by the temperature that fits its validation
            images best, so that its confidence is the fraction that is right. True takes the config
            of the checkpoint's run, a file is the config of other data.
    """
    for module in modules or ():
        import_module(module)
    if format is not None:
        if preprocess or features or image_size or calibrate:
            raise ValueError(
                f"a state dict of {format} is the whole network: leave out preprocess, features, "
                "image_size and calibrate"
            )
        _write_for(format, checkpoint, output)
        return
    check_format(output)
    if output.suffix == ".safetensors" and (preprocess or features or calibrate):
        raise ValueError(
            f"{output}: a .safetensors holds weights without a graph: "
            "leave out preprocess, features and calibrate, or write an .onnx or a .pt2"
        )
    model = _load(checkpoint)
    temperature = _temperature(model, checkpoint, calibrate, features) if calibrate else 1.0
    if isinstance(model, ObjectDetector):
        scaling = model.detector.transform
        mean, std = list(scaling.image_mean), list(scaling.image_std)
    else:
        mean, std = list(model.hparams["mean"]), list(model.hparams["std"])
    generator = torch.Generator().manual_seed(0)

    def random_images(*shape: int) -> Tensor:
        return torch.randint(256, shape, dtype=torch.uint8, generator=generator)

    if isinstance(model, ObjectDetector) and not features:
        if output.suffix != ".onnx":
            raise ValueError(
                f"{output}: a whole detector can only be exported as .onnx, "
                "its pyramid (features) also as .pt2"
            )
        height, width = image_size or (model.detector.transform.min_size[-1],) * 2
        eager: Deployed | DeployedDetector = DeployedDetector(model)
        batches = [random_images(1, 3, height, width) for _ in range(3)]
    elif image_size is not None:
        raise ValueError(f"{checkpoint}: image_size is for whole detectors: leave it out")
    else:
        network = model.detector.backbone if isinstance(model, ObjectDetector) else model.backbone
        if features and isinstance(model, ImageClassifier):
            network = FeaturePyramid(network)
        scales = 255 * torch.tensor(mean), 255 * torch.tensor(std)
        eager = Deployed(network, *scales, preprocess, temperature)
        batches = [random_images(n, len(mean), *size) for n in _BATCHES for size in _SIZES]
        if not preprocess:
            batches = [(images - eager.mean) / eager.std for images in batches]
    with exclusive_write(output) as part:
        config = {model.network_option: model.hparams[model.network_option]}
        config |= {"mean": mean, "std": std, "class_names": model.class_names}
        if isinstance(model, ImageClassifier):
            config |= {"preprocessing": model.transform.to_dict(), "temperature": temperature}
        with torch.inference_mode(), finite_heads(eager.eval()) as finite:
            expected = [eager(images) for images in batches]
        if not all(finite):
            raise ValueError(f"{checkpoint}: the outputs of its network are NaN or infinite")
        _write(eager, part, config, fold, batches[0])
        run = runner(part)
        with torch.inference_mode():
            for images, outputs in zip(batches, expected, strict=True):
                _check(outputs, run(images), images, output)
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB")


def _temperature(
    model: ImageClassifier | ObjectDetector, path: Path, data: bool | Path, features: bool
) -> float:
    """Fit the temperature of a classifier on the validation images of a config."""
    if isinstance(model, ObjectDetector) or features:
        raise ValueError(f"{path}: calibrate is for the probabilities of classifiers: leave it out")
    config = data if isinstance(data, Path) else path.absolute().parents[1] / "config.yaml"
    if not config.is_file():
        raise FileNotFoundError(
            f"calibrate: {config} does not exist: give the config with the validation images"
        )
    return fit(model, create_data_module(config))


def _write_for(library: Library, checkpoint: Path, output: Path) -> None:
    model = _load(checkpoint)
    if isinstance(model, ObjectDetector):
        raise ValueError(f"{checkpoint}: {library}'s formats are for classifiers, not detectors")
    channels = model.backbone_config.in_channels
    images = torch.randn(2, channels, 96, 64, generator=torch.Generator().manual_seed(0))
    write_for(library, model.backbone, model.backbone_config, output, images)


def _load(path: Path) -> ImageClassifier | ObjectDetector:
    saved: dict[str, Any] = {}
    with suppress(ValueError, FileNotFoundError):  # load_classifier explains what is wrong
        saved = read_checkpoint(path).get("hyper_parameters", {})
    if "detector" in saved:
        return ObjectDetector.load_from_checkpoint(path).eval()
    return load_classifier(path)


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
    if fold and isinstance(graph, DeployedDetector):
        graph.network.backbone = fold_batch_norms(graph.network.backbone)
    elif fold:
        graph.network = fold_batch_norms(graph.network)
    graph.to(memory_format=torch.contiguous_format)  # torch.export.save warns of any other
    program = trace(graph) if isinstance(graph, Deployed) else trace_detector(graph, images)
    with torch.inference_mode():
        names = list(eager(images))
    write_graph(program, path, names, config, optimize=fold)


def _check(
    expected: dict[str, Tensor], found: dict[str, Tensor], images: Tensor, output: Path
) -> None:
    """Print the difference between the outputs of PyTorch and of a file.

    Raises:
        ValueError: If it is above the limit, or NaN.
    """
    if "boxes" in expected:
        difference = detection_difference(expected, found, max(images.shape[2:]))
        what = f"{len(expected['boxes'])} detections"
    else:
        difference = output_difference(expected, found)
        what = ", ".join(expected)
    shape = " x ".join(map(str, images.shape))
    print(f"{shape}: {what}: largest difference {difference:.1e}")
    if not difference <= LIMIT:  # written so that NaN fails as well
        raise ValueError(
            f"{output} would differ from PyTorch by {difference:.1e}, above {LIMIT:g}, and was not "
            "written: try another format, or --fold false"
        )
