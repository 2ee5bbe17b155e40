"""Reading and listing image files."""

import os
import re
from pathlib import Path

import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from eca_lightning.data.folder.files import (
    find_images,
    first_image_size,
    list_class_folders,
)


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


@pytest.fixture
def said(monkeypatch):
    """What is said on rank zero."""
    lines = []
    monkeypatch.setattr("lightning.pytorch.utilities.rank_zero_info", lines.append)
    return lines


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_all_that_is_left_out_is_counted_in_one_line(tmp_path, said):
    hidden = ("a/._1.jpg", "a/Thumbs.db", "__MACOSX/a/1.jpg", ".ipynb_checkpoints/1.jpg")
    others = ("a/x.heic", "a/deep/y.HEIC", "b/notes", "readme.md")
    touch(tmp_path, "a/1.jpg", "b/2.jfif", "0.png", *hidden, *others)
    files = list_class_folders(tmp_path, "data.train")
    assert files.class_names == ["a", "b"]
    assert [path.name for path in files.paths] == ["1.jpg", "2.jfif"]
    (line,) = said
    assert re.fullmatch(
        rf"data\.train: {tmp_path}: left out 4 hidden \(.*, \.\.\.\); 1 outside the class folders; "
        r"4 not images \(2 \.heic, 1 \.md, 1 no extension\)",
        line,
    )
    assert len(find_images(tmp_path)) == 3
    assert "left out 4 hidden" in said[1]


def test_nothing_is_said_where_nothing_is_left_out(image_folder, said):
    list_class_folders(image_folder)
    find_images(image_folder)
    assert said == []


def test_links_are_followed_without_end_nor_twice(tmp_path, said):
    touch(tmp_path, "elsewhere/1.jpg", "elsewhere/deep/2.jpg", "root/a/0.jpg")
    root = tmp_path / "root"
    (root / "b").symlink_to(tmp_path / "elsewhere")  # a class
    (root / "a" / "up").symlink_to(root)  # a cycle
    (root / "a" / "self").symlink_to("self")
    (root / "a" / "gone.jpg").symlink_to("nowhere")
    names = [str(path.relative_to(root)) for path in list_class_folders(root).paths]
    assert names[:2] == ["a/0.jpg", "a/gone.jpg"]
    assert names[-2:] == ["b/1.jpg", "b/deep/2.jpg"]
    found = [str(path.relative_to(root)) for path in find_images(root)]
    assert found == ["a/0.jpg", "a/gone.jpg", "b/1.jpg", "b/deep/2.jpg"]
    assert "1 linked folders that are listed already" in said[-1]


def test_class_names_that_are_not_utf8_are_refused(tmp_path):
    touch(tmp_path, "cat/1.jpg")
    os.mkdir(os.fsencode(tmp_path) + b"/h\xe9ron")
    with pytest.raises(ValueError, match=r"1 class folders in .* are not UTF-8: h\\xe9ron; rename"):
        list_class_folders(tmp_path, "data.train")


def test_globs_leave_out_what_is_hidden_unless_it_is_spelled_out(tmp_path):
    touch(tmp_path, "a/1.jpg", "a/._1.jpg", "__MACOSX/1.jpg", ".cache/2.jpg")
    assert find_images(tmp_path / "**" / "*.jpg") == [tmp_path / "a/1.jpg"]
    assert find_images(tmp_path / ".cache" / "*.jpg") == [tmp_path / ".cache/2.jpg"]


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
    Image.new("L", (40, 30)).save(tmp_path / "b.png")
    assert first_image_size([tmp_path / "a.png", tmp_path / "b.png"]) == (30, 40)
    assert first_image_size([tmp_path / "a.png"]) is None
