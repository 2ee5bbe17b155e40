"""Small scenes of colored rectangles, and small detectors that can learn them."""

import json

import torch
from lightning.pytorch import LightningDataModule
from PIL import Image
from torch.utils.data import DataLoader

from eca_lightning.backbones import BackboneConfig
from eca_lightning.detection.networks import DetectorConfig

CLASSES = ["red", "blue"]
CATEGORY_IDS = [3, 7]
SMALL_RCNN = {
    "rpn_pre_nms_top_n_train": 60,
    "rpn_pre_nms_top_n_test": 60,
    "rpn_post_nms_top_n_train": 30,
    "rpn_post_nms_top_n_test": 20,
    "box_batch_size_per_image": 16,
    "box_detections_per_img": 8,
}
SMALL_RETINANET = {"topk_candidates": 60, "detections_per_img": 8, "score_thresh": 0.0}
MANY_RCNN = {
    "rpn_post_nms_top_n_test": 60,
    "rpn_nms_thresh": 0.5,
    "box_detections_per_img": 30,
    "box_score_thresh": 0.0,
}
MANY_RETINANET = {"topk_candidates": 60, "detections_per_img": 60, "score_thresh": 0.0}
"""As these, so many detections that some are right before anything is learned."""


def tiny_detector(name="faster_rcnn", attention="eca", **options):
    """A detector for images of about 64 pixels."""
    defaults = {
        "backbone": BackboneConfig("shallow.basic_blocks", attention),
        "num_classes": len(CLASSES),
        "norm": "batch",
        "trainable_layers": 5,
        "min_size": [64],
        "max_size": 96,
        "anchor_sizes": [8, 16, 24, 32, 48],
        "fpn_channels": 16,
        "options": SMALL_RETINANET if name == "retinanet" else SMALL_RCNN,
    }
    return DetectorConfig(name, **(defaults | options))


def scene(image_id, objects, crowd=False):
    """An image of noise with some rectangles, and what is on it."""
    generator = torch.Generator().manual_seed(image_id)
    height, width = 48 + 8 * (image_id % 3), 72 - 8 * (image_id % 4)
    image = torch.randint(0, 100, (3, height, width), generator=generator, dtype=torch.uint8)
    boxes, labels, masks = [], [], []
    for place in range(objects):
        w, h = torch.randint(10, 28, (2,), generator=generator).tolist()
        x = int(torch.randint(0, width - w, (), generator=generator))
        y = int(torch.randint(0, height - h, (), generator=generator))
        label = (image_id + place) % 2
        image[:, y : y + h, x : x + w] = 0
        image[2 * label, y : y + h, x : x + w] = 250
        mask = torch.zeros(height, width, dtype=torch.uint8)
        mask[y : y + h, x : x + w] = 1
        boxes.append([x, y, x + w, y + h])
        labels.append(label)
        masks.append(mask)
    target = {
        "image_id": torch.tensor(image_id),
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "masks": torch.stack(masks) if masks else torch.zeros(0, height, width, dtype=torch.uint8),
        "iscrowd": torch.zeros(objects, dtype=torch.int64),
    }
    target["area"] = target["masks"].sum((1, 2)).float()
    if crowd:
        target["iscrowd"][-1] = 1
    return image, target


def write_coco(folder, split, scenes):
    """Write scenes as PNG files in ``folder/split``, and ``folder/split.json`` of COCO's format."""
    images, annotations = [], []
    (folder / split).mkdir(parents=True)
    for image, target in scenes:
        image_id = int(target["image_id"])
        name = f"{image_id:03}.png"
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / split / name)
        _, height, width = image.shape
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        for box, label, area in zip(
            target["boxes"].tolist(),
            target["labels"].tolist(),
            target["area"].tolist(),
            strict=True,
        ):
            x, y, right, bottom = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": CATEGORY_IDS[label],
                    "bbox": [x, y, right - x, bottom - y],
                    "segmentation": [[x, y, right, y, right, bottom, x, bottom]],
                    "area": area,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i, "name": name} for i, name in zip(CATEGORY_IDS, CLASSES, strict=True)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / f"{split}.json").write_text(json.dumps(content))


def collate(samples):
    """Lists of images and targets."""
    images, targets = zip(*samples, strict=True)
    return list(images), list(targets)


class TinyScenes(LightningDataModule):
    """Eight scenes; in training two are empty, in validation one is, and one has a crowd."""

    def __init__(self, batch_size=2):
        super().__init__()
        self.batch_size = batch_size
        self.paths = None
        self.class_names = list(CLASSES)
        self.category_ids = list(CATEGORY_IDS)
        self.train_scenes = [scene(i, objects=i % 4) for i in range(1, 9)]
        self.val_scenes = [scene(i, objects=i % 4 + 1, crowd=i == 23) for i in range(21, 28)]
        self.val_scenes.append(scene(20, objects=0))

    def _batches(self, scenes):
        return DataLoader(scenes, batch_size=self.batch_size, collate_fn=collate)

    def train_dataloader(self):
        return self._batches(self.train_scenes)

    def val_dataloader(self):
        return self._batches(self.val_scenes)

    def test_dataloader(self):
        return self.val_dataloader()

    def predict_dataloader(self):
        samples = [(x, {"image_id": torch.tensor(i)}) for i, (x, _) in enumerate(self.val_scenes)]
        return self._batches(Files(samples, self.paths))


class Files(list):
    """Samples that may know their files."""

    def __init__(self, samples, paths):
        super().__init__(samples)
        if paths is not None:
            self.paths = paths
