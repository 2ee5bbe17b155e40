"""Detections as files and pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_scenes import CATEGORY_IDS, CLASSES, TinyScenes, tiny_detector
from torchvision.ops import box_convert

from eca_lightning import (
    CocoDataModule,
    DetectionImages,
    DetectionWriter,
    ObjectDetector,
    PredictionWriter,
)
from eca_lightning.detection.callbacks import images as detection_images
from eca_lightning.detection.callbacks.writer import file_names

FILES = ["00.jpg", "01.jpg", "02.jpeg", "03.jpg", "04.png", "05.jpg", "05.png", "sub/05.jpg"]


@pytest.fixture
def data(tmp_path):
    scenes = TinyScenes(batch_size=3)
    scenes.paths = [tmp_path / "in" / name for name in FILES]
    return scenes


@pytest.fixture(scope="module")
def masks():
    torch.manual_seed(0)
    model = ObjectDetector(tiny_detector("mask_rcnn"))
    model.class_names, model.category_ids = CLASSES, CATEGORY_IDS
    return model


def trainer(folder, *callbacks, **options):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return Trainer(
        accelerator="cpu", default_root_dir=folder, callbacks=list(callbacks), **(quiet | options)
    )


def predict(folder, model, data, *callbacks):
    batches = trainer(folder, *callbacks).predict(model, datamodule=data)
    return [found for batch in batches for found in batch]


def test_writes_results_that_cocos_tools_read(masks, data, tmp_path):
    output = tmp_path / "new" / "found.json"
    predictions = predict(tmp_path, masks, data, DetectionWriter(output, annotated=False))
    results = json.loads(output.read_text())
    assert [path.name for path in output.parent.iterdir()] == ["found.json"]
    assert len(results) == sum(len(found["boxes"]) for found in predictions) > 8
    assert [r["image_id"] for r in results] == sorted(r["image_id"] for r in results)
    for image_id, found in enumerate(predictions):
        own = [result for result in results if result["image_id"] == image_id]
        boxes = box_convert(found["boxes"], "xyxy", "xywh").tolist()
        assert [result["bbox"] for result in own] == boxes
        assert [result["score"] for result in own] == found["scores"].tolist()
        ids = [CATEGORY_IDS[label] for label in found["labels"]]
        assert [result["category_id"] for result in own] == ids
        assert {result["file_name"] for result in own} <= {FILES[image_id]}
        decoded = [run_lengths.decode(result["segmentation"]) for result in own]
        for mask, expected in zip(decoded, found["masks"].numpy(), strict=True):
            assert np.array_equal(mask, expected)

    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": i} for i in range(len(FILES))],
        "categories": [{"id": i} for i in CATEGORY_IDS],
        "annotations": [],
    }
    truth.createIndex()
    read = truth.loadRes(str(output))
    assert len(read.getAnnIds()) == len(results)
    assert read.anns[1]["bbox"] == results[0]["bbox"]


def test_annotates_each_image_under_a_name_of_its_own(masks, data, tmp_path):
    predict(tmp_path, masks, data, DetectionWriter(tmp_path / "out" / "a.json", min_score=0.3))
    folder = tmp_path / "out" / "annotated"
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    renamed = {"02.jpeg": "02.jpeg.jpg", "04.png": "04.png.jpg", "05.png": "05.png.jpg"}
    assert names == {renamed.get(name, name) for name in FILES}
    for (image, _), name in zip(data.val_scenes, FILES, strict=True):
        with Image.open(folder / renamed.get(name, name)) as drawn:
            factor = drawn.height / image.shape[1]
            assert factor == drawn.width / image.shape[2] == int(factor) > 1


def test_default_place_and_boxes_without_masks_files_or_classes(tmp_path):
    torch.manual_seed(0)
    model = ObjectDetector(tiny_detector("faster_rcnn"))
    scenes = TinyScenes()
    scenes.class_names = scenes.category_ids = None
    predict(tmp_path, model, scenes, DetectionWriter())
    results = json.loads((tmp_path / "detections.json").read_text())
    assert set(results[0]) == {"image_id", "category_id", "bbox", "score"}
    assert {result["category_id"] for result in results} <= {0, 1}
    drawn = {path.name for path in (tmp_path / "annotated").iterdir()}
    assert drawn == {f"{i}.jpg" for i in range(8)}


def test_images_that_cannot_be_read_are_left_out(masks, tmp_path, caplog):
    names = ["a.png", "b.png", "deep/c.png", "d.png"]
    for name, (image, _) in zip(names, TinyScenes().val_scenes, strict=False):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "in" / name)
    (tmp_path / "in" / "b.png").write_bytes(b"no image")
    scenes = CocoDataModule(predict=tmp_path / "in", num_workers=0, eval_batch_size=2)
    with caplog.at_level("INFO"):
        predictions = predict(tmp_path, masks, scenes, DetectionWriter(tmp_path / "out" / "f.json"))
    assert len(predictions) == 3
    results = json.loads((tmp_path / "out" / "f.json").read_text())
    places = {(result["image_id"], result["file_name"]) for result in results}
    assert places == {(0, "a.png"), (2, "d.png"), (3, "deep/c.png")}
    assert f"cannot read the image {tmp_path}/in/b.png" in caplog.text
    assert "1 images could not be read" in caplog.text
    drawn = {path.name for path in (tmp_path / "out" / "annotated").rglob("*.jpg")}
    assert drawn == {"a.png.jpg", "c.png.jpg", "d.png.jpg"}


def test_names_of_a_list_with_both_kinds_of_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert file_names([Path("a/1.jpg"), tmp_path / "b" / "2.jpg"]) == ["a/1.jpg", "b/2.jpg"]
    assert file_names([Path("a/1.jpg")]) == ["1.jpg"]
    assert file_names([Path("a/../b/1.jpg"), Path("c/2.jpg")]) == ["b/1.jpg", "c/2.jpg"]


@pytest.mark.slow
def test_nothing_found_is_an_empty_list(data, tmp_path):
    config = tiny_detector("faster_rcnn", options={"box_score_thresh": 1.0})
    predict(tmp_path, ObjectDetector(config), data, DetectionWriter())
    assert json.loads((tmp_path / "detections.json").read_text()) == []


def test_each_writer_is_for_its_own_task(masks, data, tmp_path):
    writers = PredictionWriter(tmp_path / "table.csv"), DetectionWriter(tmp_path / "found.json")
    predict(tmp_path, masks, data, *writers)
    assert (tmp_path / "found.json").exists()
    assert not (tmp_path / "table.csv").exists()


@pytest.mark.slow
def test_ground_truth_and_detections_side_by_side(masks, data, tmp_path, monkeypatch):
    drawn, draw = [], detection_images.draw_objects

    def draw_and_keep(image, objects, *options):
        drawn.append((image, objects))
        return draw(image, objects, *options)

    monkeypatch.setattr(detection_images, "draw_objects", draw_and_keep)
    logger = TensorBoardLogger(tmp_path, default_hp_metric=False)
    trainer(tmp_path, DetectionImages(images=4), logger=logger).validate(
        masks, datamodule=data, verbose=False
    )
    assert len(drawn) == 8
    for (image, target), left, right in zip(data.val_scenes, drawn[::2], drawn[1::2], strict=False):
        assert torch.equal(left[0], image)
        assert torch.equal(right[0], image)
        assert torch.equal(left[1]["boxes"], target["boxes"])
        assert "scores" in right[1]
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0})
    events.Reload()
    assert len(events.Images("val/detections")) == 1


def test_draws_masks_boxes_and_names_and_what_is_sure_enough():
    image = torch.full((3, 500, 600), 100, dtype=torch.uint8)
    mask = torch.zeros(2, 500, 600, dtype=torch.uint8)
    mask[0, 120:180, 150:180] = 1
    mask[1, 400:450, 400:450] = 1
    objects = {
        "boxes": torch.tensor([[100.0, 100, 200, 200], [400, 400, 450, 450]]),
        "labels": torch.tensor([0, 1]),
        "scores": torch.tensor([0.9, 0.2]),
        "masks": mask,
    }
    drawn = detection_images.draw_objects(image, objects, ["cat", "dog"], min_score=0.5)
    assert drawn.shape == image.shape
    changed = (drawn != image).any(0)
    assert changed[100, 100:200].all()
    assert changed[130:170, 160].all()
    assert not changed[300:].any()
    assert not changed[150, 110:140].any()
    assert changed[100:118, 104:140].any()  # the name
    assert (image == 100).all()
    everything = detection_images.draw_objects(image, objects, None)
    assert (everything != image).any(0)[400:].any()


def test_ranges_are_checked():
    with pytest.raises(ValueError, match="DetectionImages: images must be at least 1, got 0"):
        DetectionImages(images=0)
    with pytest.raises(ValueError, match="min_score must be from 0 to 1, got 2"):
        DetectionImages(min_score=2)
    with pytest.raises(ValueError, match="--min_score must be from 0 to 1, got -1"):
        DetectionWriter(min_score=-1)
