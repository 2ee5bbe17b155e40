"""Which classes are taken for one another."""

import math
from types import SimpleNamespace

import pytest
import torch

from eca_lightning import ConfusionReport
from eca_lightning.classification.callbacks.confusion import by_class, draw, most_confused

NAMES = ["cat", "dog", "bird|bat"]
COUNTS = torch.tensor([[8, 2, 0], [5, 5, 0], [1, 0, 3]])


def rows(table):
    cells = [line.strip("| ").split(" | ") for line in table.splitlines()]
    return cells[2:]  # after the header and its rule


def test_pairs_are_listed_by_how_often_they_are_confused():
    assert rows(most_confused(COUNTS, NAMES, 20)) == [
        ["dog", "cat", "5", "50%"],
        ["cat", "dog", "2", "20%"],
        ["bird&#124;bat", "cat", "1", "25%"],
    ]
    assert len(rows(most_confused(COUNTS, NAMES, 2))) == 2
    assert "No image" in most_confused(torch.eye(3).long(), NAMES, 20)


@pytest.mark.parametrize("classes", [2, 30])
def test_the_figure_has_a_row_for_each_class(classes):
    axes = draw(torch.eye(classes).long(), [f"class {k}" for k in range(classes)]).axes[0]
    assert axes.images[0].get_array().shape == (classes, classes)
    assert [label.get_text() for label in axes.get_yticklabels()][-1] == f"class {classes - 1}"


@pytest.mark.slow
def test_validation_counts_each_image_once(fit, classifier, tiny_data):
    """A network that always says 0 takes each image of the others for one of 0."""
    model = classifier()
    with torch.no_grad():
        model.backbone.fc.weight.zero_()
        model.backbone.fc.bias.copy_(torch.tensor([1.0, 0, 0]))
    model.configure_optimizers = lambda: torch.optim.SGD(model.parameters(), lr=0.0)
    events = fit(ConfusionReport(), model=model, max_epochs=2)
    kept = torch.arange(40) % 10 != 9
    expected = [
        [tiny_data.class_names[k], "red", str(int((tiny_data.labels[kept] == k).sum())), "100%"]
        for k in (1, 2)
    ]
    for table in events.texts("val/most_confused"):
        assert sorted(rows(table)) == sorted(expected)
    assert len(events.texts("val/most_confused")) == 2
    assert len(events.events.Images("val/confusion_matrix")) == 2


def test_predictions_that_are_not_finite_are_no_class(classifier, tiny_data):
    model, report = classifier(), ConfusionReport()
    for values in ([math.nan] * 3, [0.0, math.inf, 0.0], [0.0, 1.0, math.nan], [0.0, 1.0, 0.0]):
        counts = report.collect(None, model, torch.tensor([values]), (None, torch.tensor([0])))
        assert counts.nonzero().tolist() == [[1 if values == [0.0, 1.0, 0.0] else 9]]
    written = {}
    writer = SimpleNamespace(
        add_text=lambda tag, text: written.update({tag: text}), add_figure=lambda *_: None
    )
    report.write(writer, counts.index_fill(0, torch.tensor([9]), 4), model)
    assert written["val/most_confused"].endswith("4 images whose predictions are NaN or infinite.")


def test_many_classes_are_listed_but_not_drawn(fit):
    events = fit(ConfusionReport(max_drawn=2), limit_train_batches=1)
    assert events.tags("images") == []
    assert events.texts("val/most_confused")


def test_recall_and_precision_are_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    true, predicted = [0, 0, 0, 1, 1, 2, 2, 2], [0, 0, 1, 1, 1, 1, 0, 1]
    counts = torch.tensor(metrics.confusion_matrix(true, predicted, labels=range(4)))
    lines = by_class(counts, list("abcd")).splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    recall = metrics.recall_score(true, predicted, average=None)
    precision = metrics.precision_score(true, predicted, average=None, zero_division=0)
    assert [row[0] for row in rows] == ["c", "a", "b", "d"]
    assert [row[2] for row in rows] == [*(f"{recall[k]:.1%}" for k in (2, 0, 1)), "-"]
    assert [row[3] for row in rows] == ["-", *(f"{precision[k]:.1%}" for k in (0, 1)), "-"]
