"""Folders of images as they come: every command takes the same files and the same pixels."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from command import end_as_rank
from forked import run_forked
from PIL import Image

from eca_lightning.cli import main
from eca_lightning.data.ffcv.format import check_beton

pytestmark = pytest.mark.usefixtures("as_a_program")

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def said(monkeypatch):
    """What is said on rank zero."""
    lines = []
    monkeypatch.setattr("lightning.pytorch.utilities.rank_zero_info", lines.append)
    return lines


def picture(path, channel=0, size=(24, 20), **options):
    """Write noise that is brightest in one channel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(len(str(path)) + channel)
    pixels = generator.integers(0, 128, (size[1], size[0], 3), dtype=np.uint8)
    pixels[..., channel] += 127
    Image.fromarray(pixels).save(path, **options)


def folders(root, count=4):
    """Write train/ and val/ with two classes."""
    for split in ("train", "val"):
        for channel, name in enumerate(("cat", "dog")):
            for number in range(count):
                picture(root / split / name / f"{number}.jpg", channel)
    return root


def write(source, *options):
    fixed = ["--source", str(source), "--output", "out", "--mode", "raw", "--num-workers", "1"]
    main(["data", "write", "image-folder", *fixed, *options])
    return check_beton(Path("out/train.beton")), check_beton(Path("out/val.beton"))


def stored(info, index=0):
    image = info.images[index]
    shape = int(image["height"]), int(image["width"]), 3
    return np.memmap(info.path, np.uint8, "r", int(image["data_ptr"]), shape)


@pytest.mark.usefixtures("_ffcv")
def test_write_leaves_out_hidden_files_and_takes_all_that_pillow_reads(tmp_path, said):
    root = folders(tmp_path / "photos")
    for split in ("train", "val"):
        picture(root / split / ".ipynb_checkpoints" / "0-checkpoint.jpg")
        (root / split / "cat" / "._0.jpg").write_bytes(b"\0\5\x16\7" + bytes(200))
        (root / split / "cat" / "notes.txt").write_text("mine")
        (root / split / "dog" / "0.jpg").rename(root / split / "dog" / "0.jfif")
    for info in write(root):
        assert (info.class_names, info.samples) == (["cat", "dog"], 8)
    assert [line.partition("left out ")[2] for line in said] == [
        "2 hidden (.ipynb_checkpoints, ._0.jpg); 1 not images (1 .txt)"
    ] * 2


@pytest.mark.usefixtures("_ffcv")
@pytest.mark.parametrize("exif", [(), ("--exif", "ignore")])
def test_write_turns_images_upright_unless_told_otherwise(exif, tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    root = folders(tmp_path / "photos", 0)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            picture(root / split / name / "0.png", size=(24, 20), exif=turned)
    with Image.open(root / "train" / "cat" / "0.png") as image:
        lying = np.asarray(image)
    train, _ = write(root, *exif)
    assert np.array_equal(stored(train), lying if exif else np.rot90(lying, -1))


@pytest.mark.usefixtures("_ffcv")
@pytest.mark.parametrize("size", [(3000, 2), (2, 3000), (700, 1)])
def test_a_long_thin_image_keeps_a_pixel_in_its_shorter_side(size, tmp_path):
    root = folders(tmp_path / "photos", 1)
    picture(root / "train" / "cat" / "thin.png", size=size)
    train, _ = write(root, "--max-resolution", "512")
    assert {512, 1} in [{*map(int, (row["height"], row["width"]))} for row in train.images]


@pytest.mark.slow
@pytest.mark.usefixtures("_ffcv")
def test_write_scales_sixteen_bits_and_refuses_what_has_no_range(tmp_path, capsys):
    root = folders(tmp_path / "photos", 0)
    for split in ("train", "val"):
        for name, value in (("dark", 9000), ("light", 40000)):
            (root / split / name).mkdir(parents=True)
            gray = Image.fromarray(np.full((20, 24), value, np.uint16))
            gray.save(root / split / name / "0.png")
    train, _ = write(root)
    assert [int(np.unique(stored(train, i)).item()) for i in (0, 1)] == [35, 156]

    Image.new("F", (9, 9)).save(root / "val" / "dark" / "float.tiff")
    with pytest.raises(SystemExit) as stop:
        write(root, "--overwrite", "true")
    assert stop.value.code == 2
    assert "float.tiff: its mode F (float pixels of 32 bits) has no known range" in (
        capsys.readouterr().err
    )


@pytest.mark.usefixtures("_ffcv")
def test_names_that_are_not_utf8_are_refused_or_written_before_anything_is_encoded(
    tmp_path, capsys
):
    root = folders(tmp_path / "photos", 1)
    photo = os.fsencode(root) + b"/train/cat/\xe9t\xe9.jpg"
    with open(photo, "wb") as file:
        file.write(b"no image")
    train, _ = write(root, "--on-error", "skip")
    assert r"\xe9t\xe9.jpg" in train.sidecar.skipped[0]

    os.rename(root / "train" / "dog", os.fsencode(root) + b"/train/h\xe9ron")
    with pytest.raises(SystemExit):
        write(root, "--overwrite", "true")
    assert r"not UTF-8: h\xe9ron; rename" in capsys.readouterr().err
    assert check_beton(Path("out/train.beton")).samples == train.samples


def config(folder, **data):
    """A small run on folders of images."""
    run = yaml.safe_load((CONFIGS / "quickstart.yaml").read_text())
    run["model"]["init_args"]["backbone"] = {"name": "resnet20", "num_classes": 2}
    sets = {"train": str(folder / "train"), "val": str(folder / "val")}
    options = {"batch_size": 4, "num_workers": 0, "image_size": 20, "resize_size": 20}
    run["data"] = {
        "class_path": "eca_lightning.ImageFolderDataModule",
        "init_args": sets | options | data,
    }
    run["reports"] = str(CONFIGS / "reports" / "classification.yaml")
    run["trainer"] |= {
        "max_epochs": 12,
        "check_val_every_n_epoch": 12,
        "accelerator": "cpu",
        "log_every_n_steps": 1,
    }
    run["trainer"] |= {"val_check_interval": 1.0, "logger": {"init_args": {"save_dir": "runs"}}}
    Path("small.yaml").write_text(yaml.safe_dump(run))
    return ["--config", "small.yaml"]


@pytest.mark.slow
def test_fit_and_predict_take_the_same_files(tmp_path, said):
    """Sixteen-bit classes that only differ in brightness, beside what file managers leave."""
    root = tmp_path / "photos"
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for name, value in (("dark", 9000), ("light", 40000)):
            for number in range(count):
                (root / split / name).mkdir(parents=True, exist_ok=True)
                gray = generator.normal(value, 800, (20, 24)).astype(np.uint16)
                Image.fromarray(gray).save(root / split / name / f"{number}.png")
        picture(root / split / ".ipynb_checkpoints" / "0.jpg")
        (root / split / "dark" / "._0.png").write_bytes(b"\0\5\x16\7")
    (root / "linked").mkdir()
    (root / "linked" / "more").symlink_to(root / "val")
    main(["fit", *config(root)])
    assert sum("left out 2 hidden (" in line for line in said) == 2
    (best,) = Path("runs").rglob("best.ckpt")
    predict = ["--ckpt_path", str(best), "--data.predict", str(root / "linked")]
    main(["predict", *config(root), *predict, "--output", "found.csv"])
    with open("found.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == sorted(
        str(root / "linked" / "more" / name / f"{i}.png")
        for name in ("dark", "light")
        for i in range(4)
    )
    assert all(row["class_1"] in row["image"] for row in rows)  # top-1 is 1.0


@pytest.mark.slow
def test_all_ranks_end_with_the_faults_that_one_has_found(tmp_path):
    root = folders(tmp_path / "photos")
    for split, name in (("train", "cat"), ("val", "dog")):
        (root / split / name / "0.jpg").write_bytes(b"no image")
    trainer = {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "max_epochs": 1}
    config(root)
    run = yaml.safe_load(Path("small.yaml").read_text())
    run["trainer"] = trainer | {"logger": False, "enable_progress_bar": False}
    run.pop("reports")
    Path("small.yaml").write_text(yaml.safe_dump(run))
    run_forked(
        tmp_path / "logs",
        end_as_rank,
        ["fit", "--config", str(tmp_path / "small.yaml")],
        tmp_path,
        ranks=2,
    )
    logs = [(tmp_path / "logs" / f"rank{rank}.log").read_text() for rank in (0, 1)]
    assert [(tmp_path / f"{rank}.status").read_text() for rank in (0, 1)] == ["2", "2"]
    assert all("error: 2 faults in the data:\n  data.train: cannot read the" in log for log in logs)
    assert ["looking at the headers" in log for log in logs] == [True, False]
