"""The command ``data write fashion-coco``: scenes of Fashion-MNIST's clothes in COCO's format."""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets import FashionMNIST

from eca_lightning.data.datasets.torchvision import read_fashion_mnist
from eca_lightning.detection.annotations import require_mask_library
from eca_lightning.detection.demo.scenes import Composer, Scene, SceneObject, bounding_slices
from eca_lightning.utils.atomic import exclusive_folder
from eca_lightning.utils.checks import require
from eca_lightning.utils.reports import progress

CLASSES = list(FashionMNIST.classes)
"""Names of the categories 1 to 10."""

Arrays = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Images and labels of a split."""

DESCRIPTION = "Fashion-MNIST's clothes in scenes (eca-lightning data write fashion-coco)"


def write_fashion_coco(
    output: Path = Path("data/fashion_coco"),
    source: Path | None = None,
    train_scenes: int = 9600,
    val_scenes: int = 400,
    image_size: int = 192,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Compose scenes of Fashion-MNIST's clothes with exact boxes and masks, in COCO's format.

    Items of ten classes, small, medium and large by COCO's measure, lie on varied backgrounds and
    partly hide each other; some scenes are empty, some have a crowd. Those of train/ are of
    Fashion-MNIST's training images, those of val/ of its test images. Scenes that are already there
    with the same settings and of the same source are kept.

    Args:
        output: The folder to write to: train/, val/, annotations/instances_train.json and
            annotations/instances_val.json.
        source: A folder with Fashion-MNIST's four IDX files; by default those of Debian's package
            dataset-fashion-mnist, or else a download by torchvision into the output folder.
        train_scenes: Scenes for training.
        val_scenes: Scenes for validation.
        image_size: Longer side of a scene in pixels, at least 160; the shorter is five sixths.
        seed: Other seeds make other scenes.
        overwrite: Write again what is already there.
    """
    require(train_scenes >= 1, "train_scenes", "at least 1", train_scenes)
    require(val_scenes >= 1, "val_scenes", "at least 1", val_scenes)
    # Objects that COCO calls large do not fit into smaller scenes.
    require(image_size >= 160, "image_size", "at least 160", image_size)
    require(seed >= 0, "seed", "at least 0", seed)
    require_mask_library()
    # A change of the scenes that a seed gives is another format.
    settings = {
        split: {"format": 1, "scenes": scenes, "image_size": image_size, "seed": seed}
        for split, scenes in (("train", train_scenes), ("val", val_scenes))
    }
    arrays: dict[str, Any] = {}
    with suppress(FileNotFoundError):  # complete scenes need no source
        arrays = read_fashion_mnist(source, output, download=False)
    complete = {
        split: _is_complete(output, split, settings[split], arrays.get(split), overwrite)
        for split in settings
    }
    if not all(complete.values()) and not arrays:
        arrays = read_fashion_mnist(source, output)
    for split in settings:
        if complete[split]:
            print(f"{output / split}: kept, as settings and source, if it is there, are the same")
        else:
            _write_split(output, split, arrays[split], settings[split])
        _report(_annotation_file(output, split))


def _annotation_file(output: Path, split: str) -> Path:
    return output / "annotations" / f"instances_{split}.json"


def _digest(arrays: Arrays) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def _is_complete(
    output: Path,
    split: str,
    settings: dict[str, int],
    arrays: Arrays | None,
    overwrite: bool,
) -> bool:
    """Check whether a split is written; raise a FileExistsError if it may not be replaced."""
    file, folder = _annotation_file(output, split), output / split
    if not file.exists() and not folder.exists():
        return False
    try:
        info = json.loads(file.read_bytes())["info"]
        is_ours = info["description"] == DESCRIPTION
    except (OSError, ValueError, KeyError, TypeError):
        is_ours = False
    if not is_ours:
        taken = file if file.exists() else folder
        raise FileExistsError(f"{taken} was not written by this command: choose another output")
    if overwrite:
        return False
    if info["settings"] != settings:
        raise FileExistsError(
            f"{file} has scenes of other settings; choose another output, or replace them with "
            "--overwrite true"
        )
    if arrays and info.get("source") != _digest(arrays):
        raise FileExistsError(
            f"{file} has scenes of another source, or does not note which: choose another output, "
            "or replace them with --overwrite true"
        )
    return len(list(folder.glob("*.jpg"))) == settings["scenes"]


def _write_split(output: Path, split: str, arrays: Arrays, settings: dict[str, int]) -> None:
    """Write the scenes of a split to a temporary folder and move them when all are written."""
    file, folder = _annotation_file(output, split), output / split
    file.parent.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    composer = Composer(*arrays, settings["image_size"])
    numbers = range(1, settings["scenes"] + 1)
    bar = progress(f"Composing {folder}", len(numbers))
    with exclusive_folder(folder) as temporary, bar as advance:
        partial, partial_file = temporary / split, temporary / file.name
        partial.mkdir()
        for number in numbers:
            key = [settings["seed"], int(split == "val"), number]
            scene = composer.compose(np.random.default_rng(key))
            height, width = scene.pixels.shape[:2]
            name = f"{number:06}.jpg"
            images.append({"id": number, "file_name": name, "height": height, "width": width})
            annotations += _annotations(scene, number, len(annotations) + 1)
            # Without subsampling colors keep their full resolution.
            Image.fromarray(scene.pixels).save(partial / name, quality=95, subsampling=0)
            advance(1)
        content = {
            "info": {
                "description": DESCRIPTION,
                "settings": settings,
                "source": _digest(arrays),
            },
            "licenses": [{"id": 1, "name": "MIT", "url": "https://opensource.org/license/mit"}],
            "images": images,
            "annotations": annotations,
            "categories": [
                {"id": i, "name": name, "supercategory": "clothes"}
                for i, name in enumerate(CLASSES, start=1)
            ],
        }
        partial_file.write_text(json.dumps(content, separators=(",", ":")), "utf-8")
        # In this order an interruption leaves what this command knows to be its own and incomplete.
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial_file, file)
        os.replace(partial, folder)


def _annotations(scene: Scene, image_id: int, first_id: int) -> Iterator[dict[str, Any]]:
    """Describe the objects of a scene in COCO's format, with run lengths, which are exact."""
    for id_, object_ in enumerate(scene.objects, start=first_id):
        y, x = bounding_slices(object_.visible)
        yield {
            "id": id_,
            "image_id": image_id,
            "category_id": object_.label + 1,
            "bbox": [x.start, y.start, x.stop - x.start, y.stop - y.start],
            "area": int(object_.visible.sum()),
            "iscrowd": int(object_.crowd),
            "segmentation": _run_lengths(object_),
        }


def _run_lengths(object_: SceneObject) -> dict[str, Any]:
    """Encode the mask of an object: uncompressed for crowds and else compressed, as COCO does."""
    from faster_coco_eval.core import mask

    visible = object_.visible
    if not object_.crowd:
        encoded = mask.encode(visible.astype(np.uint8))
        return {"size": list(visible.shape), "counts": encoded["counts"].decode("ascii")}
    # Runs of 0 and 1 in turn, down the columns; the first is of 0 and may be empty.
    flat = np.concatenate([[False], visible.ravel(order="F"), [not visible[-1, -1]]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return {"size": list(visible.shape), "counts": np.diff(changes, prepend=0).tolist()}


def _report(file: Path) -> None:
    """Print the content of an annotation file in one line."""
    content = json.loads(file.read_bytes())
    objects = [part for part in content["annotations"] if not part["iscrowd"]]
    sizes = Counter((part["area"] >= 32**2) + (part["area"] >= 96**2) for part in objects)
    print(
        f"{file}: {len(content['images']):,} scenes with {len(objects):,} objects ("
        + ", ".join(f"{sizes[i]:,} {name}" for i, name in enumerate(("small", "medium", "large")))
        + f") and {len(content['annotations']) - len(objects)} crowds"
    )
