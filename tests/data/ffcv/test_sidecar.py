"""Sidecars that are no sidecars: refused at once, in one line, whatever they are."""

import json
import os
import shutil

import pytest

from eca_lightning.data.ffcv.format import FIELD_TYPE, HEADER_TYPE, check_beton
from eca_lightning.data.ffcv.sidecar import sidecar_path


@pytest.fixture
def beton(raw_beton, tmp_path):
    """A copy of the file, without its sidecar."""
    return shutil.copy(raw_beton, tmp_path / "copy.beton")


@pytest.mark.parametrize("kind", ["pipe", "endless", "folder", "bytes", "list", "deep"])
def test_what_is_no_json_file_is_refused(beton, kind):
    path = sidecar_path(beton)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        content = {"bytes": b"\xff\xfe", "list": b"[1]", "deep": b"[" * 100_000}
        path.write_bytes(content[kind])
    with pytest.raises(ValueError, match=r"has a sidecar that cannot be used, copy\.beton\.json"):
        check_beton(beton)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("samples", "101"),
        ("bytes", None),
        ("class_names", "abcd"),
        ("class_names", [1, 2, 3, 4]),
        ("class_names", []),
        ("class_counts", {"a": 1}),
        ("skipped", 3),
        ("source", []),
        ("encoding", {"mode": "gif"}),
        ("shade", "red"),
    ],
)
def test_values_of_other_types_are_refused(raw_beton, beton, key, value):
    content = json.loads(sidecar_path(raw_beton).read_text()) | {key: value}
    sidecar_path(beton).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"has a sidecar that cannot be used, copy\.beton\.json"):
        check_beton(beton)


def test_files_of_the_former_mode_proportion_are_read(raw_beton, beton):
    content = json.loads(sidecar_path(raw_beton).read_text())
    content["encoding"] |= {"mode": "proportion", "compress_probability": 0.3}
    sidecar_path(beton).write_text(json.dumps(content))
    assert check_beton(beton).sidecar.encoding.mode == "proportion"


def test_fields_in_another_order_are_named(beton):
    content = bytearray(beton.read_bytes())
    start, size = HEADER_TYPE.itemsize, FIELD_TYPE.itemsize
    image, label = content[start : start + size], content[start + size : start + 2 * size]
    content[start : start + 2 * size] = label + image
    beton.write_bytes(content)
    with pytest.raises(ValueError, match="has its fields in the order label, image, and only"):
        check_beton(beton)


def test_a_pipe_is_no_beton(tmp_path):
    os.mkfifo(tmp_path / "pipe.beton")
    with pytest.raises(ValueError, match=r"is no regular file, but a \.beton file"):
        check_beton(tmp_path / "pipe.beton")
