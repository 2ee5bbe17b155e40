"""Small data sets that the tests of the data room share."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def photographs():
    """Photographs where scikit-image is installed, else smooth fields with edges."""
    try:
        from skimage import data

        return [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    except ImportError:
        rng = np.random.default_rng(0)
        fields = []
        for _ in range(4):
            coarse = Image.fromarray(rng.integers(0, 256, (9, 13, 3), np.uint8))
            picture = np.array(coarse.resize((620, 430), Image.Resampling.BICUBIC))
            picture[100:200, 150:400] = picture[100:200, 150:400][:, ::-1] // 2
            fields.append(picture)
        return fields


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """Three classes of 8, 7 and 6 JPEG files of several sizes, named out of order of writing."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(1)
    sources = photographs()
    for label, name in enumerate(("cat", "apple", "bus")):
        (root / name).mkdir()
        for i in range(8 - label):
            source = sources[rng.integers(len(sources))]
            height, width = rng.integers(90, 200, 2)
            top = rng.integers(source.shape[0] - height + 1)
            left = rng.integers(source.shape[1] - width + 1)
            picture = Image.fromarray(source[top : top + height, left : left + width])
            picture.save(root / name / f"{i}.jpg", quality=95)
    return root


class Arrays:
    """Labelled arrays as samples to write."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], int(self.labels[index])


@pytest.fixture(scope="session")
def arrays():
    """101 images of 20 x 24 with 4 classes; sample i has i in its first pixel."""
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (101, 20, 24, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(101)
    return Arrays(images, np.arange(101) % 4)


@pytest.fixture(scope="session")
def _ffcv():
    pytest.importorskip("ffcv")


@pytest.fixture(scope="session")
def raw_beton(_ffcv, tmp_path_factory, arrays):
    """The arrays as raw pixels."""
    from eca_lightning.data.sidecar import Encoding
    from eca_lightning.data.writing import write_beton

    path = tmp_path_factory.mktemp("raw") / "raw.beton"
    write_beton(arrays, path, class_names=list("abcd"), source="arrays", encoding=Encoding("raw"))
    return path


@pytest.fixture(scope="session")
def photo_beton(_ffcv, tmp_path_factory, image_folder):
    """The image folder as JPEGs of quality 95."""
    from eca_lightning.data.image_folder import write_image_folder

    path = tmp_path_factory.mktemp("photos") / "photos.beton"
    write_image_folder(image_folder, path, quality=95, num_workers=2)
    return path


def write_idx(path: Path, array):
    """Write an array as a compressed IDX file."""
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def fashion_files(tmp_path):
    """A folder like Debian's with 40 and 10 images of noise, and its content."""
    rng = np.random.default_rng(3)
    content = {}
    for prefix, count in (("train", 40), ("t10k", 10)):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte.gz", labels)
        content[prefix] = images, labels
    return tmp_path, content
