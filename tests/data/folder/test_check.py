"""Images are checked by their headers once, and what was good is remembered beside them."""

import os
import shutil

import pytest
from PIL import Image

from eca_lightning import CocoDataModule, ImageFolderDataModule
from eca_lightning.data.folder import check
from eca_lightning.data.folder.check import ImageCheck
from eca_lightning.data.folder.files import list_class_folders

BROKEN = ("apple/0.jpg", "cat/3.jpg")


@pytest.fixture
def photos(image_folder, tmp_path, monkeypatch):
    """A folder of 21 images, of which two are none."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = shutil.copytree(image_folder, tmp_path / "photos")
    for name in BROKEN:
        (folder / name).write_bytes(b"no image")
    return folder


@pytest.fixture
def opened(monkeypatch):
    """The files whose headers are read."""
    paths = []

    def open_image(path):
        paths.append(path)
        return original(path)

    original = check.open_image
    monkeypatch.setattr(check, "open_image", open_image)
    return paths


def check_headers(folder):
    return ImageCheck(list_class_folders(folder).paths, folder).by_headers("data.train")


def repair(folder):
    for name in BROKEN:
        shutil.copy(folder / "bus" / "0.jpg", folder / name)


def test_a_start_lists_all_faults_and_the_next_one_opens_what_has_changed(photos, opened):
    module = ImageFolderDataModule(train=photos, val=photos, num_workers=0, batch_size=4)
    with pytest.raises(
        ValueError, match=r"^4 faults in the data:\n  data\.train: cannot read "
    ) as e:
        module.setup("fit")
    assert all(str(e.value).count(str(photos / name)) >= 2 for name in BROKEN)
    assert (
        str(e.value).splitlines()[-1].startswith("replace the images that are damaged or missing")
    )
    assert len(opened) == 21 + 2
    opened.clear()
    repair(photos)
    module.setup("fit")
    assert sorted(opened) == [photos / name for name in BROKEN]
    opened.clear()
    module.setup("fit")
    assert opened == []
    assert sorted(path.name for path in photos.parent.iterdir()) == [".photos.checked", "photos"]


def test_a_file_that_changed_is_looked_at_again_whatever_its_size_and_time(photos, opened):
    repair(photos)
    assert check_headers(photos) == []
    file = photos / "bus" / "1.jpg"
    status = file.stat()
    file.write_bytes(bytes(status.st_size))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    opened.clear()
    (fault,) = check_headers(photos)
    assert f"cannot read the image {file}" in fault
    assert opened == [file]


def test_a_folder_that_was_moved_is_remembered(photos, opened, tmp_path):
    repair(photos)
    check_headers(photos)
    photos.rename(tmp_path / "moved")
    (tmp_path / ".photos.checked").rename(tmp_path / ".moved.checked")
    opened.clear()
    assert check_headers(tmp_path / "moved") == []
    assert opened == []


@pytest.mark.parametrize("kind", ["garbage", "cut", "empty", "another", "pipe", "folder", "link"])
def test_a_damaged_or_hostile_list_is_ignored(kind, photos, tmp_path):
    place, precious = tmp_path / ".photos.checked", tmp_path / "precious"
    assert len(check_headers(photos)) == 2
    content = place.read_bytes()
    place.unlink()
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        (place / "mine").mkdir(parents=True)
    elif kind == "link":
        precious.write_text("mine")
        place.symlink_to(precious)
    else:
        damaged = {
            "garbage": b"\xff" * 999,
            "cut": content[:-3],
            "empty": b"",
            "another": content.replace(b", 1,", b", 9,"),
        }
        place.write_bytes(damaged[kind])
    for _ in range(2):
        assert len(check_headers(photos)) == 2
    assert kind != "folder" or (place / "mine").is_dir()
    assert kind != "link" or precious.read_text() == "mine"


@pytest.mark.parametrize("writable", ["cache", "nothing"])
def test_where_the_folder_is_read_only_the_cache_remembers_or_nothing(
    writable, photos, opened, monkeypatch, tmp_path
):
    write = check.atomic_write

    def read_only(path):
        if writable == "nothing" or path.parent == photos.parent:
            raise PermissionError(30, "Read-only file system")
        return write(path)

    monkeypatch.setattr(check, "atomic_write", read_only)
    repair(photos)
    assert check_headers(photos) == []
    opened.clear()
    assert check_headers(photos) == []
    assert len(opened) == (0 if writable == "cache" else 21)
    assert len(list(tmp_path.glob("cache/eca_lightning/*"))) == (writable == "cache")


def test_other_expectations_of_the_same_files_are_remembered_side_by_side(photos, opened):
    repair(photos)
    paths = list_class_folders(photos).paths
    sizes = [Image.open(path).size[::-1] for path in paths]
    for _ in range(2):
        opened.clear()
        assert ImageCheck(paths, photos).by_headers("some") == []
        assert ImageCheck(paths, photos, "apply", sizes).by_headers("all of a size") == []
        assert ImageCheck(paths[:5], photos, "ignore", sizes[:5]).by_headers("few") == []
    assert opened == []


def test_images_of_other_sizes_are_found_at_start(photos):
    repair(photos)
    module = ImageFolderDataModule(val=photos, eval_crop="full", num_workers=0)
    with pytest.raises(
        ValueError, match=r"^18 faults [\s\S]*val: the crop 'full' needs images of one"
    ):
        module.setup("validate")


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tiff"])
def test_the_size_is_that_of_the_upright_image(kind, tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    path = tmp_path / f"a.{kind}"
    Image.new("RGB", (30, 20)).save(path, exif=turned)
    for exif, sizes in (("apply", [(30, 20)]), ("ignore", [(20, 30)])):
        if (kind, exif) != ("tiff", "ignore"):  # which Pillow turns in any case
            expected = ImageCheck([path], None, exif, sizes, lambda *size: str(size))
            assert expected.by_headers("x") == expected.by_pixels("x", 1) == []
    wrong = ImageCheck([path], None, "apply", [(20, 30)], lambda *size: str(size))
    assert wrong.by_headers("x") == wrong.by_pixels("x", 1) == ["x: (0, 30, 20)"]


def test_prediction_checks_where_it_may_not_skip(photos):
    options = {"predict": photos, "num_workers": 0}
    ImageFolderDataModule(**options).setup("predict")
    for module in (ImageFolderDataModule, CocoDataModule):
        with pytest.raises(ValueError, match=r"^2 faults in the data:\n  data\.predict: cann") as e:
            module(**options, on_unreadable="raise").setup("predict")
        assert str(e.value).endswith(", or skip them with --data.on_unreadable skip")
