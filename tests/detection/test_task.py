"""ObjectDetector on its own: input, scores, optimization, precision and checkpoints."""

import copy
import re
from itertools import chain

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from thorough import first_of
from tiny_scenes import (
    CATEGORY_IDS,
    CLASSES,
    MANY_RCNN,
    MANY_RETINANET,
    TinyScenes,
    collate,
    scene,
    tiny_detector,
)

from eca_lightning import ImageClassifier, ObjectDetector
from eca_lightning.backbones import BackboneConfig
from eca_lightning.detection.metrics import DetectionScores

NAMES = ["faster_rcnn", "mask_rcnn", "retinanet"]
FIGURES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]


def detector(name="faster_rcnn", config=None, seed=0, **options):
    torch.manual_seed(seed)
    return ObjectDetector(config or tiny_detector(name), **options)


def trainer(folder, **options):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    defaults = {
        "accelerator": "cpu",
        "default_root_dir": folder,
        "max_epochs": 1,
        "num_sanity_val_steps": 0,
        "enable_checkpointing": False,
    }
    return Trainer(**(defaults | quiet | options))


@pytest.fixture
def data():
    return TinyScenes()


HEADS = {
    "faster_rcnn": [
        "rpn.head.cls_logits",
        "rpn.head.bbox_pred",
        "roi_heads.box_predictor.cls_score",
    ],
    "mask_rcnn": ["roi_heads.box_predictor.bbox_pred", "roi_heads.mask_predictor.mask_fcn_logits"],
    "retinanet": ["head.classification_head.cls_logits", "head.regression_head.bbox_reg"],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "head"), first_of([(n, head) for n, hs in HEADS.items() for head in hs], 2)
)
def test_outputs_that_are_not_finite_end_no_command_well(name, head, data, tmp_path):
    options = MANY_RETINANET if name == "retinanet" else MANY_RCNN
    model = detector(config=tiny_detector(name, options=options))
    data.val_scenes = data.val_scenes[:2]
    with torch.no_grad():
        model.detector.get_submodule(head).bias[:] = torch.nan
    for command in ("validate", "test", "predict"):
        with pytest.raises(FloatingPointError, match="2 predictions are NaN or infinite"):
            getattr(trainer(tmp_path), command)(model, datamodule=data)


def test_outputs_that_are_not_finite_are_counted_in_training(data, tmp_path):
    model = detector("retinanet", lr_scheduler=None)

    def lose(*_):
        with torch.no_grad():
            model.detector.head.regression_head.bbox_reg.bias[:] = torch.inf

    model.on_validation_start = lose
    run = trainer(tmp_path, limit_train_batches=1, limit_val_batches=2)
    with pytest.warns(UserWarning, match="4 predictions are NaN or infinite in validation"):
        run.fit(model, datamodule=data)
    assert run.callback_metrics["val/box_AP"] <= 0


@pytest.mark.parametrize("name", NAMES)
def test_finds_what_its_network_finds_under_the_labels_of_the_data(name, data):
    model = detector(name).eval()
    images, _ = collate(data.val_scenes[:3])
    with torch.no_grad():
        found = model(images)
        for image, detections in zip(images, found, strict=True):
            (expected,) = model.detector([image / 255])
            assert torch.equal(detections["boxes"], expected["boxes"])
            assert torch.equal(detections["scores"], expected["scores"])
            first = 0 if name == "retinanet" else 1
            assert torch.equal(detections["labels"], expected["labels"] - first)
            assert set(detections["labels"].tolist()) <= {0, 1}
            assert ("masks" in detections) == (name == "mask_rcnn")
            if name == "mask_rcnn":
                assert detections["masks"].shape == (len(expected["boxes"]), *image.shape[1:])
                assert detections["masks"].dtype == torch.uint8
                assert torch.equal(detections["masks"].bool(), expected["masks"][:, 0] > 0.5)
    assert sum(len(detections["boxes"]) for detections in found) > 0


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_the_sum_of_its_networks(name, data, tmp_path):
    model = detector(name)
    run = trainer(tmp_path, limit_train_batches=1, limit_val_batches=0)
    losses = {}

    def keep(module, arguments, outputs):
        losses.update(outputs)
        first = arguments[1][0]["labels"]
        assert set(first.tolist()) <= ({0, 1} if name == "retinanet" else {1, 2})

    model.detector.register_forward_hook(keep)
    run.fit(model, datamodule=data)
    logged = run.callback_metrics
    assert logged["train/loss"] == pytest.approx(sum(v.item() for v in losses.values()), rel=1e-6)
    parts = {f"train/loss_{part.removeprefix('loss_')}": v.item() for part, v in losses.items()}
    assert len(parts) == {"faster_rcnn": 4, "mask_rcnn": 5, "retinanet": 2}[name]
    assert {k: float(logged[k]) for k in parts} == pytest.approx(parts)


def test_refuses_images_that_are_not_bytes():
    with pytest.raises(TypeError, match="uint8"):
        detector().eval()([torch.rand(3, 32, 32)])


def test_refuses_a_reference_batch_of_nothing():
    with pytest.raises(ValueError, match="lr_base_batch_size must be at least 1, got 0"):
        detector(lr_base_batch_size=0)


@pytest.mark.parametrize("name", NAMES)
def test_batches_without_objects_train_and_leave_no_parameter_out(name):
    """Each that learns has a gradient, for which the ranks of a distributed run would wait."""
    model = detector(name)
    images, targets = collate([scene(1, objects=0), scene(2, objects=0)])
    loss = torch.stack([*model.detector([i / 255 for i in images], targets).values()]).sum()
    loss.backward()
    assert loss.isfinite()
    without = [k for k, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without


@pytest.mark.slow
def test_training_learns_and_logs(data, tmp_path, monkeypatch):
    data.batch_size = 4
    model = detector(optimizer=lambda p: torch.optim.AdamW(p, lr=2e-3))
    losses = []
    monkeypatch.setattr(model, "on_train_batch_end", lambda out, *_: losses.append(out["loss"]))
    run = trainer(tmp_path, max_epochs=12, check_val_every_n_epoch=12)
    run.fit(model, datamodule=data)
    assert losses[-1] + losses[-2] < 0.6 * (losses[0] + losses[1])
    expected = {f"val/box_{figure}" for figure in FIGURES}
    assert {key for key in run.callback_metrics if key.startswith("val/")} == expected
    assert f"val/{model.main_metric}" in expected
    patterns = [p for charts in model.charts.values() for curves in charts.values() for p in curves]
    assert all(any(re.match(p, name) for name in run.callback_metrics) for p in patterns)


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_scores_are_those_of_what_is_found_whatever_the_batches(data, tmp_path, stage):
    model = detector(config=tiny_detector("retinanet", options=MANY_RETINANET), seed=1).eval()
    images, targets = collate(data.val_scenes)
    scores = DetectionScores()
    with torch.no_grad():
        scores.update(model(images), targets)
    prefix = "val" if stage == "validate" else "test"
    expected = {f"{prefix}/{name}": score for name, score in scores.compute().items()}
    for batch_size in (1, 3, 8):
        data.batch_size = batch_size
        run = trainer(tmp_path)
        (figures,) = getattr(run, stage)(model, datamodule=data, verbose=False)
        assert figures == expected
    assert expected[f"{prefix}/box_AR100"] > 0


def test_each_class_on_request(data, tmp_path):
    run = trainer(tmp_path)
    (figures,) = run.validate(detector(class_metrics=True), datamodule=data, verbose=False)
    assert {"val/box_AP/red", "val/box_AP/blue"} <= set(figures)


def test_validation_of_two_images_before_training_does_not_stop_it(data, tmp_path):
    data.val_scenes = [scene(20, objects=0), scene(21, objects=1)]
    trainer(tmp_path, num_sanity_val_steps=2, limit_train_batches=1).fit(
        detector(), datamodule=data
    )


def test_only_what_learns_goes_to_the_optimizer(data, tmp_path):
    model = detector(
        config=tiny_detector(norm="frozen", trainable_layers=2),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=1e-4),
        lr_base_batch_size=8,
        no_decay_norm_bias=True,
    )
    run = trainer(tmp_path, limit_train_batches=2, limit_val_batches=0, accumulate_grad_batches=2)
    before = copy.deepcopy(model.state_dict())
    run.fit(model, datamodule=data)
    groups = run.optimizers[0].param_groups
    given = {id(p) for group in groups for p in group["params"]}
    assert given == {id(p) for p in model.parameters() if p.requires_grad}
    assert len(given) < len(list(model.parameters()))
    assert [group["lr"] for group in groups] == pytest.approx([0.1 * 2 * 2 / 8] * 2)
    assert groups[1]["weight_decay"] == 0
    fixed = [key for key, value in model.state_dict().items() if torch.equal(value, before[key])]
    assert {key.split(".")[3] for key in fixed if ".body." in key} >= {"conv1", "layer1", "layer2"}


def test_a_step_draws_what_its_place_in_the_run_says(data, tmp_path):
    losses = []
    for noise in (1, 2):
        seed_everything(5, verbose=False)
        model = detector()
        torch.manual_seed(noise)
        run = trainer(tmp_path, limit_train_batches=1, limit_val_batches=0)
        run.fit(model, datamodule=data)
        losses.append({k: float(v) for k, v in run.callback_metrics.items()})
    assert losses[0] == losses[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", first_of(NAMES))
def test_boxes_are_float32_in_mixed_precision(name, data, tmp_path):
    """Anchors as without it, in training and evaluation, and all else that is of boxes."""
    data.train_scenes, data.val_scenes = data.train_scenes[2:4], data.val_scenes[:1]
    anchors = {}
    for precision in ("32-true", "bf16-mixed"):
        config = tiny_detector(name, min_size=[300], max_size=420, anchor_sizes=[9, 18, 36, 65, 97])
        model = detector(config=config)
        kept = anchors[precision] = []
        network = model.detector
        generator = (
            network.anchor_generator if name == "retinanet" else network.rpn.anchor_generator
        )
        generator.register_forward_hook(
            lambda module, arguments, outputs, kept=kept: kept.extend(outputs)
        )
        run = trainer(tmp_path, precision=precision, limit_train_batches=1)
        run.fit(model, datamodule=data)
        assert run.callback_metrics["train/loss"].isfinite()
        for detections in chain.from_iterable(run.predict(model, datamodule=data)):
            boxes = detections["boxes"]
            assert boxes.dtype == detections["scores"].dtype == torch.float32
    assert len(anchors["32-true"]) == len(anchors["bf16-mixed"]) == 4
    for expected, found in zip(*anchors.values(), strict=True):
        assert torch.equal(expected, found)
    assert any((found.bfloat16() != found).any() for found in anchors["bf16-mixed"])
    assert (boxes.bfloat16() != boxes).any()


def test_checkpoint_alone_rebuilds_the_model(data, tmp_path):
    model = detector("mask_rcnn")
    run = trainer(tmp_path, limit_train_batches=1, limit_val_batches=0)
    run.fit(model, datamodule=data)
    path = tmp_path / "model.ckpt"
    run.save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=True)
    network = tiny_detector("mask_rcnn").build()
    assert set(checkpoint["state_dict"]) == {f"detector.{key}" for key in network.state_dict()}
    again = ObjectDetector.load_from_checkpoint(path, weights_only=True)
    assert again.class_names == CLASSES
    assert again.category_ids == CATEGORY_IDS
    images, _ = collate(data.val_scenes[:2])
    with torch.no_grad():
        for one, other in zip(model.eval()(images), again.eval()(images), strict=True):
            assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        (
            {"backbone": BackboneConfig("shallow.basic_blocks", "se")},
            "backbone.attention is 'eca' in the checkpoint",
        ),
        ({"name": "retinanet", "options": {}}, "name is 'faster_rcnn' in the checkpoint"),
        ({"fpn_channels": 8}, "fpn_channels is 16 in the checkpoint and 8 here"),
    ],
)
def test_checkpoint_of_another_architecture_is_named(data, tmp_path, changed, difference):
    run = trainer(tmp_path)
    run.strategy.connect(detector())
    run.save_checkpoint(tmp_path / "model.ckpt")
    options = {"name": "faster_rcnn"} | changed
    other = detector(config=tiny_detector(**options))
    with pytest.raises(ValueError, match=f"another architecture: {difference}"):
        trainer(tmp_path).validate(other, datamodule=data, ckpt_path=tmp_path / "model.ckpt")


@pytest.mark.slow
def test_a_checkpoint_of_the_same_weights_is_taken(data, tmp_path):
    run = trainer(tmp_path)
    run.strategy.connect(detector())
    run.save_checkpoint(tmp_path / "model.ckpt")
    backbone = BackboneConfig("shallow.basic_blocks", "eca", fused=False, num_classes=7)
    config = tiny_detector(backbone=backbone, min_size=[48], options={})
    trainer(tmp_path).validate(
        detector(config=config), datamodule=data, ckpt_path=tmp_path / "model.ckpt", verbose=False
    )


def test_a_classifiers_checkpoint_is_no_detectors(data, tmp_path):
    run = trainer(tmp_path)
    run.strategy.connect(ImageClassifier(BackboneConfig("resnet20", "eca", num_classes=2)))
    run.save_checkpoint(tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=r"give them as model\.backbone_weights"):
        trainer(tmp_path).validate(detector(), datamodule=data, ckpt_path=tmp_path / "model.ckpt")


def test_data_with_another_number_of_classes_is_refused(data, tmp_path):
    data.class_names.append("green")
    with pytest.raises(ValueError, match=r"detector\.num_classes to 3"):
        trainer(tmp_path).fit(detector(), datamodule=data)


def test_a_new_run_starts_from_the_backbones_weights(data, tmp_path):
    torch.manual_seed(1)
    classifier = BackboneConfig("shallow.basic_blocks", "eca").build()
    path = tmp_path / "weights.pth"
    torch.save(classifier.state_dict(), path)
    model = detector(backbone_weights=path, optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    key = "backbone.body.layer3.0.conv1.weight"
    expected = classifier.layer3[0].conv1.weight
    before = model.detector.state_dict()[key].clone()

    def now():
        return model.detector.state_dict()[key]

    trainer(tmp_path).validate(model, datamodule=data, verbose=False)
    assert torch.equal(now(), before)
    run = trainer(tmp_path, limit_train_batches=1, limit_val_batches=0)
    run.fit(model, datamodule=data)
    assert torch.equal(now(), expected)
    run.save_checkpoint(tmp_path / "model.ckpt")

    path.unlink()
    resumed = detector(backbone_weights=path, seed=2)
    trainer(tmp_path, limit_val_batches=0).fit(
        resumed, datamodule=data, ckpt_path=tmp_path / "model.ckpt"
    )
    assert torch.equal(resumed.detector.state_dict()[key], expected)
    again = ObjectDetector.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    assert again.backbone_weights is None
    with pytest.raises(FileNotFoundError, match=r"weights\.pth"):
        trainer(tmp_path).fit(detector(backbone_weights=path), datamodule=data)


@pytest.mark.slow
def test_killed_run_resumes_to_the_same_weights(data, tmp_path):
    data.batch_size = 4

    def run(epochs, checkpoint=None):
        model = detector(
            optimizer=lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
            lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5),
        )
        run = trainer(tmp_path, max_epochs=epochs, limit_val_batches=1)
        run.fit(model, datamodule=data, ckpt_path=checkpoint)
        run.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return model.state_dict()

    straight = run(3)
    run(1)
    resumed = run(3, tmp_path / "1.ckpt")
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)


def test_copies_of_the_model_score_by_themselves(data, tmp_path):
    """As averaging the weights makes them."""
    model = detector()
    (expected,) = trainer(tmp_path).validate(model, datamodule=data, verbose=False)
    (figures,) = trainer(tmp_path).validate(copy.deepcopy(model), datamodule=data, verbose=False)
    assert figures == expected
