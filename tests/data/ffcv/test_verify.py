"""The commands that describe and verify .beton files."""

import shutil

import pytest

from eca_lightning.data.ffcv.format import FIELD_TYPE, HEADER_TYPE, SAMPLE_TYPE, check_beton
from eca_lightning.data.ffcv.sidecar import sidecar_path
from eca_lightning.data.ffcv.verify import info, verify


@pytest.fixture
def folder(photo_beton, raw_beton, tmp_path):
    for beton in (photo_beton, raw_beton):
        shutil.copy(beton, tmp_path)
        shutil.copy(sidecar_path(beton), tmp_path)
    return tmp_path


def damage(path, sample):
    """Overwrite the middle of a sample's bytes."""
    beton = check_beton(path)
    with path.open("r+b") as file:
        file.seek(int(beton.images["data_ptr"][sample]) + int(beton.sizes[sample]) // 2)
        file.write(b"\xff\xd9" * 20)


def test_info_is_a_table(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    info(folder)
    table = capsys.readouterr().out
    for text in ("photos.beton", "raw.beton", "101", "jpg 21", "raw 101", "20 x 24", "arrays"):
        assert text in table
    info(folder / "raw.beton")
    assert "photos.beton" not in capsys.readouterr().out


def test_good_files_pass(folder, capsys):
    verify(folder)
    output = capsys.readouterr().out
    assert "photos.beton: all 21 samples are good (checksum too)" in output
    sidecar_path(folder / "raw.beton").unlink()
    verify(folder / "raw.beton")
    assert "no sidecar, so no checksum" in capsys.readouterr().out


@pytest.mark.parametrize("with_sidecar", [True, False])
def test_damaged_jpegs_are_listed(folder, with_sidecar):
    path = folder / "photos.beton"
    if not with_sidecar:
        sidecar_path(path).unlink()
    damage(path, 3)
    damage(path, 17)
    with pytest.raises(ValueError, match=r"photos\.beton: 2 of 21 samples do not decode: 3, 17$"):
        verify(folder)


def test_a_picture_of_another_size_than_recorded_is_listed(folder):
    path = folder / "photos.beton"
    width = HEADER_TYPE.itemsize + 2 * FIELD_TYPE.itemsize + 4 * SAMPLE_TYPE.itemsize
    width += SAMPLE_TYPE["image"].fields["width"][1]
    content = bytearray(path.read_bytes())
    content[width] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"1 of 21 samples do not decode: 4$"):
        verify(path)


def test_damaged_raw_pixels_fail_the_checksum(folder):
    damage(folder / "raw.beton", 5)
    with pytest.raises(ValueError, match=r"raw\.beton: its checksum"):
        verify(folder)


def test_a_folder_without_betons_is_named(tmp_path):
    for command in (info, verify):
        with pytest.raises(FileNotFoundError, match=r"holds no \.beton"):
            command(tmp_path)
        with pytest.raises(FileNotFoundError, match=r"gone\.beton does not exist"):
            command(tmp_path / "gone.beton")
