"""The data modules: their options, what they refuse, and that they agree with each other."""

import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from forked import run_forked, run_without

from eca_lightning import (
    ColorJitter,
    FFCVDataModule,
    ImageFolderDataModule,
    RandAugment,
    RandomErasing,
    TrivialAugment,
)
from eca_lightning.cli import main
from eca_lightning.data.datasets.image_folder import write_image_folder
from eca_lightning.data.transforms.crop import Crop
from eca_lightning.lightning_cli import lightning_cli

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"

SMALL = {"batch_size": 4, "image_size": 32, "resize_size": 36, "num_workers": 0}


@pytest.fixture
def folder_module(image_folder):
    return ImageFolderDataModule(train=image_folder, val=image_folder, **SMALL)


@pytest.fixture
def ffcv_module(photo_beton):
    module = FFCVDataModule(train=photo_beton, val=photo_beton, **SMALL)
    yield module
    module.teardown("fit")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, r"data\.batch_size must be at least 1, got 0"),
        ({"eval_batch_size": -1}, r"data\.eval_batch_size must be at least 1, got -1"),
        ({"num_workers": -1}, r"data\.num_workers must be at least 0"),
        ({"image_size": 0}, r"data\.image_size must be at least 1"),
        ({"resize_size": 100}, r"data\.resize_size must be at least image_size"),
        ({"scale": (0.0, 1.0)}, r"data\.scale"),
        ({"ratio": (2.0, 1.0)}, r"data\.ratio"),
        ({"seed": -3}, r"data\.seed"),
        ({"on_unreadable": "ask"}, r"data\.on_unreadable must be skip or raise, got 'ask'"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ImageFolderDataModule(**options)


def test_root_is_where_relative_paths_start(image_folder, tmp_path):
    module = ImageFolderDataModule(root=image_folder.parent, train=Path(image_folder.name), **SMALL)
    assert module.class_names == ["apple", "bus", "cat"]
    elsewhere = ImageFolderDataModule(root=tmp_path, train=image_folder.absolute(), **SMALL)
    assert elsewhere.class_names == module.class_names


@pytest.mark.usefixtures("_ffcv")
def test_ffcv_options_are_checked():
    with pytest.raises(ValueError, match=r"data\.batches_ahead must be at least 1, got 0"):
        FFCVDataModule(batches_ahead=0)
    with pytest.raises(ValueError, match=r"data\.order must be random or quasi_random, got 'any'"):
        FFCVDataModule(order="any")
    with pytest.raises(ValueError, match=r"data\.batch_size"):
        FFCVDataModule(batch_size=0)


@pytest.mark.slow
def test_without_ffcv_the_package_works_and_the_module_says_what_to_do(image_folder, tmp_path):
    code = f"""
from pathlib import Path
from eca_lightning import FFCVDataModule, ImageFolderDataModule
module = ImageFolderDataModule(train=Path({str(image_folder)!r}), batch_size=4, num_workers=0)
print(next(iter(module.train_dataloader()))[0].shape)
try:
    FFCVDataModule()
except ImportError as error:
    print(error)
"""
    printed = run_forked(tmp_path, run_without, ["ffcv", "numba"], code)
    assert "torch.Size([4, 3, 224, 224])" in printed
    for words in (
        "pip install 'eca-lightning[ffcv]'",
        "libopencv-dev libturbojpeg0-dev pkg-config",
        "ImageFolderDataModule",
    ):
        assert words in printed


def test_classes_are_known_before_any_loader(folder_module, ffcv_module):
    for module in (folder_module, ffcv_module):
        assert module.class_names == ["apple", "bus", "cat"]
        assert module.num_classes == 3
    module = ImageFolderDataModule(train=Path("gone"), predict=folder_module.paths["train"])
    assert module.class_names is None
    with pytest.raises(ValueError, match="the classes are unknown"):
        _ = module.num_classes


@pytest.mark.slow
@pytest.mark.usefixtures("_ffcv")
def test_both_modules_give_the_same_batches(image_folder, tmp_path):
    """Equal labels in equal order, and pixels that differ by the filter of the resize."""
    raw = tmp_path / "raw.beton"
    write_image_folder(image_folder, raw, mode="raw")
    ours = ImageFolderDataModule(train=image_folder, val=image_folder, **SMALL)
    theirs = FFCVDataModule(train=raw, val=raw, **SMALL)
    for folder, beton in (
        (ours.train_dataloader(), theirs.train_dataloader()),
        (ours.val_dataloader(), theirs.val_dataloader()),
    ):
        assert len(folder) == len(beton)
        for (images, labels), (other_images, other_labels) in zip(folder, beton, strict=True):
            assert torch.equal(labels, other_labels)
            assert (images.float() - other_images.float()).abs().mean() < 2.5


@pytest.mark.slow
def test_repeated_samples_differ_in_their_crops_alone(folder_module, ffcv_module):
    for module in (folder_module, ffcv_module):
        module.aug_repeats = 2
        loader = module.train_dataloader()
        images, labels = next(iter(loader))
        assert labels[::2].tolist() == labels[1::2].tolist()
        assert not any(torch.equal(a, b) for a, b in zip(images[::2], images[1::2], strict=True))
        loader.close()
    folder, beton = (next(iter(m.train_dataloader())) for m in (folder_module, ffcv_module))
    assert folder[1].tolist() == beton[1].tolist()
    assert (folder[0].float() - beton[0].float()).abs().mean() < 8  # the filters differ


def test_a_full_view_decodes_as_stored(raw_beton, photo_beton, arrays, image_folder):
    module = FFCVDataModule(val=raw_beton, eval_crop="full", batch_size=101, num_workers=1)
    images, _ = next(iter(module.val_dataloader()))
    assert torch.equal(images, torch.from_numpy(arrays.images).permute(0, 3, 1, 2))
    module.teardown("validate")
    for module in (
        FFCVDataModule(train=photo_beton, train_crop="full"),
        ImageFolderDataModule(train=image_folder, train_crop="full", batch_size=21, num_workers=0),
    ):
        with pytest.raises(ValueError, match=r"'full' needs images of one size.*center_crop"):
            list(module.train_dataloader())


@pytest.mark.usefixtures("_ffcv")
@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_setup_names_what_is_missing(stage, tmp_path):
    split = {"fit": "train", "validate": "val"}.get(stage, stage)
    for module in (ImageFolderDataModule, FFCVDataModule):
        with pytest.raises(ValueError, match=rf"data\.{split} is not set"):
            module().setup(stage)
        with pytest.raises(FileNotFoundError, match=rf"data\.{split}: .*gone does not exist"):
            module(**{split: tmp_path / "gone"}).setup(stage)


def test_a_folder_is_no_beton_and_a_beton_no_folder(image_folder, photo_beton):
    with pytest.raises(ValueError, match=r"data\.train: .*is a folder.*ImageFolderDataModule"):
        FFCVDataModule(train=image_folder).setup("fit")
    with pytest.raises(NotADirectoryError, match=r"data\.train: .*FFCVDataModule"):
        ImageFolderDataModule(train=photo_beton).setup("fit")


def test_train_and_val_must_have_the_same_classes(image_folder, tmp_path):
    other = shutil.copytree(image_folder, tmp_path / "other")
    (other / "bus").rename(other / "lorry")
    module = ImageFolderDataModule(train=image_folder, val=other)
    with pytest.raises(ValueError, match="different classes: bus, lorry"):
        module.setup("fit")


def test_the_order_of_classes_counts_too(raw_beton, arrays, tmp_path):
    from eca_lightning.data.ffcv.write import write_beton

    other = tmp_path / "other.beton"
    write_beton(arrays, other, class_names=list("abdc"), source="arrays")
    module = FFCVDataModule(train=raw_beton, val=other)
    with pytest.raises(ValueError, match="different classes: their order"):
        module.setup("fit")


def test_prediction_names_its_files(image_folder, photo_beton):
    for module in (ImageFolderDataModule, FFCVDataModule):
        loader = module(predict=image_folder, eval_batch_size=5, **SMALL).predict_dataloader()
        assert loader.dataset.paths == sorted(image_folder.rglob("*.jpg"))
        batches = list(loader)
        assert [len(labels) for _, labels in batches] == [5, 5, 5, 5, 1]
        assert {(images.dtype, *images.shape[1:]) for images, _ in batches} == {
            (torch.uint8, 3, 32, 32)
        }
        assert set(torch.cat([labels for _, labels in batches]).tolist()) == {-1}
    loader = FFCVDataModule(predict=photo_beton, **SMALL).predict_dataloader()
    assert loader.batch_indices(5).tolist() == [20, -1, -1, -1]


@pytest.mark.slow
def test_processes_can_start_beside_ffcvs_threads(image_folder, ffcv_module):
    next(iter(ffcv_module.train_dataloader()))
    module = FFCVDataModule(predict=image_folder, **{**SMALL, "num_workers": 1})
    loader = module.predict_dataloader()
    assert loader._batches.multiprocessing_context.get_start_method() == "forkserver"
    assert sum(len(labels) for _, labels in loader) == 21
    module.teardown("predict")


def test_the_seed_is_that_of_the_run_unless_given(image_folder, monkeypatch):
    def first_labels(seed=None):
        module = ImageFolderDataModule(train=image_folder, seed=seed, **SMALL)
        loader = module.train_dataloader()
        return loader.index_sampler.indices(0).tolist(), loader.dataset.crop.seed

    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert first_labels() == first_labels(7)
    assert first_labels() != first_labels(8)
    monkeypatch.delenv("PL_GLOBAL_SEED")
    assert first_labels() == first_labels(0)


def test_views_and_workers_follow_the_options(ffcv_module):
    assert ffcv_module.train_dataloader().crop == Crop(
        "random_resized_crop", 32, 32, resize_size=36, flip=True, seed=0
    )
    assert ffcv_module.val_dataloader().crop == Crop("center_crop", 32, 32, resize_size=36)
    ffcv_module.flip = False
    assert not ffcv_module.train_dataloader().crop.flip
    ffcv_module.order = "quasi_random"
    assert ffcv_module.train_dataloader().index_sampler.pages is not None
    assert ffcv_module.val_dataloader().index_sampler.pages is None
    assert ImageFolderDataModule()._workers() == len(os.sched_getaffinity(0))


def test_training_alone_is_augmented(folder_module, ffcv_module):
    augment = [TrivialAugment(), RandomErasing(0.25)]
    folder_module.augment = ffcv_module.augment = augment
    assert folder_module.train_dataloader().dataset.crop.augment == tuple(augment)
    assert folder_module.val_dataloader().dataset.crop.augment == ()
    assert ffcv_module.train_dataloader().crop.augment == tuple(augment)
    assert ffcv_module.val_dataloader().crop.augment == ()


AUGMENTED = """
class_path: eca_lightning.ImageFolderDataModule
init_args:
  augment:
    - class_path: eca_lightning.RandAugment
      init_args: {magnitude: 12}
    - class_path: ColorJitter
      init_args: {brightness: 0.4, hue: 0.1}
    - class_path: eca_lightning.RandomErasing
      init_args: {probability: 0.25, scale: [0.02, 0.2], fill: [0, 0, 0]}
"""


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Parse a run with data from some text, and build it."""
    monkeypatch.chdir(tmp_path)

    def build(text, *arguments):
        data = tmp_path / "data.yaml"
        data.write_text(text)
        run = ["--config", str(QUICKSTART), "--data", str(data), "--trainer.accelerator", "cpu"]
        return lightning_cli([*run, *arguments], run=False)

    return build


@pytest.mark.slow
def test_a_config_lists_augmentations(build, capsys, tmp_path):
    expected = [
        RandAugment(magnitude=12),
        ColorJitter(brightness=0.4, hue=0.1),
        RandomErasing(0.25, scale=(0.02, 0.2), fill=(0, 0, 0)),
    ]
    assert build(AUGMENTED).datamodule.augment == expected
    with pytest.raises(SystemExit):
        build(AUGMENTED, "--print_config")
    printed = yaml.safe_load(capsys.readouterr().out)["data"]
    assert build(yaml.safe_dump(printed)).datamodule.augment == expected


def test_an_impossible_augmentation_is_named_in_one_line(tmp_path, capsys):
    data = tmp_path / "data.yaml"
    data.write_text(AUGMENTED.replace("hue: 0.1", "hue: 0.7"))
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(QUICKSTART), "--data", str(data)])
    message = "eca-lightning: error: data.augment: ColorJitter.hue must be at most 0.5, got 0.7"
    assert capsys.readouterr().err.splitlines()[-1] == message
