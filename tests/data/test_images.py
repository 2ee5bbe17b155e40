"""Reading and listing image files."""

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from eca_lightning.data.images import (
    image_size_of,
    list_class_folders,
    list_images,
    open_rgb,
    read_rgb,
)


def pictures():
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (30, 40), np.uint8)
    colour = Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8))
    return {
        "grey.png": Image.fromarray(grey),
        "bilevel.png": Image.fromarray(grey).convert("1"),
        "deep.png": Image.fromarray(grey.astype(np.uint16) * 257),
        "palette.png": colour.quantize(64),
        "transparent.png": colour.convert("RGBA"),
        "grey_alpha.png": Image.fromarray(grey).convert("LA"),
        "print.jpg": colour.convert("CMYK"),
        "grey.jpg": Image.fromarray(grey),
        "ycbcr.tiff": colour.convert("YCbCr"),
    }


@pytest.mark.parametrize("name", pictures())
def test_every_kind_of_image_becomes_rgb_as_pil_converts_it(name, tmp_path):
    pictures()[name].save(tmp_path / name)
    with Image.open(tmp_path / name) as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(read_rgb(tmp_path / name), expected)
    assert open_rgb(tmp_path / name).mode == "RGB"
    assert image_size_of(tmp_path / name) == (30, 40)


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
    labelled = [(str(p), label) for p, label in zip(files.paths, files.labels, strict=True)]
    assert labelled == peer.samples


def test_other_files_are_ignored_and_nested_ones_found(tmp_path):
    for name in ("a/1.png", "a/deep/2.JPEG", "a/notes.txt", "b/3.webp", "readme.md"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    names = [str(path.relative_to(tmp_path)) for path in list_class_folders(tmp_path).paths]
    assert names == ["a/1.png", "a/deep/2.JPEG", "b/3.webp"]
    assert [path.name for path in list_images(tmp_path)] == ["1.png", "2.JPEG", "3.webp"]


def test_an_empty_class_folder_is_named(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "1.png").touch()
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow" / "notes.txt").touch()
    with pytest.raises(ValueError, match="hollow holds no image"):
        list_class_folders(tmp_path)


@pytest.mark.parametrize("listing", [list_class_folders, list_images])
def test_a_folder_that_is_none_is_named(listing, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data\.val: .*nowhere does not exist"):
        listing(tmp_path / "nowhere", "data.val")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"data\.val: .*file is a file"):
        listing(tmp_path / "file", "data.val")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"data\.val: .*empty holds no"):
        listing(tmp_path / "empty", "data.val")
