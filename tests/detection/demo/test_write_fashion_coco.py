"""Scenes of clothes: their masks and boxes pixel by pixel, and the command that writes them."""

import json
import shutil
import sys
from itertools import count

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pycocotools")

from pycocotools.coco import COCO
from tiny_clothes import clothes, write_idx

from eca_lightning import CocoDataModule
from eca_lightning.cli import main
from eca_lightning.detection.demo import write_fashion_coco as fashion_coco
from eca_lightning.detection.demo.scenes import MIN_VISIBLE, Composer, background, segment
from eca_lightning.detection.demo.write_fashion_coco import write_fashion_coco

LABELS = {"train": np.arange(60, dtype=np.uint8) % 5, "t10k": 5 + np.arange(40, dtype=np.uint8) % 5}
SMALL = {"train_scenes": 14, "val_scenes": 6, "image_size": 160}


@pytest.fixture
def source(tmp_path):
    """Fashion-MNIST's files with shapes; the test split has classes of its own."""
    folder = tmp_path / "source"
    folder.mkdir()
    write_idx(folder, LABELS["train"], LABELS["t10k"])
    return folder


@pytest.fixture(scope="module")
def scenes():
    """Three hundred scenes, and the background of each."""
    composer = Composer(clothes(LABELS["train"]), LABELS["train"], 192)
    composed = [composer.compose(np.random.default_rng([1, i])) for i in range(300)]
    grounds = []
    for i, scene in enumerate(composed):
        random = np.random.default_rng([1, i])
        random.random()  # whether it is upright
        grounds.append(background(random, *scene.pixels.shape[:2])[0])
    return list(zip(composed, grounds, strict=True))


@pytest.mark.slow
def test_masks_are_where_the_background_is_hidden(scenes):
    """Later objects hide earlier ones, so that each pixel belongs to one at the most."""
    coincidences = total = 0
    for scene, ground in scenes:
        height, width = scene.pixels.shape[:2]
        owners = np.zeros((height, width), int)
        for object_ in scene.objects:
            owners += object_.visible
        assert owners.max(initial=0) <= 1
        changed = (scene.pixels != ground).any(2)
        assert not (changed & (owners == 0)).any()
        coincidences += (~changed & (owners == 1)).sum()
        total += owners.sum()
    assert coincidences < 1e-3 * total


def test_no_object_is_hidden_too_far(scenes):
    shares = [o.visible.sum() / o.area for scene, _ in scenes for o in scene.objects]
    assert min(shares) >= MIN_VISIBLE
    assert max(shares) == 1
    assert np.mean(np.array(shares) < 1) > 0.1  # they do hide each other


def test_scenes_have_what_a_detector_must_cope_with(scenes):
    objects = [o for scene, _ in scenes for o in scene.objects]
    areas = np.array([o.visible.sum() for o in objects if not o.crowd])
    for share in (areas < 32**2, (areas >= 32**2) & (areas < 96**2), areas >= 96**2):
        assert share.mean() > 0.08
    assert sum(o.crowd for o in objects) > 5
    assert sum(not scene.objects for scene, _ in scenes) > 1
    assert {scene.pixels.shape for scene, _ in scenes} == {(192, 160, 3), (160, 192, 3)}
    assert {o.label for o in objects} == set(range(5))


def test_items_are_segmented_without_specks_and_small_holes():
    gray = np.zeros((28, 28), np.uint8)
    gray[5:20, 5:20] = 90
    expected = gray > 0
    gray[12, 12] = 0
    gray[2, 25] = gray[25, 2] = gray[25, 3] = 200
    gray[24, 20:24] = 15
    assert np.array_equal(segment(gray), expected)


def test_the_files_say_what_the_scenes_show(source, tmp_path):
    output = tmp_path / "out"
    write_fashion_coco(output, source, **SMALL)
    found = {}
    for split, prefix in (("train", "train"), ("val", "t10k")):
        peer = COCO(str(output / "annotations" / f"instances_{split}.json"))
        assert [c["name"] for c in peer.loadCats(peer.getCatIds())] == fashion_coco.CLASSES
        assert len(list((output / split).iterdir())) == len(peer.imgs) == SMALL[f"{split}_scenes"]
        for id_, image in peer.imgs.items():
            with Image.open(output / split / image["file_name"]) as file:
                assert file.size == (image["width"], image["height"])
            for annotation in peer.loadAnns(peer.getAnnIds(id_)):
                mask = peer.annToMask(annotation)
                assert mask.shape == (image["height"], image["width"])
                rows, columns = np.nonzero(mask)
                top, left = rows.min(), columns.min()
                box = [left, top, columns.max() + 1 - left, rows.max() + 1 - top]
                assert annotation["bbox"] == box
                assert annotation["area"] == mask.sum()
                # As in COCO, the counts of crowds are numbers.
                counts = annotation["segmentation"]["counts"]
                assert isinstance(counts, list if annotation["iscrowd"] else str)
        assert sorted(peer.anns) == list(range(1, len(peer.anns) + 1))
        found[split] = {a["category_id"] - 1 for a in peer.anns.values()}
        assert found[split] <= set(LABELS[prefix].tolist())
    assert not found["train"] & found["val"]


def test_a_data_module_reads_them(source, tmp_path):
    write_fashion_coco(tmp_path / "out", source, **SMALL)
    module = CocoDataModule(
        root=tmp_path / "out",
        train="train",
        val="val",
        train_annotations="annotations/instances_train.json",
        val_annotations="annotations/instances_val.json",
        num_workers=0,
        masks=True,
    )
    module.setup("fit")
    assert module.class_names == fashion_coco.CLASSES
    images, targets = next(iter(module.train_dataloader()))
    assert targets[0]["masks"].shape[1:] == images[0].shape[1:]
    assert len(list(module.val_dataloader())) == SMALL["val_scenes"]


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_the_seed_is_all_that_scenes_depend_on(source, tmp_path):
    for name, options in (("a", {}), ("b", {}), ("c", {"seed": 1}), ("d", {"train_scenes": 9})):
        write_fashion_coco(tmp_path / name, source, **{**SMALL, **options})
    first = contents(tmp_path / "a")
    assert len(first) == 14 + 6 + 2
    assert contents(tmp_path / "b") == first
    other, fewer = contents(tmp_path / "c"), contents(tmp_path / "d")
    assert not any(other[name] == first[name] for name in first)
    pictures = [name for name in fewer if name.suffix == ".jpg"]
    assert len(pictures) == 9 + 6
    assert all(fewer[name] == first[name] for name in pictures)


def test_scenes_are_written_once(source, tmp_path, capsys):
    output = tmp_path / "out"
    write_fashion_coco(output, source, **SMALL)
    said = capsys.readouterr().out.splitlines()[-2:]
    assert "instances_train.json: 14 scenes with" in said[0]
    written = (output / "train" / "000001.jpg").stat().st_mtime_ns
    shutil.rmtree(source)  # no longer needed
    write_fashion_coco(output, source, **SMALL)
    again = capsys.readouterr().out.splitlines()
    assert [line for line in again if "kept" not in line] == said
    assert len(again) == 4  # two are kept
    assert (output / "train" / "000001.jpg").stat().st_mtime_ns == written


def test_another_source_needs_overwrite(source, tmp_path):
    output = tmp_path / "out"
    write_fashion_coco(output, source, **SMALL)
    before = contents(output)
    write_idx(source, LABELS["train"], LABELS["t10k"][::-1])
    with pytest.raises(FileExistsError, match=r"instances_val\.json .* another source.*--overw"):
        write_fashion_coco(output, source, **SMALL)
    assert contents(output) == before
    write_fashion_coco(output, source, **SMALL, overwrite=True)
    write_fashion_coco(output, source, **SMALL)


def test_other_settings_need_overwrite(source, tmp_path):
    output = tmp_path / "out"
    write_fashion_coco(output, source, **SMALL)
    before = contents(output)
    with pytest.raises(FileExistsError, match=r"instances_val\.json has scenes.*--overwrite true"):
        write_fashion_coco(output, source, **{**SMALL, "val_scenes": 3})
    assert contents(output) == before
    write_fashion_coco(output, source, **{**SMALL, "val_scenes": 3}, overwrite=True)
    assert len(list((output / "val").iterdir())) == 3


def test_what_is_incomplete_is_written_again(source, tmp_path):
    output = tmp_path / "out"
    write_fashion_coco(output, source, **SMALL)
    before = contents(output)
    (output / "val" / "000003.jpg").unlink()
    shutil.rmtree(output / "train")
    write_fashion_coco(output, source, **SMALL)
    assert contents(output) == before


def test_an_interruption_leaves_nothing_half_done(source, tmp_path, monkeypatch):
    output = tmp_path / "out"
    write_fashion_coco(output, source, **SMALL)
    before = contents(output)
    compose, calls = Composer.compose, count()

    def interrupted(self, random):
        if next(calls) == 7:
            raise KeyboardInterrupt
        return compose(self, random)

    monkeypatch.setattr(Composer, "compose", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_fashion_coco(output, source, **{**SMALL, "seed": 2}, overwrite=True)
    assert contents(output) == before
    assert not list(output.rglob("*.partial"))


@pytest.mark.parametrize("name", ["train", "annotations/instances_val.json"])
def test_the_data_of_others_are_left_alone(source, tmp_path, name):
    theirs = tmp_path / "out" / name
    theirs.mkdir(parents=True)
    (theirs / "0.jpg").write_bytes(b"precious")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="was not written by this command: choose"):
            write_fashion_coco(tmp_path / "out", source, **SMALL, overwrite=overwrite)
    assert list(contents(tmp_path / "out").values()) == [b"precious"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_scenes": 0}, "train_scenes must be at least 1, got 0"),
        ({"val_scenes": 0}, "val_scenes must be at least 1, got 0"),
        ({"image_size": 159}, "image_size must be at least 160, got 159"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_impossible_options_are_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_fashion_coco(tmp_path / "out", **options)


def test_masks_need_faster_coco_eval(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(ImportError, match=r"pip install 'eca-lightning\[detection\]'"):
        write_fashion_coco(tmp_path / "out")


def test_it_is_a_command(source, tmp_path, capsys):
    options = ["--source", str(source), "--train-scenes", "4", "--val-scenes=2"]
    write = ["data", "write", "fashion-coco", "--output", str(tmp_path / "out"), *options]
    main(write)
    assert "4 scenes" in capsys.readouterr().out
    info = json.loads((tmp_path / "out/annotations/instances_val.json").read_text())["info"]
    assert info["settings"] == {"format": 1, "scenes": 2, "image_size": 192, "seed": 0}
    with pytest.raises(SystemExit):
        main([*write, "--seed", "1"])
    assert capsys.readouterr().err.startswith("eca-lightning: error: ")
