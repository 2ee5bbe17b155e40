"""Images that a table labels."""

import pytest
from command import error_lines, error_of
from PIL import Image

pytest.importorskip("ffcv")

from eca_lightning.cli import main
from eca_lightning.data.ffcv.format import check_beton


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(12):
        Image.new("RGB", (8 + number, 9), (20 * number, 0, 0)).save(
            tmp_path / "images" / f"{number}.png"
        )
    return tmp_path


def write(folder, lines, *options, encoding="utf-8"):
    (folder / "list.csv").write_text("\n".join(lines), encoding)
    output = [] if "--output" in options else ["--output", str(folder / "out")]
    arguments = ["--csv", str(folder / "list.csv"), *output, "--num_workers", "1"]
    return ["data", "write", "csv", *arguments, *map(str, options)]


def test_labels_and_splits_of_a_table(images, capsys):
    splits = ["train", "train", "val", "test"] * 3
    rows = [f"images/{n}.png,{10 - n % 3},{splits[n]},x" for n in range(12)]
    main(write(images, ["path,label,split,photographer", *rows]))
    train, val, test = (
        check_beton(images / "out" / f"{s}.beton") for s in ("train", "val", "test")
    )
    assert train.class_names == val.class_names == ["8", "9", "10"]  # as numbers
    assert [len(part.labels) for part in (train, val, test)] == [6, 3, 3]
    expected = {8 + n: ["8", "9", "10"].index(str(10 - n % 3)) for n in range(12)}
    for part in (train, val, test):
        assert part.labels.tolist() == [expected[w] for w in part.images["width"].tolist()]
    assert "fewer than 20 images in train.beton of 8 (2), 9 (2), 10 (2)" in capsys.readouterr().out


def test_one_file_and_a_split_of_it(images):
    rows = [f"{n}.png;{'cät' if n % 3 else 'dog, wet'}" for n in range(12)]
    lines = ["path;label", *rows, ""]
    root = ["--root", images / "images"]
    main(write(images, lines, *root, "--output", images / "all.beton", encoding="utf-8-sig"))
    assert check_beton(images / "all.beton").class_names == ["cät", "dog, wet"]
    main(write(images, lines, *root, "--val_fraction", "0.25"))
    assert check_beton(images / "out" / "val.beton").sidecar.class_counts == [2, 1]


def test_labels_with_line_breaks_and_spaces_before_quotes(images):
    labels = ["a\u2028b", "c\fd", '"e\nf"', ' "g, h"']
    rows = [f"images/{n}.png,{label}" for n, label in enumerate(labels)]
    main(write(images, ["path, label", *rows], "--output", images / "x.beton"))
    assert check_beton(images / "x.beton").class_names == ["a\u2028b", "c\fd", "e\nf", "g, h"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["file,label"], "has no column path: let its first line be path,label"),
        ([], "has no column label and no column path"),
        (["path,label"], "lists no image"),
        (["path,label", "images/0.png,"], "line 2: its label is empty"),
        (["path,label", ",a"], "line 2: its path is empty"),
        (["path,label", "images/0.png,a,b"], "line 2: it has more columns than the first line"),
        (["path,label", "gone.png,a"], "line 2: there is no file "),
        (["path,label", "images,a"], "line 2: there is no file "),
        (["path,label", "x" * 5000 + ",a"], "line 2: there is no file "),
        (["path,label", "images/0\0.png,a"], "line 2: there is no file "),
        (["path,label,label", "images/0.png,a,b"], "several columns label: rename all but one"),
        (['path,"label', "images/0.png,a"], "list.csv, after line 0: unexpected end of data"),
        (["path,label", "images/0.png,a", "images/../images/0.png,b"], "listed in line 2 already"),
        (["path,label,split", "images/0.png,a,dev"], "its split is 'dev', and not one of train"),
        (["path,label", "images/0.png,a", "images/0.png,b"], "is listed in line 2 already"),
        (["path,label", 'images/0.png,"a'], "list.csv, after line 1: unexpected end of data"),
    ],
)
def test_lines_that_are_wrong(images, capsys, lines, message):
    assert message in " ".join(error_lines(capsys, *write(images, lines)))
    assert not (images / "out").exists()


def test_options_that_do_not_fit(images, capsys):
    lines = ["path,label,split", "images/0.png,a,train", "images/1.png,a,val"]
    error = error_of(capsys, *write(images, lines, "--val_fraction", "0.2"))
    assert error.endswith("list.csv has a column split already: leave it out")
    assert "must end in .beton" in error_of(
        capsys, *write(images, ["path,label", "images/0.png,a"])
    )
    error = error_of(capsys, *write(images, lines, "--output", images / "x.beton"))
    assert "a folder is needed" in error
    no_csv = ["data", "write", "csv", "--csv", str(images), "--output", "x"]
    assert f"csv: there is no file {images}" in error_of(capsys, *no_csv)
    no_root = write(images, ["path,label", "images/0.png,a"], "--root", "gone")
    assert "root: gone does not exist" in error_of(capsys, *no_root)
    latin = write(images, ["path,label", "images/0.png,chät"], encoding="latin-1")
    assert "is not UTF-8" in error_of(capsys, *latin)


def test_no_argument_of_the_code_behind_is_an_option(capsys, as_a_program):
    with pytest.raises(SystemExit):
        main(["data", "write", "csv", "--help"])
    shown = capsys.readouterr().out
    assert "--val_fraction" in shown
    assert "--source" not in shown
    assert "Conditional" not in shown
