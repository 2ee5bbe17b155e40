"""COCO files as they come: used, refused with all their faults at once, or counted."""

import json
from pathlib import Path

import pytest
import yaml
from PIL import Image
from thorough import thorough
from tiny_scenes import scene, write_coco

from eca_lightning import CocoDataModule
from eca_lightning.cli import main

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def change(tmp_path, monkeypatch):
    """Change each entry of a section in the annotation files of a small data set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["eca-lightning"])
    for split, first in (("train", 1), ("val", 31)):
        write_coco(tmp_path, split, [scene(i, objects=2) for i in range(first, first + 4)])

    def change(section, function):
        for file in (Path("train.json"), Path("val.json")):
            content = json.loads(file.read_text())
            for entry in content[section]:
                function(entry)
            file.write_text(json.dumps(content))

    return change


def module(**options):
    paths = {split: Path(split) for split in ("train", "val")}
    paths |= {f"{split}_annotations": Path(f"{split}.json") for split in ("train", "val")}
    return CocoDataModule(**paths, num_workers=0, batch_size=1, **options)


def refusal(capsys, *options):
    """The error of a run that cannot start."""
    run = yaml.safe_load((CONFIGS / "coco" / "quickstart_rcnn.yaml").read_text())
    detector = run["model"]["init_args"]["detector"]
    detector |= {"name": "mask_rcnn", "backbone": {"name": "resnet18"}, "num_classes": 2}
    run["data"] = {
        "class_path": "eca_lightning.CocoDataModule",
        "init_args": {split: split for split in ("train", "val")}
        | {f"{split}_annotations": f"{split}.json" for split in ("train", "val")}
        | {"num_workers": 0},
    }
    run["trainer"] = {"accelerator": "cpu", "fast_dev_run": True}
    run.pop("reports")
    Path("run.yaml").write_text(yaml.safe_dump(run))
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", "run.yaml", *options])
    assert stop.value.code == 2
    return capsys.readouterr().err.partition("eca-lightning: error: ")[2].splitlines()


@pytest.mark.slow
def test_values_of_the_wrong_type_are_refused_with_file_and_id_all_at_once(change, capsys):
    change("annotations", lambda entry: entry.update(iscrowd="0"))
    first, *faults = refusal(capsys)
    assert first == "16 faults in the data, the first 10:"
    assert len(faults) == 10
    assert "train.json: annotation 1 has iscrowd '0': Expected `bool" in faults[0]
    assert "val.json: annotation 2 has iscrowd '0': " in faults[9]


@pytest.mark.slow
def test_a_box_that_reaches_out_is_refused_with_the_remedy_or_clipped(change, capsys):
    def reach_out(entry):
        if entry["id"] == 3:
            entry["bbox"] = [-3, 4, 30, 20]

    change("annotations", reach_out)
    first, *faults = refusal(capsys)
    assert first == "2 faults in the data:"
    assert "annotation 3 has the box" in faults[0]
    assert faults[0].endswith("clip it with --data.clip_boxes 3")
    data = module(clip_boxes=3)
    data.setup("fit")
    assert min(target["boxes"].min() for _, (target,) in data.train_dataloader()) >= 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "counts", [[10, 20, 10**6], "YQ`09g=20N17D8M5L5L4L02", *thorough([10, -5, 10**4])]
)
def test_damaged_run_lengths_are_found_at_start(counts, change, capsys):
    def damage(entry):
        if entry["id"] == 3:
            entry["segmentation"] = {"counts": counts, "size": [64, 64]}

    change("annotations", damage)
    _, fault, _ = refusal(capsys, "--data.masks", "true")
    assert "train.json: annotation 3 has no usable segmentation" in fault


def test_masks_that_are_learned_must_be_read(change, capsys):
    assert refusal(capsys) == [
        "Mask R-CNN learns masks and is scored by them: set --data.masks true"
    ]


@pytest.mark.slow
def test_faults_of_images_are_listed_with_those_of_annotations(change, capsys):
    """Missing, damaged and of another size, beside a file whose annotations are wrong."""
    files = sorted(Path("train").iterdir())
    files[0].unlink()
    files[1].write_bytes(b"no image")
    Image.new("RGB", (9, 8)).save(files[2])
    content = json.loads(Path("val.json").read_text())
    content["annotations"][0]["iscrowd"] = "0"
    Path("val.json").write_text(json.dumps(content))
    first, *faults, remedy = refusal(capsys)
    assert first == "4 faults in the data:"
    assert "val.json: annotation 1 has iscrowd '0'" in faults[0]
    assert f"data.train: {files[0]}, image 1 of train.json, does not exist" in faults[1]
    assert f"data.train: cannot read the image {files[1]}, image 2 of train.json: " in faults[2]
    assert f"{files[2]} has 9 x 8 pixels, but train.json says that image 3 has" in faults[3]
    assert remedy.endswith("damaged or missing, or leave them out of the annotations")


def test_a_damaged_image_is_left_out_of_the_scores_and_replaced_in_training(change, caplog):
    """The header does not show it, and need not be asked for EXIF data at the end of a PNG."""
    for split in ("train", "val"):
        file = sorted(Path(split).iterdir())[1]
        file.write_bytes(file.read_bytes()[:-200])
    data = module(flip=False, group_by_aspect_ratio=False, exif="ignore")
    data.setup("fit")
    train = [targets[0]["image_id"].item() for _, targets in data.train_dataloader()]
    assert sorted(train) == [1, 3, 3, 4]
    assert [len(images) for images, _ in data.val_dataloader()] == [1, 0, 1, 1]
    counted = [record.message for record in caplog.records if "in this epoch" in record.message]
    assert counted == [
        "1 images could not be read in this epoch: others took their places in training",
        "1 images could not be read in this epoch: the scores lack them",
    ]
    strict = module(on_unreadable="raise", exif="ignore")
    strict.setup("fit")
    with pytest.raises(ValueError, match="cannot read the image"):
        list(strict.val_dataloader())


def test_what_cannot_teach_is_counted_by_class(change, monkeypatch):
    said = []
    monkeypatch.setattr("eca_lightning.detection.datamodule.rank_zero_info", said.append)
    change("annotations", lambda entry: entry.update(iscrowd=int(entry["category_id"] == 7)))
    module().setup("fit")
    assert "train.json: training leaves out annotations: blue 4 crowd (of 4)" in said


@pytest.mark.parametrize("orientation", [3, 6])
def test_boxes_fit_the_upright_image(orientation, change):
    """An image that is stored turned gives the pixels of the same image that is not."""
    before = module(flip=False)
    before.setup("validate")
    images, targets = zip(*before.val_dataloader(), strict=True)
    turn = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for path in Path("val").iterdir():
        with Image.open(path) as image:
            image.transpose(turn).save(path, exif=exif)
    after = module(flip=False)
    after.setup("validate")
    for (image,), (target,), ((other,), (same,)) in zip(
        images, targets, after.val_dataloader(), strict=True
    ):
        assert image.equal(other)
        assert target["boxes"].equal(same["boxes"])
