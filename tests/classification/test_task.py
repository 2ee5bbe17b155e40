"""ImageClassifier on its own: input, scores, optimization and checkpoints."""

import math
from fractions import Fraction

import pytest
import torch
from lightning.pytorch import Trainer
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy
from torchvision.transforms import v2

from eca_lightning import ImageClassifier, WarmupThenDecay
from eca_lightning.backbones import BackboneConfig
from eca_lightning.classification.metrics import ExactMean, TopKAccuracy, ranks

TINY = BackboneConfig("resnet20", "eca", num_classes=3)


def classifier(seed=0, **options):
    torch.manual_seed(seed)
    return ImageClassifier(TINY, **options)


def trainer(folder, **options):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    defaults = {"accelerator": "cpu", "default_root_dir": folder, "max_epochs": 1}
    return Trainer(**(defaults | quiet | options))


def test_normalizes_bytes_as_torchvision_does(tiny_data):
    model = classifier(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)).eval()
    to_float = v2.Compose(
        [v2.ToDtype(torch.float32, scale=True), v2.Normalize((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))]
    )
    with torch.no_grad():
        logits = model(tiny_data.images)
        expected = model.backbone(to_float(tiny_data.images))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_refuses_images_that_are_not_bytes():
    with pytest.raises(TypeError, match="uint8"):
        classifier()(torch.rand(2, 3, 16, 16))


def test_refuses_a_mean_that_does_not_fit_the_channels():
    with pytest.raises(ValueError, match="one value per channel"):
        classifier(mean=(0.5,), std=(0.5,))


def test_refuses_a_reference_batch_of_nothing():
    with pytest.raises(ValueError, match="lr_base_batch_size must be at least 1, got 0"):
        classifier(lr_base_batch_size=0)


@pytest.mark.slow
def test_training_learns_and_logs(tiny_data, tmp_path):
    model = classifier(optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))
    run = trainer(tmp_path, max_epochs=4)
    run.fit(model, datamodule=tiny_data)
    assert run.callback_metrics["val/top1"] > 0.9
    assert {"train/loss", "train/top1", "val/loss", "val/top1", "val/top5"} <= set(
        run.callback_metrics
    )


@pytest.mark.parametrize("batch_size", [1, 7, 40])
def test_scores_count_each_image_once_and_padding_never(tiny_data, tmp_path, batch_size):
    tiny_data.batch_size = batch_size
    model = classifier()
    (scores,) = trainer(tmp_path).validate(model, datamodule=tiny_data, verbose=False)
    model.eval()
    kept = torch.arange(40) % 10 != 9
    with torch.no_grad():
        logits = model(tiny_data.images)[kept]
    labels = tiny_data.labels[kept]
    assert scores["val/top1"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert scores["val/top5"] == 1  # of three classes
    assert scores["val/loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)


def test_the_mean_loss_is_exact_in_any_order_and_shows_what_is_not_a_number():
    generator = torch.Generator().manual_seed(0)
    losses = 10 ** torch.empty(30_000).uniform_(-12, 2, generator=generator)
    expected = torch.tensor(float(sum(map(Fraction, losses.tolist())) / len(losses)))
    for pieces in (losses.split(1000), losses.flip(0).split(7), losses.sort().values.split(30_000)):
        mean = ExactMean()
        for piece in pieces:
            mean.update(piece, torch.ones(len(piece), dtype=torch.bool))
        mean.update(torch.tensor([math.nan]), torch.tensor([False]))
        mean.update(losses[:0], torch.ones(0, dtype=torch.bool))
        assert mean.compute() == expected
        assert mean.compute().dtype == torch.float32
    mean = ExactMean()
    mean.update(torch.tensor([1.0, math.nan]), torch.tensor([True, True]))
    assert mean.compute().isnan()
    mean.reset()
    mean.update(losses[:1], torch.tensor([False]))
    assert mean.compute().isnan()


@pytest.mark.parametrize("k", [1, 5])
def test_accuracy_counts_what_torchmetrics_counts(k):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 10, generator=generator)
    labels = torch.randint(-1, 10, (200,), generator=generator)
    theirs = MulticlassAccuracy(10, top_k=k, average="micro", ignore_index=-1)
    theirs.update(logits, labels)
    ours = TopKAccuracy(k)
    for start in range(0, 200, 64):
        ours.update(logits[start : start + 64], labels[start : start + 64])
    assert ours.compute() == theirs.compute()


def test_equal_logits_and_those_that_are_no_numbers():
    labels = torch.tensor([0, 1, 2])
    assert ranks(torch.zeros(3, 3), labels).tolist() == [0, 1, 2]  # the lower class comes first
    assert ranks(torch.full((3, 3), math.nan), labels).tolist() == [3, 3, 3]  # never right
    logits = torch.tensor([[0.0, 1.0, math.nan]])
    assert ranks(logits, torch.tensor([1])).tolist() == [3]


def test_bfloat16_weights_leave_the_scores_exact(tiny_data, tmp_path):
    """The precision turns every state of floating point to bfloat16: none may be a sum."""
    scores = []
    for batch_size in (5, 40):
        tiny_data.batch_size = batch_size
        run = trainer(tmp_path, precision="bf16-true")
        (figures,) = run.validate(classifier(), datamodule=tiny_data, verbose=False)
        scores.append(figures)
        assert run.callback_metrics["val/loss"].dtype == torch.float32
    assert scores[0]["val/loss"] == pytest.approx(scores[1]["val/loss"], rel=1e-3)
    assert scores[0]["val/loss"] != float(torch.tensor(scores[0]["val/loss"]).bfloat16())


def test_test_scores_have_their_own_names(tiny_data, tmp_path):
    (scores,) = trainer(tmp_path).test(classifier(), datamodule=tiny_data, verbose=False)
    assert set(scores) == {f"test/{name}" for name in ("loss", "top1", "top5", "macro_accuracy")}


def test_predictions_are_probabilities(tiny_data, tmp_path):
    batches = trainer(tmp_path).predict(classifier(), datamodule=tiny_data)
    probabilities = torch.cat(batches)
    assert probabilities.shape == (40, 3)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(40))


def test_label_smoothing_applies_to_training_only(tiny_data, tmp_path):
    tiny_data.batch_size = 40
    losses = {}
    for smoothing in (0.0, 0.3):
        model = classifier(optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
        model.label_smoothing = smoothing
        run = trainer(tmp_path)
        run.fit(model, datamodule=tiny_data)
        losses[smoothing] = run.callback_metrics
    logits = classifier()(tiny_data.images)
    smooth = F.cross_entropy(logits, tiny_data.labels, label_smoothing=0.3)
    torch.testing.assert_close(losses[0.3]["train/loss"], smooth.detach())
    assert losses[0.3]["val/loss"] == losses[0.0]["val/loss"]


def test_channels_last_reaches_the_backbone(tiny_data):
    model = classifier().eval()
    seen = []
    model.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(tiny_data.images)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    weight = model.backbone.layer1[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_linear_rule_scales_the_learning_rate(tiny_data, tmp_path):
    model = classifier(
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=1e-4),
        lr_base_batch_size=256,
        no_decay_norm_bias=True,
    )
    run = trainer(tmp_path, accumulate_grad_batches=2)
    run.fit(model, datamodule=tiny_data)
    for group in run.optimizers[0].param_groups:
        assert group["lr"] == pytest.approx(0.1 * 8 * 2 / 256)


def test_step_interval_gives_the_schedule_the_whole_run(tiny_data, tmp_path):
    rates = []
    model = classifier(
        optimizer=lambda p: torch.optim.SGD(p, lr=0.2),
        lr_scheduler=lambda optimizer, **horizon: WarmupThenDecay(
            optimizer, **horizon, decay="linear", warmup_epochs=0.6, start_fraction=0.04
        ),
        lr_interval="step",
    )
    model.on_train_batch_start = lambda *_: rates.append(model.optimizers().param_groups[0]["lr"])
    trainer(tmp_path, max_epochs=2).fit(model, datamodule=tiny_data)
    assert len(rates) == 10  # 5 batches, 2 epochs
    assert rates[0] == pytest.approx(0.2 * 0.04)
    assert max(rates) == rates[3] == pytest.approx(0.2)
    assert rates[-1] == pytest.approx(0.2 / 7)  # 0 is reached when the last step is done


def test_checkpoint_alone_rebuilds_the_model(tiny_data, tmp_path):
    model = classifier(label_smoothing=0.2, mean=(0.5,) * 3)
    run = trainer(tmp_path)
    run.fit(model, datamodule=tiny_data)
    run.save_checkpoint(tmp_path / "model.ckpt")
    checkpoint = torch.load(tmp_path / "model.ckpt", weights_only=True)
    assert set(checkpoint["state_dict"]) == {f"backbone.{key}" for key in TINY.build().state_dict()}
    again = ImageClassifier.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    assert again.label_smoothing == 0.2
    assert again.class_names == ["red", "green", "blue"]
    model.eval()
    again.eval()
    with torch.no_grad():  # the trained one works on contiguous maps on CPUs, and rounds otherwise
        torch.testing.assert_close(again(tiny_data.images), model(tiny_data.images))
    weights = zip(again.state_dict().values(), model.state_dict().values(), strict=True)
    assert all(torch.equal(loaded, saved) for loaded, saved in weights)


def test_compile_leaves_no_trace_in_checkpoints(tiny_data, tmp_path):
    compiled = classifier(compile=True)
    assert list(compiled.state_dict()) == list(classifier().state_dict())
    run = trainer(tmp_path)
    run.strategy.connect(compiled)
    run.save_checkpoint(tmp_path / "model.ckpt")
    keys = torch.load(tmp_path / "model.ckpt", weights_only=True)["state_dict"]
    assert not [key for key in keys if "_orig_mod" in key or "module." in key]


def test_checkpoint_of_another_architecture_is_named(tiny_data, tmp_path):
    run = trainer(tmp_path)
    run.fit(classifier(), datamodule=tiny_data)
    run.save_checkpoint(tmp_path / "model.ckpt")
    other = ImageClassifier(BackboneConfig("resnet20", "se", num_classes=3))
    with pytest.raises(ValueError, match="attention is 'eca' in the checkpoint and 'se' here"):
        trainer(tmp_path).validate(other, datamodule=tiny_data, ckpt_path=tmp_path / "model.ckpt")


@pytest.mark.parametrize(
    ("name", "stem", "same"),
    [("resnet20", "small", True), ("resnet18", "imagenet", True), ("mobilenet_v2", "small", False)],
)
def test_the_same_network_in_other_words_is_no_other_architecture(name, stem, same):
    saved = {"backbone": {"name": name, "attention": "none", "fused": True, "stem": stem}}
    given = {"backbone": {"name": name, "attention": None, "fused": "auto", "stem": None}}
    differences = ImageClassifier.architecture_differences(saved, given)
    assert differences == ("" if same else "stem is 'small' in the checkpoint and None here")


def test_a_checkpoint_without_a_classifier_is_named():
    given = {"backbone": {"name": "resnet20"}}
    assert ImageClassifier.architecture_differences({}, given) == "it holds no classifier"


def test_data_with_another_number_of_classes_is_refused(tiny_data, tmp_path):
    tiny_data.class_names.append("black")
    with pytest.raises(ValueError, match="num_classes to 4"):
        trainer(tmp_path).fit(classifier(), datamodule=tiny_data)


@pytest.mark.slow
def test_killed_run_resumes_to_the_same_weights(tiny_data, tmp_path):
    def run(epochs, checkpoint=None):
        model = classifier(
            lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        )
        run = trainer(tmp_path, max_epochs=epochs)
        run.fit(model, datamodule=tiny_data, ckpt_path=checkpoint)
        run.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return model.state_dict()

    straight = run(3)
    run(1)
    resumed = run(3, tmp_path / "1.ckpt")
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_predictions_that_are_not_finite_end_no_command_well(tiny_data, tmp_path, command):
    model = classifier()
    with torch.no_grad():
        model.backbone.fc.bias[0] = torch.nan
    run = trainer(tmp_path)
    with pytest.raises(FloatingPointError, match="predictions are NaN or infinite"):
        getattr(run, command)(model, datamodule=tiny_data)
    assert (
        command == "predict" or max(v for k, v in run.callback_metrics.items() if "top" in k) == 0
    )


def test_equal_logits_are_ranked_by_class(tiny_data, tmp_path):
    model = classifier()
    torch.nn.init.zeros_(model.backbone.fc.weight)
    torch.nn.init.zeros_(model.backbone.fc.bias)
    (scores,) = trainer(tmp_path).validate(model, datamodule=tiny_data)
    labels = torch.cat([labels for _, labels in tiny_data.val_dataloader()])
    zeros = (labels == 0).sum().item() / (labels >= 0).sum().item()
    assert scores["val/top1"] == pytest.approx(zeros)
    assert scores["val/top5"] == 1
