"""A new run starts from weights; a resumed one does not."""

import logging

import pytest
import torch

from eca_lightning import ImageClassifier, create_backbone
from eca_lightning.backbones import BackboneConfig


@pytest.fixture
def train(make_trainer, tiny_data, caplog):
    """Train without a step that changes weights; return the network and what was logged."""
    caplog.set_level(logging.INFO, "lightning.pytorch.utilities.rank_zero")

    def run(backbone, checkpoint=None, **options):
        caplog.clear()
        torch.manual_seed(0)
        still = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.0)}
        model = ImageClassifier(backbone, **(still | options))
        trainer = make_trainer(limit_train_batches=1, limit_val_batches=0, logger=False)
        trainer.fit(model, datamodule=tiny_data, ckpt_path=checkpoint)
        return model, trainer, caplog.text

    return run


def saved(path, **options):
    torch.manual_seed(1)
    network = create_backbone("resnet20", **options)
    torch.save(network.state_dict(), path)
    return network


def parameters(network, but="fc."):
    return {key: p for key, p in network.named_parameters() if not key.startswith(but)}


def is_loaded(ours, theirs, but="fc."):
    theirs = dict(theirs.named_parameters())
    return all(torch.equal(p, theirs[key]) for key, p in parameters(ours, but).items())


def test_classes_are_the_datas_unless_given(train):
    taken, trainer, _ = train(BackboneConfig("resnet20", "eca"))
    assert taken.num_classes == taken.backbone_config.num_classes == 3
    assert taken(torch.zeros(1, 3, 16, 16, dtype=torch.uint8)).shape == (1, 3)
    trainer.save_checkpoint(path := f"{trainer.default_root_dir}/saved.ckpt")
    assert ImageClassifier.load_from_checkpoint(path).num_classes == 3


def test_weights_that_were_loaded_stay_when_the_classifier_is_replaced(make_trainer, tiny_data):
    model = ImageClassifier(
        BackboneConfig("resnet20"), optimizer=lambda p: torch.optim.SGD(p, lr=0.0)
    )
    torch.manual_seed(5)
    other = create_backbone("resnet20")
    model.backbone.load_state_dict(other.state_dict())
    make_trainer(limit_train_batches=1, limit_val_batches=0).fit(model, datamodule=tiny_data)
    assert model.num_classes == 3
    assert is_loaded(model.backbone, other)


@pytest.mark.parametrize("attention", ["eca", None])
def test_another_classifier_is_replaced_and_the_rest_is_loaded(train, tmp_path, attention):
    network = saved(tmp_path / "weights.pth", attention=attention, num_classes=7)
    weights = str(tmp_path / "weights.pth")
    model, _, said = train(BackboneConfig("resnet20", attention), weights=weights)
    assert is_loaded(model.backbone, network)
    assert f"weights of {weights}" in said
    assert "the classifier is new, that of the file has 7 classes" in said


def test_the_classifier_of_as_many_classes_is_kept(train, tmp_path):
    network = saved(tmp_path / "weights.pth", num_classes=3)
    model, _, said = train(BackboneConfig("resnet20"), weights=str(tmp_path / "weights.pth"))
    assert is_loaded(model.backbone, network, but="-")
    assert "is new" not in said


def test_attention_starts_without_effect(train, tmp_path):
    plain = saved(tmp_path / "weights.pth", num_classes=3).eval()
    attended = BackboneConfig("resnet20", "eca")
    model, _, said = train(attended, weights=str(tmp_path / "weights.pth"))
    assert "attention is not in the file" in said
    inputs = torch.randn(2, 3, 16, 16)
    fresh = create_backbone("resnet20", "eca", num_classes=3).eval()
    from eca_lightning.weights.match import load_weights

    load_weights(fresh, tmp_path / "weights.pth")
    assert torch.equal(fresh(inputs), plain(inputs))
    assert is_loaded(model.backbone, fresh, but="-")


def test_a_resumed_run_does_not_read_them(train, tmp_path):
    saved(tmp_path / "weights.pth", num_classes=3)
    options = {"backbone": BackboneConfig("resnet20"), "weights": str(tmp_path / "weights.pth")}
    _, trainer, _ = train(**options)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert "weights.pth" not in str(torch.load(tmp_path / "last.ckpt")["hyper_parameters"])
    (tmp_path / "weights.pth").unlink()
    _, _, said = train(**options, checkpoint=tmp_path / "last.ckpt")
    assert "weights of" not in said
    with pytest.raises(FileNotFoundError, match="weights not found"):
        train(**options)


@pytest.mark.slow
def test_weights_of_another_network_are_refused(train, tmp_path):
    saved(tmp_path / "weights.pth", attention="se", num_classes=3)
    with pytest.raises(
        ValueError, match="of resnet20 with attention se, and the model is resnet20 with attention"
    ):
        train(BackboneConfig("resnet20", "eca"), weights=str(tmp_path / "weights.pth"))
    torch.save({"a.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="no network of this package"):
        train(BackboneConfig("resnet20"), weights=str(tmp_path / "other.pth"))
