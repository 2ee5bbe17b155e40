"""Reading image files of every kind as upright RGB."""

import os

import numpy as np
import pytest
from PIL import Image

from eca_lightning.data.folder.files import first_image_size
from eca_lightning.data.folder.image import image_extensions, open_rgb, read_rgb


def pictures():
    rng = np.random.default_rng(0)
    gray = rng.integers(0, 256, (30, 40), np.uint8)
    color = Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8))
    return {
        "gray.png": Image.fromarray(gray),
        "bilevel.png": Image.fromarray(gray).convert("1"),
        "palette.png": color.quantize(64),
        "transparent.png": color.convert("RGBA"),
        "gray_alpha.png": Image.fromarray(gray).convert("LA"),
        "print.jpg": color.convert("CMYK"),
        "gray.jpg": Image.fromarray(gray),
        "ycbcr.tiff": color.convert("YCbCr"),
    }


@pytest.mark.parametrize("name", pictures())
def test_every_kind_of_image_becomes_rgb_as_pil_converts_it(name, tmp_path):
    pictures()[name].save(tmp_path / name)
    with Image.open(tmp_path / name) as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(read_rgb(tmp_path / name), expected)
    assert open_rgb(tmp_path / name).mode == "RGB"
    assert first_image_size([tmp_path / name]) == (30, 40)


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\xff\xd8\xff\xe0 nor this"])
def test_a_file_that_is_no_image_is_named(content, tmp_path):
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.jpg"):
        read_rgb(path)


def test_a_truncated_image_is_named(image_folder, tmp_path):
    content = (image_folder / "cat" / "0.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"half\.jpg.*truncated"):
        read_rgb(tmp_path / "half.jpg")


@pytest.mark.parametrize("value", [0, 1, 300, 30000, 65535])
@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.pgm", "a.jp2"])
def test_sixteen_bit_gray_is_scaled_from_its_full_range(name, value, tmp_path):
    Image.fromarray(np.full((8, 9), value, np.uint16)).save(tmp_path / name)
    expected = np.full((8, 9, 3), round(value / 257), np.uint8)
    assert np.array_equal(read_rgb(tmp_path / name), expected)


@pytest.mark.parametrize(("mode", "word"), [("I", "integer"), ("F", "float")])
def test_a_mode_without_a_known_range_is_refused(mode, word, tmp_path):
    Image.new(mode, (8, 9), 7).save(tmp_path / "deep.tiff")
    with pytest.raises(ValueError, match=rf"deep\.tiff: its mode {mode} \({word}.* no known range"):
        read_rgb(tmp_path / "deep.tiff")


def corner():
    """A picture that no turn leaves as it is: red at the top left, blue at the top right."""
    pixels = np.zeros((24, 40, 3), np.uint8)
    pixels[:8, :8, 0] = pixels[:8, -8:, 2] = 255
    return pixels


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tiff"])
def test_images_are_turned_upright(name, orientation, tmp_path):
    """Stored as a camera does: the orientation says how to turn what is stored."""
    upright = corner()
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"quality": 95, "subsampling": 0} if name == "a.jpg" else {"lossless": True}
    picture = Image.fromarray(np.ascontiguousarray(stored))
    picture.save(tmp_path / name, exif=exif, **({} if name == "a.tiff" else lossless))
    read = read_rgb(tmp_path / name)
    assert read.shape == upright.shape
    assert np.abs(read.astype(int) - upright).max() < 60  # JPEG
    if name != "a.tiff":  # whose orientation is not EXIF's, and Pillow always applies it
        ignored = read_rgb(tmp_path / name, "ignore")
        assert ignored.shape == stored.shape
        assert np.abs(ignored.astype(int) - stored).max() < 60


def test_damaged_exif_is_no_reason_to_lose_an_image(tmp_path):
    picture = Image.fromarray(corner())
    for number, damaged in enumerate((b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"nonsense")):
        picture.save(tmp_path / f"{number}.jpg", exif=damaged)
        assert open_rgb(tmp_path / f"{number}.jpg").size == (40, 24)


def test_sixteen_bits_and_orientation_together(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.full((8, 9), 65535, np.uint16)).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_rgb(tmp_path / "a.png"), np.full((9, 8, 3), 255))


def test_the_first_frame_is_taken(tmp_path):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    for name in ("a.gif", "a.tiff", "a.png", "a.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
        assert read_rgb(tmp_path / name)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.filterwarnings("error")
def test_a_transparent_palette_gives_its_colors_without_a_warning(tmp_path):
    picture = Image.fromarray(corner()).quantize(8)
    expected = np.asarray(picture.convert("RGB"))
    picture.save(tmp_path / "a.png", transparency=bytes([0, 128, 255]))
    assert np.array_equal(read_rgb(tmp_path / "a.png"), expected)


def test_neither_a_pipe_nor_postscript_is_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ValueError, match=r"pipe\.jpg: it is not a regular file"):
        open_rgb(tmp_path / "pipe.jpg")
    # Pillow would run Ghostscript on it, whatever its name.
    (tmp_path / "script.jpg").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    )
    with pytest.raises(ValueError, match=r"script\.jpg: cannot identify"):
        open_rgb(tmp_path / "script.jpg")
    assert ".eps" not in image_extensions()
    assert image_extensions() >= {
        ".jpg",
        ".jpeg",
        ".jfif",
        ".png",
        ".webp",
        ".avif",
        ".tif",
        ".gif",
    }


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    Image.new("1", (2000, 2000)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    with pytest.raises(ValueError, match=r"bomb\.png: Image size \(4000000 pixels\) exceeds limit"):
        open_rgb(tmp_path / "bomb.png")
