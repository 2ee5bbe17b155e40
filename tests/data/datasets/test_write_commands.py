"""The commands that write data sets: image folders and Fashion-MNIST."""

import shutil

import numpy as np
import pytest

pytest.importorskip("ffcv")

from eca_lightning.data.datasets import fashion_mnist
from eca_lightning.data.datasets.fashion_mnist import write_fashion_mnist
from eca_lightning.data.datasets.image_folder import write_image_folder
from eca_lightning.data.ffcv.format import check_beton
from eca_lightning.data.folder.files import list_class_folders


def pixels(info, index):
    image = info.images[index]
    content = np.memmap(info.path, np.uint8, "r")
    return content[image["data_ptr"] :][: int(info.sizes[index])]


def test_a_folder_of_class_folders(photo_beton, image_folder):
    info = check_beton(photo_beton)
    files = list_class_folders(image_folder)
    assert info.class_names == ["apple", "bus", "cat"]
    assert info.labels.tolist() == files.labels
    assert info.sidecar.source == str(image_folder)
    assert info.sidecar.encoding.quality == 95


@pytest.fixture
def split_folder(image_folder, tmp_path):
    for split in ("train", "val"):
        shutil.copytree(image_folder, tmp_path / "source" / split)
    return tmp_path / "source"


def test_train_and_val_are_written_together(split_folder, tmp_path, capsys):
    (split_folder / "val" / "bus" / "0.jpg").unlink()
    write_image_folder(split_folder, tmp_path / "out", max_resolution=64, num_workers=2)
    train, val = (check_beton(tmp_path / "out" / f"{split}.beton") for split in ("train", "val"))
    assert (train.samples, val.samples) == (21, 20)
    assert train.class_names == val.class_names
    assert max(train.resolutions[1]) == 64
    assert "train.beton: 21 images in 3 classes" in capsys.readouterr().out


def test_train_and_val_must_have_the_same_classes(split_folder, tmp_path):
    (split_folder / "val" / "bus").rename(split_folder / "val" / "lorry")
    with pytest.raises(ValueError, match="only one of them has bus, lorry"):
        write_image_folder(split_folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_output_must_fit_the_source(split_folder, image_folder, tmp_path):
    with pytest.raises(ValueError, match=r"a folder is needed, not .*x\.beton"):
        write_image_folder(split_folder, tmp_path / "x.beton")
    with pytest.raises(ValueError, match=r"must end in \.beton"):
        write_image_folder(image_folder, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"source: .*gone does not exist"):
        write_image_folder(tmp_path / "gone", tmp_path / "x.beton")


@pytest.fixture
def damaged_folder(image_folder, tmp_path):
    source = shutil.copytree(image_folder, tmp_path / "source")
    (source / "bus" / "1.jpg").write_bytes(b"no image")
    return source


def test_an_unreadable_image_aborts_with_its_path(damaged_folder, tmp_path):
    with pytest.raises(ValueError, match=r"bus/1\.jpg"):
        write_image_folder(damaged_folder, tmp_path / "x.beton")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_an_unreadable_image_is_skipped_and_listed(damaged_folder, tmp_path, capsys):
    for _ in range(2):  # the second time the file is recognized and kept
        write_image_folder(damaged_folder, tmp_path / "x.beton", on_error="skip")
        assert "1 unreadable images skipped" in capsys.readouterr().out
    info = check_beton(tmp_path / "x.beton")
    assert info.samples == 20
    assert len(info.sidecar.skipped) == 1
    assert "bus/1.jpg" in info.sidecar.skipped[0]


def test_an_empty_class_folder_is_named(image_folder, tmp_path):
    source = shutil.copytree(image_folder, tmp_path / "source")
    (source / "zebra").mkdir()
    with pytest.raises(ValueError, match="zebra holds no image"):
        write_image_folder(source, tmp_path / "x.beton")


def test_fashion_mnist_is_grey_as_rgb(fashion_files, tmp_path):
    source, content = fashion_files
    output = tmp_path / "out"
    write_fashion_mnist(output, source)
    for split, prefix in (("train", "train"), ("val", "t10k")):
        images, labels = content[prefix]
        info = check_beton(output / f"{split}.beton")
        assert info.labels.tolist() == labels.tolist()
        assert info.class_names[0] == "T-shirt/top"
        for index, gray in enumerate(images):
            rgb = pixels(info, index).reshape(28, 28, 3)
            assert np.array_equal(rgb, np.stack([gray] * 3, axis=2))


def test_fashion_mnist_is_written_once(fashion_files, tmp_path):
    source, _ = fashion_files
    train = tmp_path / "out" / "train.beton"
    write_fashion_mnist(tmp_path / "out", source)
    written = train.stat().st_mtime_ns
    write_fashion_mnist(tmp_path / "out", source)
    assert train.stat().st_mtime_ns == written
    with pytest.raises(FileExistsError, match="--overwrite"):
        write_fashion_mnist(tmp_path / "out", source, mode="jpg")
    write_fashion_mnist(tmp_path / "out", source, mode="jpg", overwrite=True)
    assert check_beton(train).modes["jpg"] == 40


def test_fashion_mnist_is_downloaded_where_debian_has_none(fashion_files, tmp_path, monkeypatch):
    source, _ = fashion_files
    asked = []

    class Peer:
        raw_folder = str(source)
        classes = fashion_mnist.FashionMNIST.classes

        def __init__(self, root, download):
            asked.append((root, download))

    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "nowhere")
    monkeypatch.setattr(fashion_mnist, "FashionMNIST", Peer)
    write_fashion_mnist(tmp_path / "out")
    assert asked == [(str(tmp_path / "out"), True)]
    assert check_beton(tmp_path / "out" / "val.beton").samples == 10


@pytest.mark.parametrize("content", [b"", b"\x00\x00\x08\x01\x00\x00\x00\x09123", b"\x01" * 100])
def test_a_damaged_idx_file_is_named(content, tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(ValueError, match="train-images-idx3-ubyte is not a whole IDX file"):
        write_fashion_mnist(tmp_path / "out", tmp_path)
    with pytest.raises(FileNotFoundError, match="t10k-labels"):
        fashion_mnist.read_idx(tmp_path / "t10k-labels-idx1-ubyte")
