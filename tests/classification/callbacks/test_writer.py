"""The table of eca-lightning predict."""

import csv
import json
import os
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from eca_lightning import ImageClassifier, ImageFolderDataModule, PredictionWriter
from eca_lightning.backbones import BackboneConfig
from eca_lightning.classification.metrics import ranks


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


def test_equal_probabilities_are_in_the_order_by_which_accuracy_counts(tmp_path):
    logits = torch.zeros(4, 1000)
    logits[:, 700], logits[3, 5:7] = 1.0, 2.0
    writer, loader = PredictionWriter(tmp_path / "table.csv", top=4), [[0, 1, 2, 3]]
    trainer = SimpleNamespace(predict_dataloaders=loader)
    writer.write_on_batch_end(trainer, None, logits.softmax(1), [0, 1, 2, 3], None, 0)
    ((_, classes, _),) = writer.parts
    assert classes.tolist() == 3 * [[700, 0, 1, 2]] + [[5, 6, 700, 0]]
    for place, labels in enumerate(torch.from_numpy(classes).T):
        assert ranks(logits, labels).tolist() == [place] * 4


def test_a_table_is_not_written_where_a_prediction_is_not_finite(tiny_data, tmp_path):
    model = ImageClassifier(BackboneConfig("resnet20", num_classes=3))
    torch.nn.init.constant_(model.backbone.fc.bias, torch.inf)
    writer = PredictionWriter(tmp_path / "table.csv")
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[writer], barebones=False)
    with pytest.raises(FloatingPointError, match="40 predictions are NaN or infinite"):
        trainer.predict(model, datamodule=tiny_data)
    assert not list(tmp_path.iterdir())


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
    assert header == "image,class_1,probability_1,class_2,probability_2,class_3,probability_3,error"


@pytest.fixture
def photos(tmp_path):
    """Five files of which the second and the last are no images; the third's name is no UTF-8."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate(("a.png", "b.png", os.fsdecode(b"c\xff.png"), "d.png", "e.png")):
        if number in (1, 4):
            (folder / name).write_bytes(b"no image")
        else:
            Image.new("RGB", (16, 16), (50 * number, 100, 0)).save(folder / name)
    options = {"image_size": 16, "resize_size": 16, "num_workers": 0, "batch_size": 2}
    return lambda **more: ImageFolderDataModule(predict=folder, **options, **more)


def read(path):
    """The rows of a table, with None where there is nothing."""
    if path.suffix == ".parquet":
        return pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return list(map(json.loads, path.read_text().splitlines()))
    with path.open() as file:
        return [{k: v or None for k, v in row.items()} for row in csv.DictReader(file)]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_images_that_cannot_be_read_are_marked(photos, tmp_path, ending, caplog):
    output = tmp_path / f"table.{ending}"
    with caplog.at_level("INFO"):
        _, probabilities = predict(photos(), PredictionWriter(output, top=1), tmp_path)
    rows = read(output)
    names = ["a.png", "b.png", "c\\xff.png", "d.png", "e.png"]
    assert [row["image"] for row in rows] == [f"{tmp_path}/photos/{name}" for name in names]
    assert list(rows[0]) == ["image", "class_1", "probability_1", "error"]
    good = [row for row in rows if row["error"] is None]
    assert [float(row["probability_1"]) for row in good] == pytest.approx(
        probabilities.amax(1).tolist(), abs=1e-6
    )
    assert [int(row["class_1"]) for row in good] == probabilities.argmax(1).tolist()
    bad = [rows[1], rows[4]]
    assert all(row["class_1"] is row["probability_1"] is None for row in bad)
    for row in bad:
        assert row["error"].startswith(f"cannot read the image {row['image']}: ")
        assert row["error"] in caplog.messages
    assert "2 images could not be read and were skipped" in caplog.messages


def test_unreadable_images_are_an_error_if_asked_for(photos, tmp_path):
    with pytest.raises(ValueError, match=r"data.predict: cannot read the image .*photos/b\.png: "):
        predict(photos(on_unreadable="raise"), PredictionWriter(tmp_path / "t.csv"), tmp_path)
    assert not (tmp_path / "t.csv").exists()


def test_a_table_of_nothing_but_errors(photos, tmp_path):
    (tmp_path / "list.txt").write_text(f"{tmp_path}/photos/b.png\n{tmp_path}/gone.png\n")
    data = photos()
    data.paths["predict"] = tmp_path / "list.txt"
    model = ImageClassifier(BackboneConfig("resnet20", num_classes=3))
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        callbacks=[PredictionWriter(tmp_path / "t.jsonl", top=1)],
        enable_progress_bar=False,
    )
    assert trainer.predict(model, datamodule=data) == []
    rows = read(tmp_path / "t.jsonl")
    assert [row["image"] for row in rows] == [f"{tmp_path}/photos/b.png", f"{tmp_path}/gone.png"]
    assert "No such file" in rows[1]["error"]


def test_options_are_checked(tmp_path):
    with pytest.raises(ValueError, match="--top must be at least 1, got 0"):
        PredictionWriter(top=0)
    with pytest.raises(ValueError, match=r"--output: .*let .* end in \.csv, \.jsonl"):
        PredictionWriter(tmp_path / "table.xlsx")
