"""Data and runs that several test files share."""

import gc
import gzip
from pathlib import Path

import numpy as np
import pytest
import shallow  # noqa: F401  # its backbones stand in checkpoints, which import no code
import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from small_run import config, write_images
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from eca_lightning import ImageClassifier
from eca_lightning.backbones import BackboneConfig
from eca_lightning.cli import main


class TinyData(LightningDataModule):
    """Forty images of three classes, told apart by their brightest channel; some rows pad."""

    def __init__(self, batch_size=8, class_names=("red", "green", "blue")):
        super().__init__()
        self.batch_size = batch_size
        self.class_names = list(class_names)
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(40) % 3
        images = torch.randint(0, 128, (40, 3, 16, 16), generator=generator, dtype=torch.uint8)
        images[torch.arange(40), labels] += 127
        self.images, self.labels = images, labels

    def _batches(self, labels):
        samples = list(zip(self.images, labels, strict=True))
        return DataLoader(samples, batch_size=self.batch_size)

    def train_dataloader(self):
        return self._batches(self.labels)

    def val_dataloader(self):
        return self._batches(torch.where(torch.arange(40) % 10 == 9, -1, self.labels))

    def test_dataloader(self):
        return self.val_dataloader()

    def predict_dataloader(self):
        return self._batches(torch.full((40,), -1))


def pytest_collection_finish():
    """Spare the garbage collector, which tests call, the half million objects of the imports."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items):
    """Skip what needs a GPU where there is none; ``make test`` does not select it at all."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture(autouse=True)
def _no_seed_of_another_test(monkeypatch):
    """seed_everything leaves its seed in the environment, where data modules look for one."""
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


@pytest.fixture
def as_a_program(monkeypatch, tmp_path):
    """Work in a folder of the test's own, under the program's name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["eca-lightning"])


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    """Pictures, their .beton files and a finished run on them, see small_run.py."""
    folder = tmp_path_factory.mktemp("work")
    for split, per_class in (("train", 20), ("val", 7)):
        write_images(folder / "images" / split, per_class)
    source, output = str(folder / "images"), str(folder)
    main(["data", "write", "image-folder", "--source", source, "--output", output, "--mode", "raw"])
    main(["fit", "--config", str(config(folder))])
    return folder


@pytest.fixture
def tiny_data():
    return TinyData()


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
    """Labeled arrays as samples to write."""

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
    from eca_lightning.data.ffcv.sidecar import Encoding
    from eca_lightning.data.ffcv.write import write_beton

    path = tmp_path_factory.mktemp("raw") / "raw.beton"
    write_beton(arrays, path, class_names=list("abcd"), source="arrays", encoding=Encoding("raw"))
    return path


@pytest.fixture(scope="session")
def photo_beton(_ffcv, tmp_path_factory, image_folder):
    """The image folder as JPEGs of quality 95."""
    from eca_lightning.data.datasets.image_folder import write_image_folder

    path = tmp_path_factory.mktemp("photos") / "photos.beton"
    write_image_folder(image_folder, path, quality=95, num_workers=2)
    return path


@pytest.fixture(scope="session")
def packed_beton(_ffcv, tmp_path_factory, image_folder):
    """The packed coefficients of the image folder."""
    from eca_lightning.data.datasets.image_folder import write_image_folder

    path = tmp_path_factory.mktemp("packed") / "packed.beton"
    write_image_folder(image_folder, path, mode="packed", num_workers=2)
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


class Events:
    """The events in a folder."""

    def __init__(self, folder):
        self.events = EventAccumulator(str(folder), size_guidance={"tensors": 0, "images": 0})
        self.events.Reload()

    def tags(self, kind):
        return self.events.Tags()[kind]

    def scalars(self, tag):
        return [event.value for event in self.events.Scalars(tag)]

    def steps(self, tag):
        return [event.step for event in self.events.Scalars(tag)]

    def texts(self, tag):
        events = self.events.Tensors(f"{tag}/text_summary")
        return [event.tensor_proto.string_val[0].decode() for event in events]


@pytest.fixture
def classifier():
    """A small ECA-Net for three classes, always with the same weights."""

    def make(attention="eca", **options):
        torch.manual_seed(0)
        return ImageClassifier(BackboneConfig("resnet20", attention, num_classes=3), **options)

    return make


@pytest.fixture
def make_trainer(tmp_path):
    """A quiet trainer on the CPU that logs each step to TensorBoard."""

    def make(*callbacks, **options):
        defaults = {
            "accelerator": "cpu",
            "max_epochs": 1,
            "log_every_n_steps": 1,
            "num_sanity_val_steps": 0,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": tmp_path,
        }
        if "logger" not in options:
            defaults["logger"] = TensorBoardLogger(tmp_path, default_hp_metric=False)
        return Trainer(**(defaults | options), callbacks=list(callbacks))

    return make


@pytest.fixture
def fit(make_trainer, classifier, tiny_data):
    """Train with some callbacks and return what TensorBoard got."""

    def run(*callbacks, model=None, checkpoint=None, **options):
        trainer = make_trainer(*callbacks, **options)
        trainer.fit(model or classifier(), datamodule=tiny_data, ckpt_path=checkpoint)
        return Events(trainer.logger.log_dir)

    return run
