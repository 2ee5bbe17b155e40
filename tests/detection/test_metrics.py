"""AP and AR beside pycocotools' COCOeval on the same results."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from thorough import first_of

from eca_lightning.detection.metrics import DetectionScores

CLASSES = 6
"""Of which the last two are never there, and the last is never found either."""
NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
SIDE = 160


def boxes_of(rng, count):
    """Integer corners of any size; so many overlaps are simple fractions, such as thresholds."""
    corner = rng.integers(0, SIDE - 8, (count, 2))
    size = np.minimum(rng.choice([8, 16, 20, 24, 40, 60, 100, 120], (count, 2)), SIDE - corner)
    return np.concatenate([corner, corner + size], axis=1).astype(np.float32)


def masks_of(boxes):
    """The boxes without one corner each."""
    masks = np.zeros((len(boxes), SIDE, SIDE), np.uint8)
    for mask, box in zip(masks, boxes.astype(int), strict=True):
        x, y, right, bottom = box
        mask[y:bottom, x:right] = 1
        mask[y : y + (bottom - y) // 3, x : x + (right - x) // 3] = 0
    return masks


def tensors(**arrays):
    return {name: torch.from_numpy(np.asarray(values)) for name, values in arrays.items()}


def case(seed, images=12, most=140):
    """Predictions and targets of images with all that COCO's tools treat in a way of its own."""
    rng = np.random.default_rng(seed)
    predictions, targets = [], []
    for image_id in rng.permutation(1000)[:images]:
        objects = int(rng.choice([0, 1, 5, 12]))
        there = boxes_of(rng, objects)
        labels = rng.integers(0, CLASSES - 2, objects)
        masks = masks_of(there)
        area = masks.sum((1, 2)) * rng.choice([0, 0.5, 1], objects, p=[0.1, 0.2, 0.7])
        area[rng.random(objects) < 0.1] = 32**2
        crowds = rng.random(objects) < 0.2
        # Copies of what is there, moved a little, some of them of another class; and noise.
        again = rng.integers(0, objects, objects * 3) if objects else np.zeros(0, int)
        moved = there[again] + rng.integers(-4, 5, (len(again), 4))
        noise = int(rng.choice([0, 3, most]))
        boxes = np.concatenate([moved, there[: objects // 2], boxes_of(rng, noise)])
        boxes = boxes.clip(0, SIDE).astype(np.float32)
        found = np.concatenate([labels[again], labels[: objects // 2], np.zeros(noise, int)])
        found = np.where(rng.random(len(found)) < 0.1, CLASSES - 2, found)
        whole = (boxes[:, 2:] - boxes[:, :2] >= 4).all(1)
        boxes, found = boxes[whole], found[whole]
        scores = (rng.integers(1, 11, len(boxes)) / 10).astype(np.float32)  # with many ties
        if noise == most:
            found[:] = 0  # over 100 of one class
        predictions.append(tensors(boxes=boxes, scores=scores, labels=found, masks=masks_of(boxes)))
        targets.append(
            tensors(
                image_id=image_id,
                boxes=there,
                labels=labels,
                masks=masks,
                area=area.astype(np.float32),
                iscrowd=crowds,
            )
        )
    return predictions, targets


def xywh(boxes):
    return [[x, y, right - x, bottom - y] for x, y, right, bottom in boxes.tolist()]


def encoded(masks):
    return [run_lengths.encode(np.asfortranarray(mask.numpy())) for mask in masks]


def coco_eval(predictions, targets, kind, classes=None):
    """COCOeval's twelve figures, by way of COCO's own format."""
    annotations, results = [], []
    for found, there in zip(predictions, targets, strict=True):
        image_id = int(there["image_id"])
        for box, label, mask, area, crowd in zip(
            xywh(there["boxes"]),
            there["labels"].tolist(),
            encoded(there["masks"]),
            there["area"].tolist(),
            there["iscrowd"].tolist(),
            strict=True,
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label,
                    "bbox": box,
                    "segmentation": mask,
                    "area": area,
                    "iscrowd": int(crowd),
                }
            )
        own = xywh(found["boxes"]) if kind == "bbox" else encoded(found["masks"])
        key = "bbox" if kind == "bbox" else "segmentation"
        results += [
            {"image_id": image_id, "category_id": label, key: value, "score": score}
            for value, label, score in zip(
                own, found["labels"].tolist(), found["scores"].tolist(), strict=True
            )
        ]
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [
            {"id": int(there["image_id"]), "height": SIDE, "width": SIDE} for there in targets
        ],
        "categories": [{"id": k, "name": str(k)} for k in range(CLASSES)],
        "annotations": annotations,
    }
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes(results), kind)
    if classes is not None:
        evaluation.params.catIds = classes
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats.tolist()


def score(predictions, targets, masks=True, per_class=False, pieces=1, order=None, names=None):
    """Our figures, of batches of images in some order."""
    scores = DetectionScores(masks, per_class)
    order = list(range(len(targets)) if order is None else order)
    bounds = np.linspace(0, len(order), pieces + 1).astype(int)
    for start, end in pairwise(bounds):
        chosen = order[start:end]
        scores.update([predictions[i] for i in chosen], [targets[i] for i in chosen])
    return scores.compute(names)


@pytest.mark.parametrize("seed", first_of(range(8), 3))
def test_equals_cocoeval(seed):
    predictions, targets = case(seed)
    figures = score(predictions, targets)
    assert len(figures) == 24
    for kind, prefix in (("bbox", "box"), ("segm", "mask")):
        ours = [figures[f"{prefix}_{name}"] for name in NAMES]
        assert ours == pytest.approx(coco_eval(predictions, targets, kind), abs=1e-6)
        assert 0 < figures[f"{prefix}_AP"] < 1


def test_the_cases_have_what_is_special():
    everything = [case(seed) for seed in range(8)]
    images = [pair for case in everything for pair in zip(*case, strict=True)]
    counts = [(len(found["labels"]), len(there["labels"])) for found, there in images]
    assert (0, 0) in counts
    assert any(found and not there for found, there in counts)
    assert any((found["labels"] == 0).sum() > 100 for found, _ in images)
    assert any(there["iscrowd"].any() for _, there in images)
    assert any((there["area"] == 0).any() for _, there in images)
    assert all((there["labels"] < CLASSES - 2).all() for _, there in images)
    assert any((found["labels"] == CLASSES - 2).any() for found, _ in images)
    assert all(len(found["scores"].unique()) <= 10 for found, _ in images)


@pytest.mark.parametrize("overlap", [0.55, 0.6, 0.7, 0.8, 0.95])
def test_an_overlap_of_exactly_a_threshold_counts_as_in_cocoeval(overlap):
    there = np.array([[0, 0, 100, 100]], np.float32)
    found = np.array([[0, 0, 100 * overlap, 100]], np.float32)
    predictions = [
        tensors(boxes=found, scores=np.float32([0.5]), labels=[0], masks=masks_of(found))
    ]
    targets = [
        tensors(
            image_id=1,
            boxes=there,
            labels=[0],
            masks=masks_of(there),
            area=np.float32([1e4]),
            iscrowd=[0],
        )
    ]
    figures = score(predictions, targets)
    expected = coco_eval(predictions, targets, "bbox")
    assert [figures[f"box_{name}"] for name in NAMES] == pytest.approx(expected, abs=1e-6)


def test_boxes_alone_need_no_masks():
    predictions, targets = case(1)
    both = score(predictions, targets)
    for tensor in (*predictions, *targets):
        del tensor["masks"]
    alone = score(predictions, targets, masks=False)
    assert alone == {name: value for name, value in both.items() if name.startswith("box_")}


@pytest.mark.slow
@pytest.mark.parametrize("pieces", [1, 3, 12])
def test_batches_and_their_order_leave_no_trace(pieces):
    predictions, targets = case(2)
    order = np.random.default_rng(pieces).permutation(len(targets))
    assert score(predictions, targets, pieces=pieces, order=order) == score(predictions, targets)


def test_an_image_that_comes_twice_counts_once():
    predictions, targets = case(3)
    order = [*range(len(targets)), 4, 0]
    assert score(predictions, targets, order=order) == score(predictions, targets)


def test_each_class_on_request():
    predictions, targets = case(4)
    names = list("abcdef")
    figures = score(predictions, targets, per_class=True, names=names)
    of_classes = {name: value for name, value in figures.items() if "/" in name}
    assert len(of_classes) == 2 * (CLASSES - 2)  # for boxes and masks, without what is not there
    for kind, prefix in (("bbox", "box"), ("segm", "mask")):
        for label in range(CLASSES - 2):
            expected = coco_eval(predictions, targets, kind, [label])[0]
            assert of_classes[f"{prefix}_AP/{names[label]}"] == pytest.approx(expected, abs=1e-6)
    assert {k: v for k, v in figures.items() if k not in of_classes} == score(predictions, targets)
    assert "box_AP/0" in score(predictions, targets, per_class=True)


def test_nothing_found_is_0_and_nothing_there_is_minus_1():
    predictions, targets = case(5)
    nothing = [{name: tensor[:0] for name, tensor in found.items()} for found in predictions]
    figures = score(nothing, targets)
    assert figures["box_AP"] == figures["mask_AP"] == figures["box_AR100"] == 0
    empty = [
        {name: tensor if name == "image_id" else tensor[:0] for name, tensor in there.items()}
        for there in targets
    ]
    assert set(score(predictions, empty).values()) == {-1}
    assert set(score(nothing, empty).values()) == {-1}


def test_no_images_have_no_scores_and_compute_forgets():
    scores = DetectionScores()
    assert scores.compute() == {}
    predictions, targets = case(6)
    scores.update(predictions, targets)
    scores.compute()
    assert scores.compute() == {}


def test_low_precision_is_taken():
    predictions, targets = case(7)
    low = [found | {"scores": found["scores"].bfloat16()} for found in predictions]
    rounded = [found | {"scores": found["scores"].bfloat16().float()} for found in predictions]
    assert score(low, targets) == score(rounded, targets)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setattr(
        "eca_lightning.detection.metrics.find_spec",
        lambda name: None if name == "faster_coco_eval" else object(),
    )
    with pytest.raises(ImportError, match=r"faster_coco_eval: pip install 'eca-lightning\[detec"):
        DetectionScores()
