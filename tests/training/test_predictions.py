"""The CSV of eca-lightning predict."""

import csv

import pytest
import torch
from lightning.pytorch import Trainer

from eca_lightning.backbones import BackboneConfig
from eca_lightning.tasks import ImageClassifier
from eca_lightning.training.callbacks import PredictionWriter


def predict(data, writer, folder):
    torch.manual_seed(0)
    model = ImageClassifier(BackboneConfig("resnet20", num_classes=3))
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        callbacks=[writer],
        enable_progress_bar=False,
    )
    return model, torch.cat(trainer.predict(model, datamodule=data))


def test_writes_the_best_classes_of_each_image_once(tiny_data, tmp_path):
    output = tmp_path / "new" / "table.csv"
    _, probabilities = predict(tiny_data, PredictionWriter(output, top=2), tmp_path)
    with output.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [str(i) for i in range(38)]  # two rows were padding
    for row, p in zip(rows, probabilities, strict=False):
        best = p.topk(2)
        names = [tiny_data.class_names[i] for i in best.indices]
        assert [row["class_1"], row["class_2"]] == names
        assert float(row["probability_1"]) == pytest.approx(best.values[0].item(), abs=1e-6)
    assert [path.name for path in output.parent.iterdir()] == ["table.csv"]


def test_default_place_and_number_of_classes(tiny_data, tmp_path):
    predict(tiny_data, PredictionWriter(), tmp_path)
    header = (tmp_path / "predictions.csv").read_text().splitlines()[0]
    assert header == "image,class_1,probability_1,class_2,probability_2,class_3,probability_3"


def test_top_must_be_positive():
    with pytest.raises(ValueError, match="top"):
        PredictionWriter(top=0)
