"""Reading and listing image files."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from eca_lightning.data.folder.files import (
    find_images,
    first_image_size,
    list_class_folders,
    open_rgb,
    read_rgb,
)


def pictures():
    rng = np.random.default_rng(0)
    gray = rng.integers(0, 256, (30, 40), np.uint8)
    color = Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8))
    return {
        "gray.png": Image.fromarray(gray),
        "bilevel.png": Image.fromarray(gray).convert("1"),
        "deep.png": Image.fromarray(gray.astype(np.uint16) * 257),
        "palette.png": color.quantize(64),
        "transparent.png": color.convert("RGBA"),
        "gray_alpha.png": Image.fromarray(gray).convert("LA"),
        "print.jpg": color.convert("CMYK"),
        "gray.jpg": Image.fromarray(gray),
        "ycbcr.tiff": color.convert("YCbCr"),
    }


@pytest.mark.parametrize("name", pictures())
def test_every_kind_of_image_becomes_rgb_as_pil_converts_it(name, tmp_path):
    pictures()[name].save(tmp_path / name)
    with Image.open(tmp_path / name) as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(read_rgb(tmp_path / name), expected)
    assert open_rgb(tmp_path / name).mode == "RGB"
    assert first_image_size([tmp_path / name]) == (30, 40)


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\xff\xd8\xff\xe0 nor this"])
def test_a_file_that_is_no_image_is_named(content, tmp_path):
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.jpg"):
        read_rgb(path)


def test_a_truncated_image_is_named(image_folder, tmp_path):
    content = (image_folder / "cat" / "0.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"half\.jpg.*truncated"):
        read_rgb(tmp_path / "half.jpg")


def test_classes_and_files_are_those_of_torchvision(image_folder):
    files = list_class_folders(image_folder)
    peer = ImageFolder(image_folder)
    assert files.class_names == peer.classes == ["apple", "bus", "cat"]
    assert files.num_classes == 3
    labeled = [(str(p), label) for p, label in zip(files.paths, files.labels, strict=True)]
    assert labeled == peer.samples


def test_other_files_are_ignored_and_nested_ones_found(tmp_path):
    for name in ("a/1.png", "a/deep/2.JPEG", "a/notes.txt", "b/3.webp", "readme.md"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    names = [str(path.relative_to(tmp_path)) for path in list_class_folders(tmp_path).paths]
    assert names == ["a/1.png", "a/deep/2.JPEG", "b/3.webp"]


def test_an_empty_class_folder_is_named(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "1.png").touch()
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow" / "notes.txt").touch()
    with pytest.raises(ValueError, match="hollow holds no image"):
        list_class_folders(tmp_path)


def test_a_folder_that_is_none_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data\.val: .*nowhere does not exist"):
        list_class_folders(tmp_path / "nowhere", "data.val")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"data\.val: .*file is a file"):
        list_class_folders(tmp_path / "file", "data.val")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"data\.val: .*empty holds no"):
        list_class_folders(tmp_path / "empty", "data.val")


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Some empty files, from whose folder the test is called."""
    for name in ("b/2.PNG", "b/deep/3.jpg", "a.jpg", "b/notes.md", "odd[1].jpg", "c.beton"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("photos", ["a.jpg", "b/2.PNG", "b/deep/3.jpg", "odd[1].jpg"]),
        ("photos/*", ["a.jpg", "odd[1].jpg"]),
        ("photos/b/*.[Pp]NG", ["b/2.PNG"]),
        ("photos/**/*.jpg", ["a.jpg", "b/deep/3.jpg", "odd[1].jpg"]),
        ("photos/b/2.PNG", ["b/2.PNG"]),
        ("photos/odd[1].jpg", ["odd[1].jpg"]),
    ],
)
def test_images_are_found(files, source, expected):
    assert find_images(Path(source)) == [Path("photos", name) for name in expected]
    assert find_images(files.parent / source) == [files / name for name in expected]


def test_a_list_keeps_its_order_and_names_of_any_bytes(files):
    (files / "list.txt").write_bytes(
        b"\xef\xbb\xbfphotos/b/2.PNG\r\n\ngone.jpg\nphotos/\xff 1.jpg\n"
    )
    found = find_images(files / "list.txt")
    assert found == [Path("photos/b/2.PNG"), Path("gone.jpg"), Path("photos/\udcff 1.jpg")]


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("nowhere", FileNotFoundError, "data.predict: nowhere does not exist"),
        ("nowhere.txt", FileNotFoundError, "data.predict: nowhere.txt does not exist"),
        ("photos/*.gif", ValueError, "data.predict: photos/*.gif matches no image (no file ending"),
        ("empty", ValueError, "data.predict: empty holds no image (no file ending in .jpg"),
        ("photos/b/notes.md", ValueError, "notes.md is neither a folder, nor an image (.jpg"),
        ("photos/c.beton", ValueError, ".beton files are read by FFCVDataModule"),
        ("blank.txt", ValueError, "blank.txt names no image: write one path per line"),
        (
            "wrong.txt",
            FileNotFoundError,
            "none of the 2 files in wrong.txt exists, for example x.jpg",
        ),
    ],
)
@pytest.mark.usefixtures("files")
def test_what_stands_for_no_image_is_named(source, error, message):
    Path("empty").mkdir()
    Path("blank.txt").write_text(" \n")
    Path("wrong.txt").write_text("x.jpg\ny.jpg\n")
    with pytest.raises(error, match=re.escape(message)):
        find_images(Path(source), "data.predict")


def test_the_size_of_the_first_image_that_can_be_read(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    pictures()["gray.png"].save(tmp_path / "b.png")
    assert first_image_size([tmp_path / "a.png", tmp_path / "b.png"]) == (30, 40)
    assert first_image_size([tmp_path / "a.png"]) is None
