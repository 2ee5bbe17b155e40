"""What ImageClassifier's options do to training steps, scores and checkpoints."""

import pytest
import torch
from lightning.pytorch import Trainer
from torch.nn import functional as F

from eca_lightning import ImageClassifier
from eca_lightning.backbones import BackboneConfig
from eca_lightning.classification.mixing import Mixing

TINY = BackboneConfig("resnet20", "eca", num_classes=3)


def classifier(**options):
    torch.manual_seed(0)
    return ImageClassifier(TINY, **options)


def trainer(folder, **options):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return Trainer(accelerator="cpu", default_root_dir=folder, **(quiet | options))


def draws(data, folder, **options):
    """The first random number of each training step."""
    seen = []
    model = classifier(optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    step = model.training_step
    model.training_step = lambda *batch: (seen.append(torch.rand(()).item()), step(*batch))[1]
    trainer(folder, **({"max_epochs": 2} | options)).fit(model, datamodule=data)
    return seen


@pytest.mark.slow
def test_random_numbers_follow_from_seed_epoch_batch_and_rank(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    first = draws(tiny_data, tmp_path)
    torch.rand(5)  # whatever came before
    assert draws(tiny_data, tmp_path) == first
    # Batches that wait for one optimizer step differ as well.
    assert draws(tiny_data, tmp_path, accumulate_grad_batches=2) == first
    monkeypatch.setattr(ImageClassifier, "global_rank", 1)
    other_rank = draws(tiny_data, tmp_path)
    monkeypatch.setattr(ImageClassifier, "global_rank", 0)
    monkeypatch.setenv("PL_GLOBAL_SEED", "8")
    together = first + other_rank + draws(tiny_data, tmp_path)
    assert len(set(together)) == len(together) == 30


def test_mixtures_are_trained_on_and_have_no_top1(tiny_data, tmp_path):
    tiny_data.batch_size = 40
    mixing = Mixing(mixup=1.0)
    model = classifier(mixing=mixing, label_smoothing=0.1, loss="binary_cross_entropy")
    inputs = []
    model.backbone.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    run = trainer(tmp_path, max_epochs=1, num_sanity_val_steps=0, limit_val_batches=0)
    run.fit(model, datamodule=tiny_data)
    assert inputs[0].is_contiguous()  # on a CPU
    assert "train/top1" not in run.callback_metrics
    fresh = classifier()
    fresh.on_train_batch_start(None, 0)
    mixed, targets = mixing(fresh.normalize(tiny_data.images), tiny_data.labels, 3)
    torch.testing.assert_close(inputs[0], mixed)
    smooth = targets * 0.9 + 0.1 / 3
    expected = F.binary_cross_entropy_with_logits(fresh.backbone(mixed), smooth)
    torch.testing.assert_close(run.callback_metrics["train/loss"], expected.detach())


def test_flip_averaging_scores_and_predicts_by_the_mean_of_both(tiny_data, tmp_path):
    images = tiny_data.images
    with torch.no_grad():
        plain = classifier().eval()
        logits = (plain(images) + plain(images.flip(-1))) / 2
    model = classifier(flip_tta=True)
    predicted = torch.cat(trainer(tmp_path).predict(model, datamodule=tiny_data))
    torch.testing.assert_close(predicted, logits.softmax(1))
    (scores,) = trainer(tmp_path).validate(model, datamodule=tiny_data, verbose=False)
    counted = torch.arange(40) % 10 != 9
    loss = F.cross_entropy(logits[counted], tiny_data.labels[counted])
    assert scores["val/loss"] == pytest.approx(loss.item(), rel=1e-5)
    with torch.no_grad():  # the network itself looks at the image as it is
        assert torch.equal(model.eval()(images), plain(images))


def test_validation_scores_do_not_depend_on_the_training_loss(tiny_data, tmp_path):
    scores = [
        trainer(tmp_path).validate(classifier(loss=loss), datamodule=tiny_data, verbose=False)
        for loss in ("cross_entropy", "binary_cross_entropy")
    ]
    assert scores[0] == scores[1]


def test_checkpoints_hold_the_options_as_plain_data(tmp_path):
    mixing = Mixing(mixup=0.2, cutmix=1.0)
    run = trainer(tmp_path)
    model = classifier(mixing=mixing, loss="binary_cross_entropy", flip_tta=True)
    run.strategy.connect(model)
    run.save_checkpoint(tmp_path / "model.ckpt")
    again = ImageClassifier.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    assert again.mixing == mixing
    assert again.loss == "binary_cross_entropy"
    assert again.flip_tta


def test_a_threshold_is_for_binary_cross_entropy_alone():
    with pytest.raises(ValueError, match="loss: binary_cross_entropy"):
        classifier(bce_target_threshold=0.2)


@pytest.mark.slow
def test_training_on_a_cpu_keeps_the_digits_of_float32(tiny_data, tmp_path):
    """In channels_last, torch's batch norm has errors of 1e-5 and more in the variances."""
    tiny_data.batch_size = 40
    variances = {}
    for precision in ("32-true", "64-true"):
        torch.manual_seed(0)
        backbone = BackboneConfig("mobilenet_v2", "eca", num_classes=3, stem="small")
        model = ImageClassifier(backbone, lambda p: torch.optim.SGD(p, lr=0.0))
        run = trainer(tmp_path, max_epochs=1, limit_val_batches=0, precision=precision)
        run.fit(model, datamodule=tiny_data)
        state = model.backbone.state_dict().items()
        found = [value.double() for key, value in state if key.endswith("running_var")]
        variances[precision] = torch.cat(found)
    single, double = variances.values()
    assert ((single - double) / double).abs().max() < 1e-5
