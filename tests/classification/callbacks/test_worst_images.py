"""The images with the highest losses."""

import pytest
import torch
from torch.nn import functional as F

from eca_lightning import ImageFolderDataModule, WorstImages
from eca_lightning.classification.callbacks import worst_images


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn, which is drawn nevertheless."""
    kept, draw = [], worst_images.draw

    def draw_and_keep(worst, names, files):
        kept.append((worst, names, files))
        return draw(worst, names, files)

    monkeypatch.setattr(worst_images, "draw", draw_and_keep)
    return kept


@pytest.mark.parametrize("batch_size", [3, 40])
def test_are_found_wherever_they_are(drawn, make_trainer, classifier, tiny_data, batch_size):
    tiny_data.batch_size = batch_size
    model = classifier()
    trainer = make_trainer(WorstImages(images=6))
    trainer.validate(model, datamodule=tiny_data, verbose=False)
    kept = torch.arange(40) % 10 != 9
    images, labels = tiny_data.images[kept], tiny_data.labels[kept]
    with torch.no_grad():
        logits = model.eval()(images)
    losses, order = F.cross_entropy(logits, labels, reduction="none").sort(descending=True)
    ((worst, names, _),) = drawn
    torch.testing.assert_close(worst.losses, losses[:6])
    assert torch.equal(worst.images, images[order[:6]])
    assert torch.equal(worst.labels, labels[order[:6]])
    assert torch.equal(worst.predicted, logits.argmax(1)[order[:6]])
    assert names == tiny_data.class_names


@pytest.mark.slow
def test_fewer_images_than_asked_for_and_no_padding_among_them(drawn, fit):
    events = fit(WorstImages(images=100), limit_train_batches=2, val_check_interval=1)
    assert [len(worst.losses) for worst, *_ in drawn] == [36, 36]
    assert all((worst.labels >= 0).all() for worst, *_ in drawn)
    assert len(events.events.Images("val/worst")) == 2


def test_each_image_is_drawn_with_its_classes():
    worst = worst_images.Scored(
        torch.tensor([4.0, 3.0, 2.0, 1.0, 0.5]),
        torch.tensor([0, 1, 0, 1, 0]),
        torch.tensor([1, 0, 1, 0, 0]),
        torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 4, 4),
        torch.arange(5),
    )
    axes = worst_images.draw(worst, ["cat", "dog"]).axes
    shown = [a for a in axes if a.images]
    assert [a.images[0].get_array().max() for a in shown] == [0, 1, 2, 3, 4]
    assert shown[0].get_title() == "cat\npredicted dog\nloss 4.00"
    assert worst_images.draw(worst, None).axes[0].get_title().startswith("0\npredicted 1")


def test_predictions_that_are_not_finite_come_first_and_have_no_class(classifier):
    logits = torch.tensor([[0.0, 1.0, 9.0], [torch.nan] * 3])
    batch = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 0])
    worst = WorstImages().collect(None, classifier(), logits, batch)
    assert worst.predicted.tolist() == [-1, 2]
    title = worst_images.draw(worst, ["cat", "dog", "cow"]).axes[0].get_title()
    assert title == "cat\npredicted no class\nloss nan"


def test_number_of_images_must_be_positive():
    with pytest.raises(ValueError, match="images"):
        WorstImages(images=0)


@pytest.mark.parametrize("batch_size", [4, 40])
def test_files_are_named(drawn, make_trainer, classifier, image_folder, batch_size):
    options = {"image_size": 16, "batch_size": batch_size, "num_workers": 0}
    data = ImageFolderDataModule(train=image_folder, val=image_folder, **options)
    make_trainer(WorstImages(images=5)).validate(classifier(), datamodule=data, verbose=False)
    ((worst, names, files),) = drawn
    assert len(set(files)) == 5
    batches = list(data.val_dataloader())
    images = torch.cat([images[labels >= 0] for images, labels in batches])
    paths = sorted(image_folder.rglob("*.jpg"))
    named = [images[paths.index(image_folder / file)] for file in files]
    assert torch.equal(torch.stack(named), worst.images)
    assert [file.split("/")[0] for file in files] == [names[k] for k in worst.labels.tolist()]
