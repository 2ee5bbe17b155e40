"""``eca-lightning predict`` with a small classifier, on images of every kind."""

import csv
import json
from pathlib import Path

import pytest
from command import fails
from small_run import best
from thorough import thorough

from eca_lightning.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_a_program")]


def test_predict_names_every_image_of_a_folder(work, tmp_path):
    folder, table = work / "images" / "val", tmp_path / "photos.csv"
    options = ["--data.predict", str(folder), "--output", str(table)]
    checkpoint = ["--ckpt_path", str(best(work)), "--data.num_workers", "0"]
    main(["predict", "--config", str(work / "small.yaml"), *options, *checkpoint])
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == sorted(str(path) for path in folder.rglob("*.png"))
    right = [Path(row["image"]).parent.name == row["class_1"] for row in rows]
    assert sum(right) / len(right) > 0.9
    chances = [float(row[f"probability_{k}"]) for row in rows[:1] for k in (1, 2, 3)]
    assert sum(chances) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("source", ["list", *thorough("glob", "image")])
def test_predict_takes_images_in_other_ways(work, tmp_path, source):
    folder = work / "images" / "val"
    expected = sorted((folder / "red").iterdir())
    (tmp_path / "list.txt").write_text("\n".join(map(str, expected)))
    if source == "image":
        del expected[1:]
    sources = {"glob": folder / "r*" / "*.png", "list": "list.txt", "image": expected[0]}
    options = ["--data.predict", str(sources[source]), "--output", "table.jsonl"]
    checkpoint = ["--ckpt_path", str(best(work)), "--data.num_workers", "0"]
    main(["predict", "--config", str(work / "small.yaml"), *options, *checkpoint])
    rows = [json.loads(line) for line in (tmp_path / "table.jsonl").read_text().splitlines()]
    assert [row["image"] for row in rows] == list(map(str, expected))
    assert {row["class_1"] for row in rows} == {"red"}


def test_predict_goes_on_without_what_it_cannot_read(work, tmp_path, capsys):
    good = work / "images" / "val" / "red" / "00.png"
    (tmp_path / "bad.png").write_text("no image")
    (tmp_path / "list.txt").write_text(f"bad.png\n{good}\n")
    run = ["predict", "--config", str(work / "small.yaml"), "--data.predict", "list.txt"]
    run += ["--ckpt_path", str(best(work)), "--output", "table.jsonl"]
    main(run)
    bad, read = map(json.loads, (tmp_path / "table.jsonl").read_text().splitlines())
    assert (bad["image"], bad["class_1"]) == ("bad.png", None)
    assert "cannot read the image bad.png" in bad["error"]
    assert (read["image"], read["class_1"], read["error"]) == (str(good), "red", None)
    (tmp_path / "table.jsonl").unlink()
    error = fails(capsys, *run, "--data.on_unreadable", "raise")
    assert "error: data.predict: cannot read the image bad.png" in error
    assert not (tmp_path / "table.jsonl").exists()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--data.predict", "*.tiff", "data.predict: *.tiff matches no image"),
        ("--output", "table.xls", "let table.xls end in .csv, .jsonl, .parquet"),
    ],
)
def test_predict_says_at_once_what_is_wrong(work, capsys, option, value, message):
    run = ["predict", "--config", work / "small.yaml", "--ckpt_path", best(work)]
    assert message in fails(capsys, *run, option, value)


def test_predict_reads_a_beton_too(work, tmp_path):
    table = tmp_path / "table.csv"
    options = ["--data.predict", str(work / "val.beton"), "--output", str(table)]
    main(
        ["predict", "--config", str(work / "small.yaml"), *options, "--ckpt_path", str(best(work))]
    )
    with table.open() as file:
        assert [row["image"] for row in csv.DictReader(file)] == [str(i) for i in range(21)]
