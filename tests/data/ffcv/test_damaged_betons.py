"""Damaged data of every kind end in an error that names them, or do no harm."""

import os
import shutil
from collections import Counter

import pytest
from forked import run_forked
from thorough import thorough

from eca_lightning import ImageFolderDataModule

FUZZED = int(os.environ.get("FUZZED_BETONS", "60"))
"""Damaged packed files; ``make fuzz`` takes 500."""


@pytest.fixture(scope="module")
def betons(_ffcv, tmp_path_factory, image_folder, packed_beton):
    """The image folder, packed, and half as JPEGs and half as raw pixels."""
    from eca_lightning.data.datasets.write_files import FileSamples
    from eca_lightning.data.ffcv.samples import encode_pixels
    from eca_lightning.data.ffcv.sidecar import Encoding
    from eca_lightning.data.ffcv.write import write_beton
    from eca_lightning.data.folder.files import list_class_folders

    class Mixed(FileSamples):
        def stored(self, index, encoding):
            pixels, label = self[index]
            return encode_pixels(pixels, Encoding("raw" if index % 2 else "jpg")), label

    path = tmp_path_factory.mktemp("mixed") / "mixed.beton"
    files = list_class_folders(image_folder)
    write_beton(Mixed(files), path, class_names=files.class_names, source="mixed")
    return {"mixed": path, "packed": packed_beton}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("beton", "decoder", "count"),
    [("mixed", "crop", 60), ("packed", "crop", FUZZED), *thorough(("mixed", "ffcv", 60))],
)
def test_no_damaged_beton_hangs_or_kills(betons, tmp_path, beton, decoder, count):
    from fuzz_betons import read_damaged

    good = betons[beton]
    printed = run_forked(tmp_path / "logs", read_damaged, good, tmp_path, count, 0, decoder)
    seen = Counter(tuple(line.split()) for line in printed.splitlines())
    assert seen.total() == count
    each = count // 6
    assert seen["end", "refused"] == each
    for place in ("header", "metadata", "allocation"):
        assert seen[place, "refused"] > each // 2
    for place in ("fields", "metadata", "picture") if beton == "mixed" else ("fields",):
        assert seen[place, "read"] > 0
    assert seen["picture", "refused"] > each // 4


def claim_to_be_huge(content):
    """A JPEG whose header says 65,500 x 65,500 pixels."""
    sides = content.index(b"\xff\xc0") + 5
    return content[:sides] + b"\xff\xdc\xff\xdc" + content[sides + 4 :]


DAMAGES = {
    "empty": lambda content: b"",
    "cut off": lambda content: content[: len(content) // 2],
    "another format": lambda content: b"GIF89a" + content,
    "no tables": lambda content: content.replace(b"\xff\xdb", b"\xff\xef"),
    "never written": lambda content: bytes(len(content)),
    "a bomb": claim_to_be_huge,
    "text": lambda content: b"<html>404 Not Found</html>",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_image_file_is_named(image_folder, tmp_path, damage):
    source = shutil.copytree(image_folder, tmp_path / "source")
    path = source / "bus" / "3.jpg"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    options = {"batch_size": 21, "image_size": 16, "num_workers": 0, "on_unreadable": "raise"}
    data = ImageFolderDataModule(train=source, **options)
    with pytest.raises(ValueError, match=r"cannot read the image .*bus/3\.jpg"):
        list(data.train_dataloader())
