"""The commands that write data sets: image folders, torchvision's and Fashion-MNIST."""

import gzip
import inspect
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from command import error_lines
from PIL import Image
from torchvision import datasets

pytest.importorskip("ffcv")

from eca_lightning.cli import main
from eca_lightning.data.datasets import torchvision
from eca_lightning.data.datasets.image_folder import write_image_folder
from eca_lightning.data.datasets.torchvision import (
    DATA_SETS,
    FILES,
    write_fashion_mnist,
    write_torchvision,
)
from eca_lightning.data.ffcv import ffcv_api
from eca_lightning.data.ffcv.crop_decode import decode_crop
from eca_lightning.data.ffcv.format import check_beton
from eca_lightning.data.ffcv.verify import verify
from eca_lightning.data.folder.files import list_class_folders
from eca_lightning.data.folder.image import open_rgb


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


def test_a_folder_of_classes_is_split(image_folder, tmp_path, capsys):
    options = {"val_fraction": 0.25, "test_fraction": 0.1, "num_workers": 1}
    write_image_folder(image_folder, tmp_path / "out", **options)
    parts = [check_beton(tmp_path / "out" / f"{s}.beton") for s in ("train", "val", "test")]
    assert [part.samples for part in parts] == [12, 6, 3]
    assert "fewer than 20 images in train.beton of apple (4)" in capsys.readouterr().out
    assert parts[1].sidecar.class_counts == [2, 2, 2]
    write_image_folder(image_folder, tmp_path / "out", **options)
    assert "val.beton: kept" in capsys.readouterr().out
    with pytest.raises(FileExistsError, match="holds other data or settings"):
        write_image_folder(image_folder, tmp_path / "out", **options, seed=1)


def test_splits_that_are_there_already(split_folder, tmp_path):
    with pytest.raises(ValueError, match=r"val_fraction: .*holds train/ and val/ already"):
        write_image_folder(split_folder, tmp_path / "out", val_fraction=0.2)
    shutil.copytree(split_folder / "val", split_folder / "test")
    write_image_folder(split_folder, tmp_path / "out", num_workers=1)
    assert check_beton(tmp_path / "out" / "test.beton").samples == 21
    shutil.rmtree(split_folder / "val")
    with pytest.raises(ValueError, match=r"holds test/ and train/ and not both of train/ and val/"):
        write_image_folder(split_folder, tmp_path / "out", val_fraction=0.2)
    (split_folder / "train").rename(split_folder / "Train")
    (split_folder / "test").rename(split_folder / "Valid")
    with pytest.raises(ValueError, match=r"holds Train/ and Valid/ and not both.*give them these"):
        write_image_folder(split_folder, tmp_path / "out.beton")


def photo(width=60, height=40):
    rng = np.random.default_rng(width)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def test_jpegs_are_stored_byte_for_byte(tmp_path, capfd):
    folder = tmp_path / "photos" / "a"
    folder.mkdir(parents=True)
    turned = Image.Exif()
    turned[0x0112] = 6
    kept = {
        "gray": (photo(33, 47).convert("L"), {}),
        "plain": (photo(), {"quality": 70}),
        "progressive": (photo(50, 50), {"progressive": True}),
        "rgb": (photo(44, 35), {"keep_rgb": True}),
        "subsampled": (photo(61, 43), {"subsampling": "4:2:0"}),
        "upright": (photo(52, 31), {"exif": Image.Exif()}),
    }
    changed = {
        "cmyk": (photo(40, 40).convert("CMYK"), {}),
        "large": (photo(65, 20), {}),
        "turned": (photo(48, 32), {"exif": turned}),
        "wrong_name": (photo(20, 21), {"format": "PNG"}),
    }
    for name, (image, options) in (kept | changed).items():
        image.save(folder / f"{name}.jpg", **options)
    beton = tmp_path / "x.beton"
    write_image_folder(folder.parent, beton, max_resolution=64, num_workers=1)
    info = check_beton(beton)
    names = [path.stem for path in list_class_folders(folder.parent).paths]
    same = [
        info.read_image(i).tobytes() == (folder / f"{name}.jpg").read_bytes()
        for i, name in enumerate(names)
    ]
    assert [name for name, is_same in zip(names, same, strict=True) if is_same] == sorted(kept)
    sizes = dict(zip(names, info.images[["width", "height"]].tolist(), strict=True))
    assert (sizes["turned"], sizes["large"]) == ((32, 48), (64, 19))
    verify(beton)
    # Both decoders show them as Pillow does; FFCV's has the less exact, faster inverse DCT.
    for decoder, rounding in (("crop", 2), ("ffcv", 4)):
        for i, name in enumerate(names):
            shown = decoded(info, i, decoder)
            expected = np.asarray(open_rgb(folder / f"{name}.jpg")).astype(int)
            if name in kept:
                assert np.abs(shown - expected).max() <= rounding, (decoder, name)
    write_image_folder(folder.parent, tmp_path / "raw.beton", mode="raw", num_workers=1)
    assert check_beton(tmp_path / "raw.beton").modes["jpg"] == 0
    write_image_folder(folder.parent, tmp_path / "as_is.beton", exif="ignore", num_workers=1)
    info = check_beton(tmp_path / "as_is.beton")
    stored = info.read_image(names.index("turned")).tobytes()
    assert stored == (folder / "turned.jpg").read_bytes()


def decoded(info, index, decoder):
    image = info.images[index]
    size = int(image["height"]), int(image["width"])
    stream = info.read_image(index)
    if decoder == "crop":
        return decode_crop(stream.tobytes(), (0, 0, *size), size).astype(int)
    shown = np.empty((*size, 3), np.uint8)
    source, target = stream.ctypes.data, shown.ctypes.data
    options = (*size, 0, 0, 1, 1, False, False)
    assert ffcv_api.ctypes_imdecode(source, stream.size, *size, target, *options) == 0
    return shown.astype(int)


@pytest.fixture
def damaged_folder(image_folder, tmp_path):
    source = shutil.copytree(image_folder, tmp_path / "source")
    (source / "bus" / "1.jpg").write_bytes(b"no image")
    return source


def test_an_unreadable_image_aborts_with_its_path(damaged_folder, tmp_path):
    with pytest.raises(ValueError, match=r"bus/1\.jpg: .*; replace them, or .*--on_error skip$"):
        write_image_folder(damaged_folder, tmp_path / "x.beton")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_all_unreadable_images_of_train_and_val_are_listed(split_folder, tmp_path, capsys):
    for name in ("train/apple/0", "train/cat/3", "val/bus/1", "val/cat/4"):
        path = split_folder / f"{name}.jpg"
        path.write_bytes(path.read_bytes()[:-500])
    options = ["--source", str(split_folder), "--output", str(tmp_path / "out")]
    first, *faults, remedy = error_lines(
        capsys, "data", "write", "image-folder", *options, "--num-workers", "2"
    )
    assert first == "4 faults in the data:"
    assert ["apple/0.jpg" in faults[0], "bus/1.jpg" in faults[2]] == [True, True]
    assert remedy == "replace them, or leave them out with --on_error skip"
    assert list((tmp_path / "out").iterdir()) == []


def test_an_unreadable_image_is_skipped_and_listed(damaged_folder, tmp_path, capsys):
    for _ in range(2):  # the second time the file is recognized and kept
        write_image_folder(damaged_folder, tmp_path / "x.beton", on_error="skip")
        assert "1 unreadable images skipped" in capsys.readouterr().out
    info = check_beton(tmp_path / "x.beton")
    assert info.samples == 20
    assert len(info.sidecar.skipped) == 1
    assert "bus/1.jpg" in info.sidecar.skipped[0]


def test_a_changed_source_is_noticed(image_folder, tmp_path, capsys):
    source = shutil.copytree(image_folder, tmp_path / "source")
    beton = tmp_path / "x.beton"

    def write(**options):
        write_image_folder(source, beton, num_workers=1, **options)

    write()
    assert "kept" not in capsys.readouterr().out
    written = beton.stat().st_mtime_ns
    write()
    assert f"{beton}: kept" in capsys.readouterr().out
    assert beton.stat().st_mtime_ns == written
    (source / "bus" / "0.jpg").rename(source / "apple" / "relabeled.jpg")
    with pytest.raises(FileExistsError, match=r"source have changed: replace .*--overwrite true"):
        write()
    write(overwrite=True)
    assert check_beton(beton).sidecar.class_counts[:2] == [8, 5]
    (source / "cat" / "0.jpg").write_bytes((source / "apple" / "0.jpg").read_bytes())
    with pytest.raises(FileExistsError, match="source have changed"):
        write()


def test_a_source_is_compared_by_its_content_on_request(image_folder, tmp_path, capsys):
    source = shutil.copytree(image_folder, tmp_path / "source")
    beton, file = tmp_path / "x.beton", source / "bus" / "0.jpg"
    write_image_folder(source, beton, num_workers=1)
    with pytest.raises(FileExistsError, match="not noted of which files"):
        write_image_folder(source, beton, verify_source=True)
    write_image_folder(source, beton, num_workers=1, verify_source=True, overwrite=True)
    os.utime(file, (1, 1))  # as a copy may have other times
    write_image_folder(source, beton, verify_source=True)
    assert "kept" in capsys.readouterr().out
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)
    os.utime(file, (1, 1))  # size and time are the same
    with pytest.raises(FileExistsError, match="source have changed"):
        write_image_folder(source, beton, verify_source=True)


def test_a_beton_from_before_files_were_noted_is_not_taken_for_the_same(image_folder, tmp_path):
    beton = tmp_path / "x.beton"
    write_image_folder(image_folder, beton, num_workers=1, exif="ignore")
    sidecar = tmp_path / "x.beton.json"
    content = json.loads(sidecar.read_text())
    for key in ("fingerprint", "hashed_fingerprint"):
        del content[key]
    del content["encoding"]["exif"]
    sidecar.write_text(json.dumps(content))
    assert check_beton(beton).sidecar.encoding.exif == "ignore"
    with pytest.raises(FileExistsError, match="not noted of which files"):
        write_image_folder(image_folder, beton, exif="ignore")


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
            rgb = info.read_image(index).reshape(28, 28, 3)
            assert np.array_equal(rgb, np.stack([gray] * 3, axis=2))


@pytest.mark.slow
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
        classes = datasets.FashionMNIST.classes

        def __init__(self, root, download):
            asked.append((root, download))

    monkeypatch.setattr(torchvision, "DEBIAN", tmp_path / "nowhere")
    monkeypatch.setattr(datasets, "FashionMNIST", Peer)
    write_fashion_mnist(tmp_path / "out")
    assert asked == [(str(tmp_path / "out"), True)]
    assert check_beton(tmp_path / "out" / "val.beton").samples == 10


@pytest.mark.parametrize("content", [b"", b"\x00\x00\x08\x01\x00\x00\x00\x09123", b"\x01" * 100])
def test_a_damaged_idx_file_is_named(content, tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(ValueError, match="train-images-idx3-ubyte is not a whole IDX file"):
        write_fashion_mnist(tmp_path / "out", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"source: neither .*train-images-idx3-ubyte nor"):
        write_fashion_mnist(tmp_path / "out", tmp_path / "out")


@pytest.mark.slow
def test_torchvision_reads_the_same_fashion_mnist(fashion_files, tmp_path):
    source, _ = fashion_files
    raw = tmp_path / "root" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in source.glob("*.gz"):
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    write_fashion_mnist(tmp_path / "ours", source)
    write_torchvision("fashionmnist", tmp_path / "theirs", tmp_path / "root")
    for split in ("train", "val"):
        ours, theirs = (check_beton(tmp_path / k / f"{split}.beton") for k in ("ours", "theirs"))
        assert ours.labels.tolist() == theirs.labels.tolist()
        assert ours.class_names == theirs.class_names
        assert theirs.modes["raw"] == theirs.samples
        for index in range(ours.samples):
            assert np.array_equal(ours.read_image(index), theirs.read_image(index))


def cifar10(root, monkeypatch):
    """Files as CIFAR-10's; their checksums are not those that torchvision knows."""
    folder = root / datasets.CIFAR10.base_folder
    folder.mkdir(parents=True)
    images = np.random.default_rng(2).integers(0, 256, (12, 3072), np.uint8)
    for name, rows in (("data_batch_1", range(8)), ("test_batch", range(8, 12))):
        entry = {"data": images[rows], "labels": [row % 10 for row in rows]}
        (folder / name).write_bytes(pickle.dumps(entry))
    names = {"label_names": [f"class {i}" for i in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(names))
    meta = {**datasets.CIFAR10.meta, "md5": None}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [["data_batch_1", None]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", None]])
    return images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def test_cifar10_is_a_command(tmp_path, monkeypatch, capsys):
    images = cifar10(tmp_path / "root", monkeypatch)
    options = ["--source", str(tmp_path / "root"), "--output", str(tmp_path / "out")]
    main(["data", "write", "torchvision", "CIFAR10", *options])
    said = capsys.readouterr().out
    assert "train.beton: 8 images in 10 classes" in said
    train, val = (check_beton(tmp_path / "out" / f"{split}.beton") for split in ("train", "val"))
    assert train.class_names == [f"class {i}" for i in range(10)]
    assert train.labels.tolist() + val.labels.tolist() == [*range(10), 0, 1]
    assert np.array_equal(val.read_image(1).reshape(32, 32, 3), images[9])
    main(["data", "write", "torchvision", "CIFAR10", *options])
    again = capsys.readouterr().out.splitlines()
    assert [line for line in again if "kept" not in line] == said.splitlines()
    assert len(again) == 4  # two are kept


def gray_squares(folder, names, side=120):
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        gray = Image.new("L", (side, side), 9 * index)
        (gray if index % 2 else gray.convert("RGB")).save(folder / name)


@pytest.mark.slow
def test_three_splits_are_three_files(tmp_path):
    root = tmp_path / "root" / "dtd" / "dtd"
    (root / "labels").mkdir(parents=True)
    for number, split in enumerate(("train", "val", "test")):
        names = [f"{kind}/{kind}_{number}.jpg" for kind in ("dotted", "woven")]
        for name in names:
            gray_squares((root / "images" / name).parent, [(root / "images" / name).name])
        (root / "labels" / f"{split}1.txt").write_text("\n".join(names))
    write_torchvision("DTD", tmp_path / "out", tmp_path / "root", max_resolution=100)
    for split in ("train", "val", "test"):
        info = check_beton(tmp_path / "out" / f"{split}.beton")
        assert info.class_names == ["dotted", "woven"]
        assert info.labels.tolist() == [0, 1]
        assert info.modes["jpg"] == 2  # too large for raw pixels by default
        assert max(info.resolutions[1]) == 100


def test_a_set_without_splits_is_divided(tmp_path):
    for kind in ("Forest", "River"):
        names = [f"{kind}_{i}.png" for i in range(10)]
        gray_squares(tmp_path / "root" / "eurosat" / "2750" / kind, names, side=64)
    with pytest.raises(ValueError, match="EuroSAT has no splits: give a --val_fraction"):
        write_torchvision("EuroSAT", tmp_path / "out", tmp_path / "root")
    write_torchvision("EuroSAT", tmp_path / "out", tmp_path / "root", val_fraction=0.25)
    train, val = (check_beton(tmp_path / "out" / f"{split}.beton") for split in ("train", "val"))
    assert (train.samples, val.samples) == (15, 5)
    labels = [*train.labels.tolist(), *val.labels.tolist()]
    assert sorted(labels) == [0] * 10 + [1] * 10
    values = [info.read_image(i)[0] for info in (train, val) for i in range(info.samples)]
    assert sorted(values) == sorted([9 * i for i in range(10)] * 2)
    with pytest.raises(FileExistsError, match="--overwrite"):
        write_torchvision("EuroSAT", tmp_path / "out", tmp_path / "root", val_fraction=0.24)


@pytest.mark.slow
def test_a_changed_source_of_torchvision_is_noticed(tmp_path, capsys):
    root = tmp_path / "root"
    for kind in ("Forest", "River"):
        gray_squares(root / "eurosat" / "2750" / kind, [f"{kind}_{i}.png" for i in range(4)], 8)

    def write(**options):
        write_torchvision("EuroSAT", tmp_path / "out", root, val_fraction=0.5, **options)

    write(num_workers=1)
    (root / "another set").mkdir()
    (root / "eurosat" / ".listing").touch()
    write()
    assert capsys.readouterr().out.count("kept") == 2
    (root / "eurosat/2750/River/River_0.png").rename(root / "eurosat/2750/Forest/River_0.png")
    with pytest.raises(FileExistsError, match=r"source have changed: replace .*--overwrite true"):
        write()
    write(num_workers=1, overwrite=True)


@pytest.mark.parametrize("name", sorted(DATA_SETS.keys() - {"FashionMNIST"}))
def test_the_files_of_every_data_set_are_known(name, tmp_path):
    """As torchvision's source names them."""
    place = FILES[name].removesuffix("/raw").split("*")[0]
    dataset = getattr(datasets, name)
    text = Path(inspect.getsourcefile(dataset)).read_text()
    made_of_its_name = "__class__.__name__" in text or "type(self).__name__.lower()" in text
    assert f'"{place}' in text or f"/{place}." in text or (made_of_its_name and place)


def test_bad_names_and_places_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"unknown torchvision data set 'CIFAR11' .*mean 'CIFAR10"):
        write_torchvision("CIFAR11", tmp_path)
    with pytest.raises(ValueError, match=r"CIFAR10 cannot be read from .*empty.*--download true"):
        write_torchvision("CIFAR10", tmp_path / "empty")
    with pytest.raises(ValueError, match="val_fraction: CIFAR10 has splits of its own"):
        write_torchvision("CIFAR10", tmp_path, val_fraction=0.1)


@pytest.mark.parametrize("name", DATA_SETS)
def test_every_name_is_a_data_set_that_takes_its_options(name):
    signature = inspect.signature(getattr(datasets, name))
    for options in DATA_SETS[name].values():
        signature.bind("root", download=False, **options)
