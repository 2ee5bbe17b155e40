"""Models that are shared: local folders of the Hub's form, without a network."""

import json

import pytest
import torch
from forked import run_forked, run_without
from lightning.pytorch import Trainer
from safetensors.torch import load_file
from tiny_scenes import CATEGORY_IDS, CLASSES, TinyScenes, tiny_detector
from torch import nn

from eca_lightning import ImageClassifier, ObjectDetector
from eca_lightning.backbones import BackboneConfig

huggingface_hub = pytest.importorskip("huggingface_hub")

IMAGES = torch.randint(
    0, 256, (2, 3, 24, 24), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """What would reach the Hub fails at once."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def with_statistics(model):
    """Norms of their own, which show whether they were loaded."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 1.0, generator=generator)
            module.running_mean.uniform_(-0.2, 0.2, generator=generator)
    return model.eval()


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    backbone = BackboneConfig("resnet20", "eca", {"kernel": [3, 5, 3]}, num_classes=3)
    model = ImageClassifier(
        backbone, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), lr_interval="step"
    )
    model.class_names = ["c\u00e4t", "dog", "emu"]
    return with_statistics(model)


@pytest.fixture
def detector():
    torch.manual_seed(0)
    model = ObjectDetector(tiny_detector("mask_rcnn"))
    model.class_names, model.category_ids = CLASSES, CATEGORY_IDS
    return with_statistics(model)


def test_a_classifier_comes_back(classifier, tmp_path):
    classifier.save_pretrained(tmp_path / "new" / "model")
    names = sorted(path.name for path in (tmp_path / "new" / "model").iterdir())
    assert names == ["README.md", "config.json", "model.safetensors"]
    weights = load_file(tmp_path / "new" / "model" / "model.safetensors")
    assert weights.keys() == classifier.state_dict().keys()
    loaded = ImageClassifier.from_pretrained(tmp_path / "new" / "model")
    assert not loaded.training
    assert loaded.class_names == ["c\u00e4t", "dog", "emu"]
    assert loaded.hparams["backbone"] == classifier.hparams["backbone"]
    with torch.inference_mode():
        assert torch.equal(loaded(IMAGES), classifier(IMAGES))


def test_a_detector_comes_back(detector, tmp_path):
    detector.save_pretrained(tmp_path)
    loaded = ObjectDetector.from_pretrained(tmp_path)
    assert loaded.class_names == CLASSES
    assert loaded.category_ids == CATEGORY_IDS
    images = [image for image, _ in TinyScenes().val_scenes[:2]]
    with torch.inference_mode():
        for found, expected in zip(loaded(images), detector(images), strict=True):
            assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_config_is_the_networks(classifier, tmp_path):
    classifier.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert config["backbone"]["attention_options"] == {"kernel": [3, 5, 3]}
    kept = {"class_names", "scores", "preprocessing", "training_loss"}
    assert config.keys() == {"backbone", "mean", "std", *kept}


def test_the_recipe_is_for_who_loads_it(classifier, tmp_path):
    classifier.save_pretrained(tmp_path)
    loaded = ImageClassifier.from_pretrained(
        tmp_path, label_smoothing=0.1, optimizer=lambda groups: torch.optim.SGD(groups, lr=0.5)
    )
    assert loaded.label_smoothing == 0.1
    assert loaded.lr_interval == "epoch"
    assert loaded.optimizer_builder(loaded.parameters()).defaults["lr"] == 0.5


def test_what_does_not_match_is_refused(classifier, detector, tmp_path):
    classifier.save_pretrained(tmp_path / "classifier")
    detector.save_pretrained(tmp_path / "detector")
    with pytest.raises(ValueError, match=r"classifier is no ObjectDetector.*names another"):
        ObjectDetector.from_pretrained(tmp_path / "classifier")
    with pytest.raises(ValueError, match=r"detector is no ImageClassifier.*names another"):
        ImageClassifier.from_pretrained(tmp_path / "detector")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty is no ImageClassifier.*has no config\.json"):
        ImageClassifier.from_pretrained(tmp_path / "empty")

    config = tmp_path / "classifier" / "config.json"
    config.write_text(config.read_text().replace("[3, 5, 3]", "[3, 3, 3]").replace("5,\n", "3,\n"))
    with pytest.raises(RuntimeError, match=r"size mismatch.*attention\.conv\.weight"):
        ImageClassifier.from_pretrained(tmp_path / "classifier")
    weights = tmp_path / "detector" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"the weights of .*detector are damaged"):
        ObjectDetector.from_pretrained(tmp_path / "detector")


def test_a_missing_weight_is_refused(classifier, tmp_path):
    from safetensors.torch import save_file

    classifier.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["backbone.fc.bias"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(RuntimeError, match=r"backbone\.fc\.bias"):
        ImageClassifier.from_pretrained(tmp_path)


def run(folder, **options):
    return Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **options,
    )


def test_scores_go_with_the_weights_that_have_them(tiny_data, tmp_path):
    torch.manual_seed(0)
    model = ImageClassifier(BackboneConfig("resnet20", num_classes=3))
    trainer = run(tmp_path, max_epochs=1)
    trainer.fit(model, tiny_data)
    scores = {k: v.item() for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
    assert scores.keys() == {"val/loss", "val/top1", "val/top5", "val/macro_accuracy"}
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    loaded = ImageClassifier.load_from_checkpoint(tmp_path / "end.ckpt", weights_only=True)
    assert loaded.known_scores == scores
    loaded.save_pretrained(tmp_path / "hub")
    assert ImageClassifier.from_pretrained(tmp_path / "hub").known_scores == scores

    further = run(tmp_path, max_epochs=2, limit_train_batches=1, limit_val_batches=0)
    further.fit(loaded, tiny_data)
    assert loaded.known_scores == {}  # the weights are others now
    run(tmp_path).test(loaded, tiny_data, verbose=False)
    expected = {"test/loss", "test/top1", "test/top5", "test/macro_accuracy"}
    assert loaded.known_scores.keys() == expected


def test_the_card_says_what_is_known(classifier, tmp_path):
    classifier.loaded_scores = {"val/top1": 0.94444, "val/loss": 0.15}
    classifier.save_pretrained(tmp_path / "plain")
    card = huggingface_hub.ModelCard.load(tmp_path / "plain" / "README.md")
    data = card.data.to_dict()
    assert (data["license"], data["library_name"]) == ("mit", "eca-lightning")
    assert data["pipeline_tag"] == "image-classification"
    assert {"eca", "resnet20", "pytorch_model_hub_mixin"} <= set(data["tags"])
    assert "model-index" not in data
    for line in (
        "# eca_resnet20",
        "| parameters | 272,052 |",
        "| attention | eca (kernel [3, 5, 3]) |",
        "| classes | 3: c\u00e4t, dog, emu |",
        "| val/top1 | 0.9444 |",
        "arxiv.org/abs/1910.03151",
    ):
        assert line in card.text
    assert 'ImageClassifier.from_pretrained("OWNER/eca_resnet20")' in card.text

    more = {"license": "cc-by-4.0", "datasets": ["owner/birds"]}
    classifier.save_pretrained(tmp_path / "more", model_card_kwargs=more)
    data = huggingface_hub.ModelCard.load(tmp_path / "more" / "README.md").data
    assert (data.license, data.datasets) == ("cc-by-4.0", ["owner/birds"])
    top1 = next(result for result in data.eval_results if result.metric_name == "top1")
    assert (top1.metric_type, top1.metric_value) == ("accuracy", 0.9444)
    assert (top1.dataset_type, top1.dataset_split) == ("owner/birds", "validation")


def test_the_card_of_a_detector(detector, tmp_path):
    detector.save_pretrained(tmp_path)
    card = huggingface_hub.ModelCard.load(tmp_path / "README.md")
    assert card.data.pipeline_tag == "object-detection"
    assert {"mask_rcnn", "eca", "shallow.basic_blocks"} <= set(card.data.tags)
    assert "# mask_rcnn_eca_" in card.text
    assert "| classes | 2: red, blue |" in card.text


def test_what_would_be_pushed(classifier, monkeypatch):
    pushed = {}

    class Api:
        def __init__(self, token=None):
            pass

        def create_repo(self, repo_id, **options):
            return type("Url", (), {"repo_id": repo_id})

        def upload_folder(self, *, repo_id, folder_path, **options):
            pushed[repo_id] = {path.name: path.read_bytes() for path in folder_path.iterdir()}
            return "https://the.commit"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    assert classifier.push_to_hub("me/model") == "https://the.commit"
    (files,) = pushed.values()
    assert files.keys() == {"README.md", "config.json", "model.safetensors"}
    assert json.loads(files["config.json"])["class_names"] == ["c\u00e4t", "dog", "emu"]


@pytest.mark.slow
def test_without_the_library_all_else_works(tmp_path):
    code = """
import torch
from eca_lightning.backbones import BackboneConfig
from eca_lightning import ImageClassifier
model = ImageClassifier(BackboneConfig("resnet20", num_classes=3)).eval()
print(model(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape)
for call in (lambda: model.save_pretrained("x"), lambda: ImageClassifier.from_pretrained("x"),
             lambda: model.push_to_hub("me/x")):
    try:
        call()
    except ImportError as error:
        print(error)
"""
    printed = run_forked(tmp_path, run_without, ["huggingface_hub"], code)
    assert "torch.Size([1, 3])" in printed
    message = "needs huggingface_hub, which is missing: pip install 'eca-lightning[hub]'"
    assert printed.count(message) == 3
