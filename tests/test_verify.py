"""The command that decodes all of a data set."""

import json
import shutil

import pytest
from command import error_lines
from tiny_scenes import scene, write_coco

from eca_lightning.cli import main

pytestmark = pytest.mark.usefixtures("as_a_program")


def cut(path):
    """Take the end off a file, which its header does not show."""
    path.write_bytes(path.read_bytes()[:-300])


def errors(capsys, *arguments):
    return error_lines(capsys, "data", "verify", *arguments)


@pytest.fixture
def photos(image_folder, tmp_path):
    for split in ("train", "val"):
        shutil.copytree(image_folder, tmp_path / "photos" / split)
    return tmp_path / "photos"


def test_good_folders_pass(photos, capsys):
    main(["data", "verify", str(photos)])
    assert capsys.readouterr().out.splitlines() == [
        f"{photos / split}: all 21 images are good" for split in ("train", "val")
    ]
    main(["data", "verify", str(photos / "val" / "cat"), "--num-workers", "1"])
    assert f"{photos / 'val' / 'cat'}: all 8 images are good" in capsys.readouterr().out


def test_all_that_is_wrong_with_folders_is_listed(photos, capsys):
    for name in ("train/apple/0", "train/bus/2", "val/cat/1"):
        cut(photos / f"{name}.jpg")
    (photos / "val" / "apple").rename(photos / "val" / "pear")
    (photos / "val" / "empty").mkdir()
    first, *faults = errors(capsys, photos)
    assert first == "4 faults in the data:"
    assert f"{photos / 'train'}: cannot read the image {photos}/train/apple/0.jpg: " in faults[0]
    assert "train/bus/2.jpg" in faults[1]
    assert "the class folder" in faults[2]
    assert "val/cat/1.jpg" in faults[3]
    (photos / "val" / "empty").rmdir()
    assert "have different classes: ['apple', 'pear']" in errors(capsys, photos)[-1]
    (line,) = errors(capsys, photos / "val")
    assert "val/cat/1.jpg" in line
    assert errors(capsys, photos, "--num_workers", "0") == ["num_workers must be at least 1, got 0"]


def test_a_coco_file_is_checked_with_its_images(tmp_path, capsys):
    root = tmp_path / "coco"
    root.mkdir()
    write_coco(root, "train", [scene(i, objects=2) for i in range(1, 6)])
    (root / "annotations").mkdir()
    file = (root / "train.json").rename(root / "annotations" / "instances_train.json")
    for path in (root, file):
        main(["data", "verify", str(path)])
        assert capsys.readouterr().out.endswith(": all annotations and 5 images are good\n")
    files = sorted((root / "train").iterdir())
    cut(files[0])
    files[1].unlink()
    first, *faults = errors(capsys, root)
    assert first == "2 faults in the data:"
    assert f"cannot read the image {files[0]}" in faults[0]
    assert f"{files[1]}, image 2 of {file}, does not exist" in faults[1]
    content = json.loads(file.read_text())
    content["annotations"][2]["segmentation"] = {"counts": [1, 2], "size": [64, 64]}
    file.write_text(json.dumps(content))
    elsewhere = file.rename(tmp_path / "mine.json")
    first, *faults = errors(capsys, elsewhere, "--images", root / "train")
    assert "mine.json: annotation 3 has no usable segmentation" in faults[0]
    assert len(faults) == 2  # one that is not named any more cannot be missing
    assert "images: " in errors(capsys, elsewhere)[0]
    assert len(errors(capsys, elsewhere, "--images", root / "train", "--masks", "false")) == 3


def test_betons_are_verified_with_others_in_their_folder(photo_beton, tmp_path, capsys):
    for name in ("a", "b"):
        shutil.copy(photo_beton, tmp_path / f"{name}.beton")
        shutil.copy(f"{photo_beton}.json", tmp_path / f"{name}.beton.json")
    main(["data", "verify", str(tmp_path)])
    assert capsys.readouterr().out.count("all 21 samples are good (checksum too)") == 2
    for name in ("a", "b"):
        with (tmp_path / f"{name}.beton").open("r+b") as file:
            file.seek(-30, 2)
            file.write(b"mine")
    first, *faults = errors(capsys, tmp_path)
    assert first == "2 faults in the data:"
    assert ["a.beton" in faults[0], "b.beton" in faults[1]] == [True, True]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gone.beton", "gone.beton does not exist"),
        ("gone.json", "path: gone.json does not exist"),
        ("gone", "path: gone does not exist"),
        (".", "path: . holds no image"),
    ],
)
def test_what_is_not_there_is_named(path, message, capsys):
    assert message in errors(capsys, path)[0]
