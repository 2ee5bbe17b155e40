"""What evaluation does to an image, against Pillow's own resize."""

import numpy as np
import pytest
from PIL import Image

from eca_lightning.data.folder.preprocessing import Preprocessing

VIEW = Preprocessing("center_crop", (24, 24), 32)


def noise(width, height):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def test_crops_and_resizes_as_pillow():
    image = noise(60, 40)
    side, resize = 40 * 24 // 32, Image.Resampling.BILINEAR
    left, top = (60 - side) // 2, (40 - side) // 2
    expected = image.crop((left, top, left + side, top + side)).resize((24, 24), resize)
    pixels = VIEW(image)
    assert pixels.shape == (3, 24, 24)
    assert np.array_equal(pixels.permute(1, 2, 0), expected)
    whole = Preprocessing("full", (20, 30))(image)
    assert np.array_equal(whole.permute(1, 2, 0), image.resize((30, 20), resize))


def test_files_are_turned_upright_and_become_rgb(tmp_path):
    image = noise(48, 32).convert("L")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    expected = VIEW(image)
    assert np.array_equal(VIEW(tmp_path / "turned.png"), expected)
    assert np.array_equal(VIEW(str(tmp_path / "turned.png")), expected)
    with pytest.raises(ValueError, match=r"cannot read the image .*gone\.png"):
        VIEW(tmp_path / "gone.png")


def test_what_is_given_replaces_what_is_known():
    assert VIEW.given(None, None, None) == VIEW
    assert VIEW.given(None, 48, None) == Preprocessing("center_crop", (48, 48), 64)
    assert VIEW.given(None, None, 40) == Preprocessing("center_crop", (24, 24), 40)
    assert VIEW.given("full", None, None) == Preprocessing("full", (24, 24), 32)
    wide = Preprocessing("full", (20, 30), 256)
    assert wide.given("center_crop", None, None).image_size == (20, 20)


def test_it_survives_a_file():
    assert Preprocessing.from_dict(VIEW.to_dict()) == VIEW
    assert Preprocessing.from_dict(None) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_size", [10**9, 10**9]),
        ("image_size", "22"),
        ("image_size", [24, True]),
        ("eval_crop", "os.system"),
        ("eval_crop", []),
        ("resize_size", float("nan")),
        ("resize_size", "256"),
        ("resize_size", 8),
        ("interpolation", "lanczos"),
        ("interpolation", None),
    ],
)
def test_values_of_strangers_are_refused(key, value):
    with pytest.raises(ValueError, match=f"{key} must be"):
        Preprocessing.from_dict({**VIEW.to_dict(), key: value})


@pytest.mark.parametrize("saved", [[], "full", {"eval_crop": "full"}, {**VIEW.to_dict(), "x": 1}])
def test_what_is_no_preprocessing_is_refused(saved):
    with pytest.raises(ValueError, match="preprocessing must have"):
        Preprocessing.from_dict(saved)
