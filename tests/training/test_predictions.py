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
    assert [row["image"] for row in rows] == [str(i) for i in range(40)]
    for row, p in zip(rows, probabilities, strict=True):
        best = p.topk(2)
        names = [tiny_data.class_names[i] for i in best.indices]
        assert [row["class_1"], row["class_2"]] == names
        assert float(row["probability_1"]) == pytest.approx(best.values[0].item(), abs=1e-6)
    assert [path.name for path in output.parent.iterdir()] == ["table.csv"]


def test_rows_that_pad_a_rank_are_left_out(tiny_data, tmp_path):
    class Padded:
        """Two batches whose indices, as of our own loaders, say which rows are padding."""

        def __iter__(self):
            return iter(tiny_data.images[:6].unflatten(0, (2, 3)).unsqueeze(1))

        def __len__(self):
            return 2

        def batch_indices(self, batch):
            return [[4, 2, 0], [3, 1, -1]][batch]

    tiny_data.predict_dataloader = Padded
    predict(tiny_data, PredictionWriter(tmp_path / "table.csv"), tmp_path)
    lines = (tmp_path / "table.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in lines] == ["0", "1", "2", "3", "4"]


def test_default_place_and_number_of_classes(tiny_data, tmp_path):
    predict(tiny_data, PredictionWriter(), tmp_path)
    header = (tmp_path / "predictions.csv").read_text().splitlines()[0]
    assert header == "image,class_1,probability_1,class_2,probability_2,class_3,probability_3"


def test_top_must_be_positive():
    with pytest.raises(ValueError, match="top"):
        PredictionWriter(top=0)
