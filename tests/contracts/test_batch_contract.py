"""What every data module promises to tasks and trainers.

A batch is ``(images uint8 [N, 3, H, W], labels int64 [N])``; evaluation counts each sample once; a
run that is resumed from a checkpoint sees the batches that an uninterrupted one would have seen.
"""

import threading

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, OnExceptionCheckpoint
from PIL import Image
from thorough import thorough

from eca_lightning import FFCVDataModule, ImageFolderDataModule
from eca_lightning.data.datasets.image_folder import write_image_folder

BATCHES = pytest.StashKey[dict[str, list[tuple[float, ...]]]]()
CLASSES = 3
SAMPLES = 22
OPTIONS = {
    "batch_size": 4,
    "eval_batch_size": 5,
    "image_size": 16,
    "resize_size": 18,
    "num_workers": 0,
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Twenty-two small pictures in three class folders."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for sample in range(SAMPLES):
        path = root / "abc"[sample % CLASSES] / f"{sample}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (24, 20, 3), np.uint8)).save(path)
    return root


@pytest.fixture(params=["folder", "ffcv"])
def make_module(request, pictures, tmp_path_factory):
    """A constructor of the data module, which takes further options."""

    def make(**options):
        module, path = ImageFolderDataModule, pictures
        if request.param == "ffcv":
            pytest.importorskip("ffcv")
            module, path = FFCVDataModule, tmp_path_factory.getbasetemp() / "pictures.beton"
            if not path.exists():
                write_image_folder(pictures, path, mode="raw")
        splits = {"train": path, "val": path, "test": path, "predict": pictures}
        return module(**{**splits, **OPTIONS, **options})

    return make


@pytest.fixture
def whole(request, make_module, tmp_path):
    """The training batches of an uninterrupted run; found once for each data module."""
    known = request.config.stash.setdefault(BATCHES, {})
    kind = request.node.callspec.params["make_module"]
    if kind not in known:
        model = Recorder()
        make_trainer(tmp_path, limit_val_batches=0).fit(model, datamodule=make_module())
        known[kind] = model.training_batches
    return known[kind]


class Recorder(LightningModule):
    """Keeps a digest of every batch and learns nothing."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.training_batches = []
        self.validation_labels = []

    def training_step(self, batch, batch_idx):
        images, labels = batch
        digest = (images.double().sum().item(), *labels.tolist())
        self.training_batches.append((self.current_epoch, *digest))
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.validation_labels += batch[1].tolist()

    def predict_step(self, batch, batch_idx):
        return batch[1]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class StopAt(Callback):
    """Saves a checkpoint after a step and stops."""

    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


def make_trainer(folder, **options):
    return Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **{"max_epochs": 3, "enable_checkpointing": False, **options},
    )


@pytest.mark.parametrize("split", ["train", "val", "test", "predict"])
@pytest.mark.parametrize("options", [{}, {"train_crop": "full", "eval_crop": "full"}])
def test_batches_are_uint8_images_and_int64_labels(make_module, split, options):
    module = make_module(**options)
    batches = list(getattr(module, f"{split}_dataloader")())
    module.teardown("fit")
    size = (24, 20) if options else (16, 16)
    sizes = {"train": [4] * 5, "predict": [5] * 4 + [2]}.get(split, [5] * 5)
    assert [len(labels) for _, labels in batches] == sizes
    for images, labels in batches:
        assert images.dtype == torch.uint8
        assert images.shape == (len(labels), 3, *size)
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert labels.dtype == torch.int64
        if split == "predict":
            assert set(labels.tolist()) == {-1}
    counted = [label for _, labels in batches for label in labels.tolist() if label != -1]
    if split != "predict":
        assert set(counted) == set(range(CLASSES))
        assert len(counted) == (20 if split == "train" else SAMPLES)


def test_lightning_trains_epochs_that_differ_and_leaves_no_thread(make_module, tmp_path):
    threads = threading.active_count()
    model = Recorder()
    make_trainer(tmp_path, num_sanity_val_steps=1).fit(model, datamodule=make_module())
    assert threading.active_count() == threads
    assert len(model.training_batches) == len(set(model.training_batches)) == 15
    labels = model.validation_labels[5:]  # the first five are those of the sanity check
    assert [labels.count(label) for label in range(CLASSES)] == [24, 21, 21]
    assert len(labels) == 3 * 25  # three rows of each epoch fill up the last batch


@pytest.mark.parametrize("step", [2, *thorough(5, 6, 9)])
def test_a_resumed_run_sees_the_batches_of_an_uninterrupted_one(make_module, whole, tmp_path, step):
    checkpoint = tmp_path / "stopped.ckpt"
    stopped, resumed = Recorder(), Recorder()
    make_trainer(tmp_path, callbacks=[StopAt(step, checkpoint)]).fit(
        stopped, datamodule=make_module()
    )
    assert stopped.training_batches == whole[:step]
    make_trainer(tmp_path).fit(resumed, datamodule=make_module(), ckpt_path=checkpoint)
    assert resumed.training_batches == whole[step:]


@pytest.mark.parametrize("hook", ["training_step", "on_after_batch_transfer", "on_train_batch_end"])
@pytest.mark.parametrize("step", [0, 4, *thorough(3, 5, 8)])
def test_a_batch_whose_step_failed_is_seen_again(make_module, whole, tmp_path, step, hook):
    failing, resumed = Recorder(), Recorder()
    options = {"limit_val_batches": 0}

    def fail(*arguments):
        if failing.global_step == step + (hook == "on_train_batch_end"):
            raise ZeroDivisionError
        return getattr(Recorder, hook)(failing, *arguments)

    setattr(failing, hook, fail)
    saver = OnExceptionCheckpoint(tmp_path)
    with pytest.raises(ZeroDivisionError):
        make_trainer(tmp_path, callbacks=[saver], enable_checkpointing=True, **options).fit(
            failing, datamodule=make_module()
        )
    done = step + (hook == "on_train_batch_end")
    assert failing.training_batches == whole[:done]
    run = make_trainer(tmp_path, **options)
    run.fit(resumed, datamodule=make_module(), ckpt_path=saver.ckpt_path)
    assert resumed.training_batches == whole[done:]


def test_overfitting_repeats_the_same_batches(make_module, tmp_path):
    model = Recorder()
    module = make_module(train_crop="center_crop", flip=False)
    make_trainer(tmp_path, overfit_batches=2).fit(model, datamodule=module)
    assert len({batch[1:] for batch in model.training_batches}) == 2


def test_fit_without_validation_and_predict_with_lightning(make_module, tmp_path):
    model = Recorder()
    make_trainer(tmp_path, max_epochs=1).fit(model, datamodule=make_module(val=None))
    assert model.validation_labels == []
    predictions = make_trainer(tmp_path).predict(model, datamodule=make_module())
    assert torch.cat(predictions).tolist() == [-1] * SAMPLES


def test_limits_of_a_trainer_do_not_shift_later_epochs(make_module, whole, tmp_path):
    limited = Recorder()
    make_trainer(tmp_path, limit_train_batches=3).fit(limited, datamodule=make_module())
    expected = [batch for i, batch in enumerate(whole) if i % 5 < 3]
    assert limited.training_batches == expected
