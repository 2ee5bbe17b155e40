"""Packed .beton files: written, read, resumed and verified by the commands and modules of users."""

import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from command import error_of
from exact_pixels import picture, pil
from fuzz_crop_decode import encode
from independent_readers import read_jpeg, same
from PIL import Image
from torchvision.transforms import v2

pytest.importorskip("ffcv")

from eca_lightning import FFCVDataModule
from eca_lightning.cli import main
from eca_lightning.data.ffcv.format import check_beton
from eca_lightning.data.ffcv.packed import native
from eca_lightning.data.ffcv.samples import PackedField
from eca_lightning.data.ffcv.sidecar import sidecar_path
from eca_lightning.data.ffcv.verify import verify


def write(source, output, *options):
    main(["data", "write", "image-folder", "--source", str(source), "--output", str(output),
          "--mode", "packed", "--num_workers", "1", *options])  # fmt: skip
    return check_beton(output)


def test_jpegs_are_taken_over_without_loss(packed_beton, image_folder):
    info = check_beton(packed_beton)
    assert info.modes == {"jpg": 0, "raw": 0, "packed": 21}
    paths = sorted(image_folder.rglob("*.jpg"))
    for sample, path in enumerate(paths):
        assert np.array_equal(info.read_image(sample), native.encode(path.read_bytes()))


def test_other_images_are_encoded_once(tmp_path, image_folder, capsys):
    folder = tmp_path / "images" / "a"
    folder.mkdir(parents=True)
    pixels = picture(64, 48)
    Image.fromarray(pixels).save(folder / "0.png")
    (folder / "1.jpg").write_bytes(encode(pixels, "CMYK"))
    (folder / "2.jpg").write_bytes(encode(pixels, keep_rgb=True))
    turned = Image.Exif()
    turned[274] = 6
    (folder / "3.jpg").write_bytes(encode(pixels, exif=turned))
    (folder / "4.jpg").write_bytes(encode(picture(64, 400)))
    (folder / "5.jpg").write_bytes(encode(pixels, "L", progressive=True))
    (folder / "6.jpg").write_bytes(encode(pixels)[:-700])
    with pytest.raises(SystemExit, match="2"):
        write(tmp_path / "images", tmp_path / "x.beton")
    assert "6.jpg" in capsys.readouterr().err
    info = write(
        tmp_path / "images", tmp_path / "x.beton", "--on_error", "skip", "--max_resolution", "100"
    )
    heights, widths = info.images["height"], info.images["width"]
    assert list(zip(heights, widths, strict=True)) == [
        (64, 48), (64, 48), (64, 48), (48, 64), (16, 100), (64, 48),
    ]  # fmt: skip
    for sample in range(3):
        shown = native.decode_crop(info.read_image(sample), (0, 0, 64, 48), (64, 48)).astype(int)
        assert np.abs(shown - pixels).mean() < 12
    assert np.array_equal(info.read_image(5), native.encode((folder / "5.jpg").read_bytes()))


def test_converting_there_and_back_loses_nothing(photo_beton, packed_beton, tmp_path, capsys):
    def convert(source, name, *options):
        output = tmp_path / name
        main(["data", "convert", str(source), str(output), *options])
        return check_beton(output)

    jpg = check_beton(photo_beton)
    packed = convert(photo_beton, "packed.beton", "--num_workers", "1")
    back = convert(packed.path, "back.beton", "--mode", "jpg")
    again = convert(back.path, "again.beton")
    assert (packed.modes["packed"], back.modes["jpg"]) == (21, 21)
    assert packed.class_names == jpg.class_names
    assert packed.sidecar.source == jpg.sidecar.source
    for sample in range(21):
        stream = jpg.read_image(sample).tobytes()
        assert np.array_equal(packed.read_image(sample), native.encode(stream))
        assert np.array_equal(again.read_image(sample), packed.read_image(sample))
        assert np.array_equal(pil(back.read_image(sample).tobytes()), pil(stream))
    assert same(read_jpeg(back.read_image(0).tobytes()), read_jpeg(jpg.read_image(0).tobytes()))
    assert packed.labels.tolist() == back.labels.tolist() == jpg.labels.tolist()
    capsys.readouterr()
    convert(photo_beton, "packed.beton")
    assert "kept" in capsys.readouterr().out


def test_raw_pixels_are_encoded_and_counted(raw_beton, tmp_path, capsys):
    main(["data", "convert", str(raw_beton), str(tmp_path / "x.beton")])
    assert check_beton(tmp_path / "x.beton").modes["packed"] == 101
    assert "101 images" in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["jpg", "packed"])
@pytest.mark.parametrize("beton", ["photo_beton", "packed_beton"])
def test_damage_stops_a_conversion_and_is_named(request, tmp_path, capsys, beton, mode):
    source = Path(shutil.copy(request.getfixturevalue(beton), tmp_path))
    with source.open("r+b") as file:
        info = check_beton(source)
        file.seek(int(info.images["data_ptr"][5]) + int(info.sizes[5]) // 2)
        file.write(b"\xff\xd9" * 20)
    output = tmp_path / "x.beton"
    with pytest.raises(SystemExit, match="2"):
        main(["data", "convert", str(source), str(output), "--mode", mode])
    assert "sample 5 of" in capsys.readouterr().err
    assert not output.exists()


def test_damage_that_decoding_does_not_see_is_not_converted(raw_beton, tmp_path, capsys):
    source = Path(shutil.copy(raw_beton, tmp_path))
    shutil.copy(sidecar_path(raw_beton), tmp_path)
    damage(source, 5, 100)
    error = error_of(capsys, "data", "convert", str(source), str(tmp_path / "x.beton"))
    assert f"{source}: its checksum is not that of its sidecar" in error
    assert not (tmp_path / "x.beton").exists()


def data(path, **options):
    options = {"order": "quasi_random"} | options
    return FFCVDataModule(train=path, batch_size=4, image_size=32, seed=3, **options)


def test_pixels_depend_on_neither_workers_nor_interruption(packed_beton):
    loader = data(packed_beton, num_workers=1).train_dataloader()
    batches = [images for images, _ in loader]
    info = check_beton(packed_beton)
    resumed = data(packed_beton, num_workers=2).train_dataloader()
    whole = [images for images, _ in resumed]
    resumed.load_state_dict({**resumed.state_dict(), "epoch": 0, "batches_done": 2})
    rest = [images for images, _ in resumed]
    assert len(rest) == len(whole) - 2
    assert all(torch.equal(*pair) for pair in zip(rest, whole[2:], strict=True))
    assert all(torch.equal(*pair) for pair in zip(batches, whole, strict=True))
    crop = loader.crop.boxes(np.arange(21), info.images["height"], info.images["width"], 0)
    first = int(loader.batch_indices(0)[0])
    box = crop[first]
    alone = native.decode_crop(info.read_image(first), tuple(box[:4]), (32, 32), bool(box[4]))
    assert np.array_equal(batches[0][0].permute(1, 2, 0).numpy(), alone)


def damage(path, sample, at):
    info = check_beton(path)
    with path.open("r+b") as file:
        place = int(info.images["data_ptr"][sample]) + at % int(info.sizes[sample])
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 4]))


@pytest.fixture
def copied(packed_beton, tmp_path):
    shutil.copy(sidecar_path(packed_beton), tmp_path)
    return Path(shutil.copy(packed_beton, tmp_path))


@pytest.mark.parametrize("at", [30, -150, -1])
def test_verify_finds_damage_anywhere(copied, at):
    damage(copied, 7, at)
    with pytest.raises(ValueError, match=r"1 of 21 samples do not decode: 7$"):
        verify(copied)


def test_damage_in_a_crop_names_file_and_sample(copied):
    damage(copied, 7, int(check_beton(copied).sizes[7]) // 2)
    with pytest.raises(ValueError, match=r"packed\.beton: .* sample 7 are damaged"):
        list(data(copied, train_crop="center_crop", resize_size=32).train_dataloader())


def test_ffcv_opens_the_file_and_refuses_to_decode_it(packed_beton):
    from ffcv.reader import Reader

    with pytest.raises(ValueError, match="Must specify a custom_field entry"):
        Reader(str(packed_beton))
    assert Reader(str(packed_beton), {"image": PackedField}).num_samples == 21
    with pytest.raises(ValueError, match=r"data\.decoder: FFCV cannot decode the packed images"):
        data(packed_beton, decoder="ffcv").train_dataloader()


def test_modes_must_be_those_of_the_field(copied):
    content = bytearray(copied.read_bytes())
    info = check_beton(copied)
    place = content.index(info.images[0].tobytes())
    content[place] = 1
    copied.write_bytes(content)
    with pytest.raises(ValueError, match="the modes of its images are not those of its field"):
        check_beton(copied)


@pytest.mark.parametrize("beton", ["photo_beton", "packed_beton"])
def test_bilinear_center_crops_are_torchvisions(request, beton):
    info = check_beton(request.getfixturevalue(beton))
    options = {"train_crop": "center_crop", "resize_size": 36, "interpolation": "bilinear"}
    loader = data(info.path, flip=False, num_workers=2, **options).train_dataloader()
    transform = v2.Compose([v2.Resize(36), v2.CenterCrop(32)])
    batch, _ = next(iter(loader))
    for shown, sample in zip(batch, loader.batch_indices(0), strict=True):
        stream = info.read_image(sample)
        stream = native.to_jpeg(stream) if info.is_packed else stream
        expected = np.asarray(transform(Image.open(BytesIO(stream.tobytes())).convert("RGB")))
        assert np.abs(shown.permute(1, 2, 0).numpy() - expected.astype(int)).mean() < 0.4


def test_ffcv_does_not_interpolate(photo_beton):
    with pytest.raises(ValueError, match=r"data\.interpolation must be area where FFCV decodes"):
        data(photo_beton, decoder="ffcv", interpolation="bilinear").train_dataloader()
