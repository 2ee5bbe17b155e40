"""Annotation files: pycocotools reads the same, and what is wrong is named."""

import re
import sys
from copy import deepcopy

import numpy as np
import pytest

pytest.importorskip("pycocotools")

from pycocotools.coco import COCO
from tiny_coco import compressed, make_coco, write_json

from eca_lightning.detection.coco_json import read_annotations
from eca_lightning.detection.segmentations import fill_mask


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("coco") / "images"


@pytest.fixture(scope="module")
def content(folder):
    return make_coco(folder)


@pytest.fixture
def read(content, tmp_path):
    """Read the annotations after something was done to them."""

    def read(change=lambda content: None, masks=False):
        changed = deepcopy(content)
        change(changed)
        return read_annotations(write_json(tmp_path / "a.json", changed), masks, "data.val")

    return read


def rows(known, index):
    return slice(known.first[index], known.first[index + 1])


def test_agrees_with_pycocotools(read):
    known = read(masks=True)
    peer = COCO(str(known.path))
    assert known.category_ids == sorted(peer.cats) == [3, 17, 90]
    assert known.class_names == ["car", "cat", "brush"]
    assert known.image_ids.tolist() == sorted(peer.imgs)
    for index, id_ in enumerate(known.image_ids.tolist()):
        image, expected = peer.imgs[id_], peer.loadAnns(peer.getAnnIds(id_))
        assert known.file_names[index] == image["file_name"]
        assert known.sizes[index].tolist() == [image["height"], image["width"]]
        here = rows(known, index)
        assert known.boxes[here].tolist() == [
            [x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in expected)
        ]
        labels = [known.category_ids[label] for label in known.labels[here]]
        assert labels == [a["category_id"] for a in expected]
        assert known.areas[here].tolist() == [a["area"] for a in expected]
        assert known.crowds[here].tolist() == [a["iscrowd"] for a in expected]
        masks = known.masks(index)
        assert (masks.dtype, masks.shape) == (np.uint8, (len(expected), *known.sizes[index]))
        for mask, annotation in zip(masks, expected, strict=True):
            assert np.array_equal(mask, peer.annToMask(annotation))
    assert known.first[-1] == len(peer.anns) == len(known.boxes)


def test_training_leaves_out_what_teaches_nothing(read, content):
    def reach_out(changed):
        for annotation in changed["annotations"]:
            if annotation["bbox"][0] == 1:
                annotation["bbox"][0] = -0.75

    known = read(reach_out, masks=True)
    assert (known.boxes[:, 0] == -0.75).any()
    usable = known.for_training()
    expected = {}
    for annotation in content["annotations"]:
        if not annotation["iscrowd"] and annotation["bbox"][3] > 0:
            expected.setdefault(annotation["image_id"], []).append(annotation)
    assert 0 < len(expected) < len(known)
    assert usable.image_ids.tolist() == sorted(expected)
    for index, id_ in enumerate(usable.image_ids.tolist()):
        here = rows(usable, index)
        assert usable.areas[here].tolist() == [a["area"] for a in expected[id_]]
        assert not usable.crowds[here].any()
        assert (usable.boxes[here][:, :2] >= 0).all()
        whole = known.image_ids.tolist().index(id_)
        assert usable.file_names[index] == known.file_names[whole]
        # Those of a mixed image, too: it is the masks of the kept annotations that are read.
        assert usable.masks(index).sum((1, 2)).tolist() == usable.areas[here].tolist()


@pytest.mark.parametrize(
    ("size", "area", "kept"), [((0.5, 9), 4, 0), ((9, 0.5), 4, 0), ((9, 9), 0, 0), ((1, 1), 1, 1)]
)
def test_boxes_below_a_pixel_are_degenerate(read, size, area, kept):
    def change(changed):
        first = changed["annotations"][0]
        first.update(bbox=[3, 3, *size], area=area, iscrowd=0)
        whole = {**first, "id": 1, "bbox": [1, 1, 9, 9], "area": 81}
        changed["annotations"] = [first, whole]

    assert len(read(change).for_training().boxes) == 1 + kept


def test_an_image_may_be_left_without_a_box_by_clipping(read):
    def change(changed):
        first = changed["annotations"][0]
        first.update(bbox=[-1, 3, 1.5, 9], area=9, iscrowd=0)
        changed["annotations"] = [first]

    with pytest.raises(ValueError, match=r"a\.json: no image has a box to learn from"):
        read(change).for_training()


def test_images_alone_can_be_evaluated(read):
    known = read(lambda changed: changed.update(annotations=[]), masks=True)
    assert len(known) == 22
    assert known.masks(3).shape == (0, *known.sizes[3])


def setting(section, **values):
    """Change the first entry of a list."""
    return lambda changed: changed[section][0].update(values)


def without(section, key):
    return lambda changed: changed[section][0].pop(key)


def doubled(section):
    return lambda changed: changed[section].append(dict(changed[section][0]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("images"), "not a COCO annotation file .*missing required field `images`"),
        (lambda c: c.update(annotations={}), "not a COCO annotation file .*annotations`"),
        (lambda c: c.update(categories=[4]), r"not a COCO annotation file .*categories\[0\]`"),
        (lambda c: c.update(images=[]), "not a COCO annotation file .*length >= 1 - at .*images`"),
        (without("images", "id"), "image None: .*missing required field `id`"),
        (setting("annotations", id="7"), "annotation '7' has id '7': Expected `int`"),
        (setting("annotations", id=4.5), "annotation 4.5 has id 4.5: Expected `int`"),
        (setting("images", id=1 << 64), "has id 18446744073709551616: Expected `int` <= "),
        (without("images", "file_name"), "image 5: .*missing required field `file_name`"),
        (setting("images", width="9"), "image 5 has width '9': Expected `int`"),
        (setting("images", height=0), "image 5 has height 0: Expected `int` >= 1"),
        (without("categories", "name"), "category 90: .*missing required field `name`"),
        (doubled("images"), "the image id 5 is not unique"),
        (doubled("categories"), "the category id 90 is not unique"),
        (doubled("annotations"), r"the annotation id \d+ is not unique"),
        (setting("annotations", id=4, category_id=4), "annotation 4 is of the unknown category 4"),
        (setting("annotations", id=4, image_id=1), "annotation 4 is of the unknown image 1"),
        (
            without("annotations", "image_id"),
            r"annotation \d+: .*missing .* `image_id`",
        ),
        (setting("annotations", id=4, area="9"), "annotation 4 has area '9': Expected `float"),
        (setting("annotations", id=4, area=-1), "annotation 4 has area -1: Expected `float` >= 0"),
        (setting("images", file_name=""), "image 5 has file_name '', which names no file"),
        (setting("images", file_name="a\0b"), r"image 5 has file_name .*, which names no file"),
        (
            lambda c: c.pop("annotations"),
            "missing .* `annotations`.*images alone are for data.predict",
        ),
        (setting("annotations", id=4, iscrowd="0"), "annotation 4 has iscrowd '0': Expected `bool"),
        (setting("annotations", id=4, iscrowd=2), "annotation 4 has iscrowd 2: Invalid enum value"),
        (setting("annotations", id=4, bbox=[1, 2, 3]), r"4 has bbox \[1, 2, 3\]: .*length 4"),
        (
            setting("annotations", id=4, bbox=[1, 2, 3, "4"]),
            "4 has bbox .*'4'\\]: Expected",
        ),
        (setting("annotations", id=4, bbox=[1, 2, 3, float("nan")]), "4 has bbox .*, nan\\]: "),
        (setting("annotations", id=4, bbox=[1, 2, float("inf"), 4]), "annotation 4 has "),
        (setting("annotations", id=4, bbox=[1, 2, 1e300, 4]), "4 has the box .*: correct it$"),
        (setting("annotations", id=4, bbox=[1, 2, -3, 4]), "4 has the box .* does not lie in"),
        (setting("annotations", id=4, bbox=[-2, 2, 9, 9]), "4 has the box .* does not lie in"),
        (setting("annotations", id=4, bbox=[2, 2, 90, 9]), r"not lie in its image \d+ of \d+ x"),
        (setting("annotations", id=4, bbox=[2, 2, 9, 90]), "4 has the box .* does not lie in"),
    ],
)
def test_what_is_wrong_is_named(read, change, message):
    with pytest.raises(ValueError, match=rf"^data\.val: .*a\.json: .*{message}"):
        read(change)


@pytest.mark.parametrize(
    "outline",
    [
        None,
        [],
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6, 7]],
        {"size": [1, 1], "counts": "0"},
        {"counts": [1]},
        [[1, 2, 3, 4, 5, float("nan")]],
    ],
)
def test_masks_need_segmentations(read, outline):
    change = setting("annotations", id=4, segmentation=outline)
    read(change)
    with pytest.raises(ValueError, match=r"a\.json: annotation 4 has no usable segmentation"):
        read(change, masks=True)


def run_lengths(counts):
    """Leave one annotation, of image 5, with these run lengths of the right size."""

    def change(changed):
        size = [changed["images"][0][side] for side in ("height", "width")]
        outline = {"size": size, "counts": counts}
        changed["annotations"] = [
            {**changed["annotations"][0], "id": 4, "image_id": 5, "segmentation": outline}
        ]

    return change


@pytest.mark.parametrize("counts", [None, ["a"], [1.5, 98.5], [-5, 105]])
def test_run_lengths_are_whole_numbers_or_compressed(read, counts):
    with pytest.raises(ValueError, match=r"a\.json: annotation 4 has no usable segmentation"):
        read(run_lengths(counts), masks=True)


@pytest.mark.parametrize(
    "counts", [[50, 1 << 20], [50], [], "", "@@@@@@@@@@@@", "oooooooooooooo", "é", "o" * 99 + "0"]
)
def test_run_lengths_that_do_not_fill_their_mask_are_named(read, counts):
    message = r"a\.json: annotation 4 has no usable segmentation: its run lengths do not fill"
    with pytest.raises(ValueError, match=message):
        read(run_lengths(counts), masks=True)
    read(run_lengths(counts))


def test_compressed_run_lengths_of_any_mask_are_taken():
    generator = np.random.default_rng(0)
    for number in range(200):
        height, width = generator.integers(1, 90, 2)
        mask = generator.random((height, width)) < generator.random() ** 4
        counts = compressed(mask.astype(np.uint8))["counts"]
        assert fill_mask(counts, mask.size)
        assert not fill_mask(counts, mask.size + 1 + number)


def test_all_faults_are_listed_together_ten_of_them_in_full(read):
    def change(changed):
        for position, annotation in enumerate(changed["annotations"][:14]):
            annotation["id"] = position
            if position % 2:
                annotation["bbox"] = [2, 2, 70, 9]
            else:
                annotation["iscrowd"] = "0"
        changed["annotations"][14]["id"] = changed["annotations"][15]["id"] = 99

    with pytest.raises(ValueError, match=r"^15 faults in the data, the first 10:\n") as caught:
        read(change)
    lines = str(caught.value).splitlines()
    assert len(lines) == 11
    assert all(line.startswith("  data.val: ") and "a.json: " in line for line in lines[1:])
    assert "annotation 0 has iscrowd '0': Expected `bool" in lines[1]
    assert "annotation 12 has iscrowd" in lines[7]
    assert "the annotation id 99 is not unique: 2 entries have it" in lines[8]
    assert "correct it, or clip it with --data.clip_boxes 13" in lines[9]


@pytest.mark.parametrize("masks", [False, True])
def test_a_missing_area_is_computed(read, content, masks):
    known = read(lambda c: [a.pop("area") for a in c["annotations"]], masks)
    expected = read().areas
    flat = (known.boxes[:, 2:] == known.boxes[:, :2]).any(1)
    assert 0 < flat.sum() < len(flat)
    assert np.array_equal(known.areas[~flat], expected[~flat])


def test_boxes_may_reach_out_as_far_as_asked(content, tmp_path):
    changed = deepcopy(content)
    setting("annotations", id=4, bbox=[2, 2, 70, 9])(changed)
    file = write_json(tmp_path / "a.json", changed)
    known = read_annotations(file, clip_boxes=900)
    assert known.boxes_reaching_out() == 1
    trained = known.for_training()
    images = np.repeat(np.arange(len(trained)), np.diff(trained.first))
    assert (trained.boxes[:, 2] <= trained.sizes[images, 1]).all()


def test_what_cannot_teach_is_counted_by_class(read):
    each = "1 crowd, 1 without width, height or area"
    expected = f"car {each} (of 9); cat {each} (of 11); brush {each} (of 10)"
    assert read().left_out_of_training() == expected
    message = r"no image has a box to learn from \(car 9 crowd \(of 9\); cat 11 crowd.* iscrowd 0"
    with pytest.raises(ValueError, match=message):
        read(lambda c: [a.update(iscrowd=1) for a in c["annotations"]]).for_training()
    with pytest.raises(ValueError, match=r"learn from \(it has no annotations\)"):
        read(lambda c: c.update(annotations=[])).for_training()


def test_categories_of_equal_names_are_told_apart(read):
    known = read(lambda c: [category.update(name="cup") for category in c["categories"][:2]])
    assert known.class_names == ["cup 3", "cat", "cup 90"]

    def collide(changed):
        for category, name in zip(changed["categories"], ("a", "a 90", "a"), strict=True):
            category["name"] = name

    assert read(collide).class_names == ["a 90 3", "a 17", "a 90"]


def test_polygons_without_area_are_left_out_of_a_mask(read):
    outline = [[1, 1, 1, 1], [2, 3, 8, 3, 8, 9, 2, 9]]
    known = read(setting("annotations", id=4, segmentation=outline), masks=True)
    areas = [m.sum() for index in range(len(known)) for m in known.masks(index)]
    assert 36 in areas


def test_crowds_are_0_or_1_true_or_false_or_not_given(read):
    for value, crowd in ((0, False), (1, True), (False, False), (True, True), (None, False)):
        known = read(lambda c, v=value: [a.update(iscrowd=v) for a in c["annotations"]])
        assert set(known.crowds.tolist()) == {crowd}
    known = read(lambda c: [a.pop("iscrowd") for a in c["annotations"]])
    assert not known.crowds.any()


def test_what_json_has_no_word_for_may_stand_where_nothing_is_read(read):
    known = read(lambda c: c.update(info={"version": float("nan")}))
    assert len(known) == 22


def test_masks_need_faster_coco_eval(read, monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    read()
    with pytest.raises(ImportError, match=r"pip install 'eca-lightning\[detection\]'"):
        read(masks=True)


@pytest.mark.parametrize(
    "text",
    [b"", b"<html>", b'{"images": [', b"\xff\xfe\x00", b'{"images": [{"file_name": "\xe9"}]}'],
)
def test_a_file_that_is_no_json_is_named(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=r"^data\.val: .*a\.json: it cannot be read as JSON"):
        read_annotations(path, name="data.val")
    with pytest.raises(FileNotFoundError, match=r"^data\.val: .*gone\.json does not exist$"):
        read_annotations(tmp_path / "gone.json", name="data.val")


def test_a_section_that_comes_twice_is_refused(read, tmp_path):
    read()
    path = next(tmp_path.rglob("a.json"))
    path.write_text(path.read_text().rstrip()[:-1] + ', "annotations": []}')
    with pytest.raises(ValueError, match=r"the key 'annotations' is given twice: keep one"):
        read_annotations(path)


def test_images_must_be_there(read, folder, tmp_path):
    known = read()
    assert known.image_check(folder).by_headers("val") == []
    elsewhere = read(setting("images", file_name="extra/00005.png")).image_check(folder)
    (fault,) = elsewhere.by_headers("val")
    assert re.search(r"^val: .*extra/00005.png, image 5 of .*a\.json, does not exist$", fault)
    assert len(known.image_check(tmp_path / "empty").by_headers("val")) == 22
