"""The check of a .beton: every damage is found in milliseconds, and named."""

import shutil
import time

import numpy as np
import pytest

from eca_lightning.data.ffcv.format import (
    ALLOCATION_TYPE,
    FIELD_TYPE,
    HEADER_TYPE,
    SAMPLE_TYPE,
    check_beton,
)
from eca_lightning.data.ffcv.sidecar import sidecar_path

METADATA = HEADER_TYPE.itemsize + 2 * FIELD_TYPE.itemsize


@pytest.fixture
def copy(raw_beton, tmp_path):
    """A copy of the raw beton without its sidecar."""
    return shutil.copy(raw_beton, tmp_path / "copy.beton")


def change(path, offset, dtype, **values):
    """Change fields of a record in a file."""
    record = np.fromfile(path, dtype, 1, offset=offset)
    for name, value in values.items():
        record[name] = value
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(record.tobytes())


def test_format_is_ffcvs():
    types = pytest.importorskip("ffcv.types")
    fields = pytest.importorskip("ffcv.fields")
    handlers = [fields.RGBImageField(), fields.IntField()]
    theirs = types.get_metadata_type(handlers)
    assert theirs.itemsize == SAMPLE_TYPE.itemsize
    for ours, field in zip(SAMPLE_TYPE.fields.values(), theirs.fields.values(), strict=True):
        assert ours == field
    assert types.HeaderType == HEADER_TYPE
    assert types.ALLOC_TABLE_TYPE == ALLOCATION_TYPE
    assert types.FieldDescType.itemsize == FIELD_TYPE.itemsize


def test_a_whole_file_is_described(raw_beton, arrays):
    info = check_beton(raw_beton)
    assert info.samples == 101
    assert info.class_names == list("abcd")
    assert info.num_classes == 4
    assert info.modes == {"jpg": 0, "raw": 101, "packed": 0}
    assert info.resolutions == ((20, 24), (20, 24))
    assert info.bytes == raw_beton.stat().st_size
    assert np.array_equal(info.labels, arrays.labels)
    assert set(info.sizes.tolist()) == {20 * 24 * 3}
    assert len(np.unique(info.pages)) <= 2


def test_agrees_with_ffcvs_reader(photo_beton):
    reader = pytest.importorskip("ffcv.reader").Reader(str(photo_beton))
    info = check_beton(photo_beton)
    assert np.array_equal(reader.metadata["f0"], info.images)
    assert np.array_equal(reader.metadata["f1"], info.labels)
    assert reader.page_size == info.page_size
    assert reader.field_names == ["image", "label"]
    assert info.modes == {"jpg": 21, "raw": 0, "packed": 0}
    files = [(image["height"], image["width"]) for image in info.images]
    assert info.resolutions == (tuple(np.min(files, axis=0)), tuple(np.max(files, axis=0)))


def test_a_file_without_sidecar_counts_its_classes(copy):
    info = check_beton(copy)
    assert info.class_names is None
    assert info.num_classes == 4


def test_a_missing_file_names_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data\.train: .*gone\.beton.*data write"):
        check_beton(tmp_path / "gone.beton", "data.train")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"is a folder.*ImageFolderDataModule"):
        check_beton(tmp_path)


@pytest.mark.parametrize("content", [b"", b"short", b"\x89PNG\r\n" * 1000, bytes(5000)])
def test_another_file_is_refused(content, tmp_path):
    path = tmp_path / "other.beton"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"other\.beton is not a \.beton file.*write it again"):
        check_beton(path)


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.3, 0.9, 0.9999])
def test_truncation_is_found_at_once(copy, share):
    size = copy.stat().st_size
    with copy.open("r+b") as file:
        file.truncate(max(30, int(size * share)))
    start = time.process_time()
    with pytest.raises(ValueError, match=r"copy\.beton is (truncated|damaged)"):
        check_beton(copy)
    assert time.process_time() - start < 1


def test_one_byte_too_many_or_too_few_is_found(copy):
    with copy.open("ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match="damaged"):
        check_beton(copy)
    with copy.open("r+b") as file:
        file.truncate(copy.stat().st_size - 2)
    with pytest.raises(ValueError, match="truncated"):
        check_beton(copy)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"version": 1}, "not a .beton"),
        ({"page_size": 3 << 20}, "not a .beton"),
        ({"num_fields": 3}, "3 fields"),
        ({"num_samples": 0}, "no samples"),
        ({"num_samples": 2**60}, "damaged"),
        ({"alloc_table_ptr": 0}, "never completed"),
        ({"alloc_table_ptr": 40}, "inside its metadata"),
        ({"alloc_table_ptr": 2**63}, "truncated"),
    ],
)
def test_a_damaged_header_is_found(copy, values, message):
    change(copy, 0, HEADER_TYPE, **values)
    with pytest.raises(ValueError, match=message):
        check_beton(copy)


def test_other_fields_are_refused(copy):
    change(copy, HEADER_TYPE.itemsize, FIELD_TYPE, name=b"picture")
    with pytest.raises(ValueError, match="picture"):
        check_beton(copy)


@pytest.mark.parametrize(
    ("image", "label", "message"),
    [
        ((7, 24, 20, None), 0, "modes of its images"),
        ((1, 0, 20, None), 0, "not plausible"),
        ((1, 25, 20, None), 0, "size of their pixels"),
        ((1, 24, 20, 5), 0, "allocation table"),
        ((1, 24, 20, 2**63), 0, "allocation table"),
        ((1, 24, 20, None), -1, "negative labels"),
    ],
)
def test_damaged_metadata_are_found(copy, image, label, message):
    pointer = check_beton(copy).images["data_ptr"][0] if image[3] is None else image[3]
    change(copy, METADATA, SAMPLE_TYPE, image=(*image[:3], pointer), label=label)
    with pytest.raises(ValueError, match=message):
        check_beton(copy)


@pytest.mark.parametrize(
    "values",
    [{"ptr": 0}, {"ptr": 2**64 - 1}, {"size": 2**33}, {"sample_id": 50}, {"size": 1}],
)
def test_a_damaged_allocation_is_found(copy, values):
    table = np.fromfile(copy, HEADER_TYPE, 1)[0]["alloc_table_ptr"]
    change(copy, int(table), ALLOCATION_TYPE, **values)
    with pytest.raises(ValueError, match="damaged"):
        check_beton(copy)


@pytest.mark.slow
def test_random_damage_never_passes_unnoticed_into_pointers(copy):
    good = check_beton(copy)
    content = copy.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        damaged = bytearray(content)
        start = rng.choice([0, METADATA, len(content) - 101 * ALLOCATION_TYPE.itemsize])
        place = int(start + rng.integers(200))
        damaged[place] ^= 1 << rng.integers(8)
        copy.write_bytes(damaged)
        try:
            info = check_beton(copy)
        except ValueError:
            refused += 1
        else:  # only a label or an argument that nobody reads can have changed
            assert np.array_equal(info.images, good.images)
            assert np.array_equal(info.sizes, good.sizes)
    assert refused > 100


def test_a_jpeg_too_short_for_its_pixels_is_found(photo_beton, tmp_path):
    """Believed, it would cost 12 GiB of pixels before the decoder sees that it is small."""
    copy = shutil.copy(photo_beton, tmp_path / "copy.beton")
    pointer = check_beton(copy).images["data_ptr"][0]
    change(copy, METADATA, SAMPLE_TYPE, image=(0, 65535, 65535, pointer))
    with pytest.raises(ValueError, match="not plausible"):
        check_beton(copy)


def test_the_sidecar_must_fit(copy, raw_beton):
    sidecar = sidecar_path(copy)
    shutil.copy(sidecar_path(raw_beton), sidecar)
    assert check_beton(copy).class_names == list("abcd")
    good = sidecar.read_text()
    for damage in ("", "[]", "{}", good.replace('"format": 1', '"format": 9'), good[:-20]):
        sidecar.write_text(damage)
        with pytest.raises(ValueError, match=r"copy\.beton\.json"):
            check_beton(copy)
    sidecar.write_text(good.replace('"samples": 101', '"samples": 100'))
    with pytest.raises(ValueError, match="does not match its sidecar"):
        check_beton(copy)
    sidecar.write_text(good.replace('"a",', ""))
    with pytest.raises(ValueError, match="labels above its 3 classes"):
        check_beton(copy)


@pytest.mark.parametrize(
    ("label", "message"),
    [(1, "does not match its sidecar: the counts"), (4, "above its 4"), (2**62, "above its 4")],
)
def test_labels_must_be_as_many_as_the_sidecar_counts(copy, raw_beton, label, message):
    shutil.copy(sidecar_path(raw_beton), sidecar_path(copy))
    image = check_beton(copy).images[0]
    change(copy, METADATA, SAMPLE_TYPE, image=image, label=label)
    with pytest.raises(ValueError, match=message):
        check_beton(copy)
