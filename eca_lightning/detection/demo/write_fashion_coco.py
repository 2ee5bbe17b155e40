"""The command ``data write fashion-coco``: scenes of Fashion-MNIST's clothes in COCO's format."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import track
from torchvision.datasets import FashionMNIST

from eca_lightning.data.datasets.fashion_mnist import DEBIAN, SPLITS, download, read_idx
from eca_lightning.detection.annotations import require_mask_library
from eca_lightning.detection.demo.scenes import Composer, Mask, Scene, SceneObject, tight
from eca_lightning.utils.checks import require

LEAST_SIZE = 160
"""Pixels of the longer side below which scenes have no room for what COCO calls large."""

FORMAT = 1
"""Number of the way scenes are composed: another one makes other scenes of the same seed."""

CLASSES = list(FashionMNIST.classes)
"""Names of the categories 1 to 10."""

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
    with the same settings are kept.

    Args:
        output: The folder to write to: train/, val/, annotations/instances_train.json and
            annotations/instances_val.json.
        source: A folder with Fashion-MNIST's four IDX files; by default those of Debian's package
            dataset-fashion-mnist, or else a download by torchvision into the output folder.
        train_scenes: Scenes for training.
        val_scenes: Scenes for validation.
        image_size: Longer side of a scene in pixels, at least 160; the shorter has five sixths.
        seed: Other seeds make other scenes.
        overwrite: Write again what is already there.
    """
    require(train_scenes >= 1, "train_scenes", "at least 1", train_scenes)
    require(val_scenes >= 1, "val_scenes", "at least 1", val_scenes)
    require(image_size >= LEAST_SIZE, "image_size", f"at least {LEAST_SIZE}", image_size)
    require(seed >= 0, "seed", "at least 0", seed)
    require_mask_library()
    counts = {"train": train_scenes, "val": val_scenes}
    settings = {
        split: {"format": FORMAT, "scenes": scenes, "image_size": image_size, "seed": seed}
        for split, scenes in counts.items()
    }
    wanted = [
        split for split in counts if overwrite or not _is_there(output, split, settings[split])
    ]
    for split in wanted:
        _require_ours(output, split)
    folder = source or (DEBIAN if DEBIAN.is_dir() else download(output)) if wanted else Path()
    for split in wanted:
        images = read_idx(folder / f"{SPLITS[split]}-images-idx3-ubyte")
        labels = read_idx(folder / f"{SPLITS[split]}-labels-idx1-ubyte")
        composer = Composer(images, labels, image_size)
        _write_split(output, split, composer, settings[split])
    for split in counts:
        _report(_annotation_file(output, split))


def _annotation_file(output: Path, split: str) -> Path:
    return output / "annotations" / f"instances_{split}.json"


def _info(path: Path) -> dict[str, Any] | None:
    """What an annotation file says of its making; None if it is not of this command."""
    try:
        info = json.loads(path.read_bytes())["info"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return info if isinstance(info, dict) and info.get("description") == DESCRIPTION else None


def _is_there(output: Path, split: str, settings: dict[str, int]) -> bool:
    """Whether a split is complete.

    Raises:
        FileExistsError: It is there with other settings.
    """
    info = _info(_annotation_file(output, split))
    if info is None:
        return False
    if info["settings"] != settings:
        raise FileExistsError(
            f"{_annotation_file(output, split)} has scenes of other settings; choose another "
            "output, or replace them with --overwrite true"
        )
    there = len(list((output / split).glob("*.jpg")))
    return there == settings["scenes"]


def _require_ours(output: Path, split: str) -> None:
    """Refuse to replace what another program has written.

    Raises:
        FileExistsError: There is something of this name that is not of this command.
    """
    file = _annotation_file(output, split)
    if (file.exists() or (output / split).exists()) and _info(file) is None:
        taken = file if file.exists() else output / split
        raise FileExistsError(
            f"{taken} is there, and is not of this command: choose another output"
        )


def _write_split(output: Path, split: str, composer: Composer, settings: dict[str, int]) -> None:
    """Write the scenes of a split under other names, and rename them when all are there."""
    scenes = settings["scenes"]
    file = _annotation_file(output, split)
    folder, partial = output / split, output / f"{split}.partial"
    partial_file = file.with_name(file.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    file.parent.mkdir(parents=True, exist_ok=True)

    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    try:
        for number in track(range(1, scenes + 1), description=f"Composing {folder}"):
            place = [settings["seed"], list(SPLITS).index(split), number]
            scene = composer.compose(np.random.default_rng(place))
            height, width = scene.pixels.shape[:2]
            image = {
                "id": number,
                "file_name": f"{number:06}.jpg",
                "height": height,
                "width": width,
            }
            images.append(image)
            annotations += _annotations(scene, number, len(annotations) + 1)
            # Colors are kept at full resolution.
            picture = Image.fromarray(scene.pixels)
            picture.save(partial / f"{number:06}.jpg", quality=95, subsampling=0)
        content = {
            "info": {"description": DESCRIPTION, "settings": settings},
            "licenses": [{"id": 1, "name": "MIT", "url": "https://opensource.org/license/mit"}],
            "images": images,
            "annotations": annotations,
            "categories": [
                {"id": i, "name": name, "supercategory": "clothes"}
                for i, name in enumerate(CLASSES, start=1)
            ],
        }
        partial_file.write_text(json.dumps(content, separators=(",", ":")), "utf-8")
        # In this order, whenever it is interrupted, what is there is known to be of this command
        # and, without its images, to be incomplete.
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial_file, file)
        os.replace(partial, folder)
    finally:
        partial_file.unlink(missing_ok=True)
        shutil.rmtree(partial, ignore_errors=True)


def _annotations(scene: Scene, image_id: int, first_id: int) -> Iterator[dict[str, Any]]:
    """What is on a scene, as COCO has it but for polygons: they would not be exact."""
    for id_, object_ in enumerate(scene.objects, start=first_id):
        rows, columns = tight(object_.visible)
        top, left = int(rows.start), int(columns.start)
        yield {
            "id": id_,
            "image_id": image_id,
            "category_id": object_.label + 1,
            "bbox": [left, top, int(columns.stop) - left, int(rows.stop) - top],
            "area": int(object_.visible.sum()),
            "iscrowd": int(object_.crowd),
            "segmentation": _run_lengths(object_),
        }


def _run_lengths(object_: SceneObject) -> dict[str, Any]:
    """The mask of an object: of crowds as numbers, of others compressed, both as COCO has them."""
    from faster_coco_eval.core import mask

    visible: Mask = object_.visible
    if not object_.crowd:
        encoded = mask.encode(np.asfortranarray(visible.astype(np.uint8)))
        return {"size": list(visible.shape), "counts": encoded["counts"].decode("ascii")}
    # Runs of 0 and 1 in turn, down the columns; the first is of 0 and may be empty.
    flat = np.concatenate([[False], visible.ravel(order="F"), [not visible[-1, -1]]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return {"size": list(visible.shape), "counts": np.diff(changes, prepend=0).tolist()}


def _report(file: Path) -> None:
    """Say what an annotation file holds, in one line."""
    content = json.loads(file.read_bytes())
    objects = [part for part in content["annotations"] if not part["iscrowd"]]
    sizes = Counter((part["area"] >= 32**2) + (part["area"] >= 96**2) for part in objects)
    print(
        f"{file}: {len(content['images']):,} scenes with {len(objects):,} objects ("
        + ", ".join(f"{sizes[i]:,} {name}" for i, name in enumerate(("small", "medium", "large")))
        + f") and {len(content['annotations']) - len(objects)} crowds"
    )
