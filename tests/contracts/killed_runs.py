"""A training run that is killed again and again, beside the same run left alone.

Trains on ``FOLDER/train.beton`` and leaves the weights and momenta in ``FOLDER/one.pt``,
``FOLDER/two.pt`` and ``FOLDER/killed.pt``. Each attempt is forked from a process that trains
nothing, and so has no thread.
"""

import os
import random
import signal
import time
import traceback

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim.lr_scheduler import OneCycleLR

from eca_lightning import FFCVDataModule, ImageClassifier
from eca_lightning.backbones import BackboneConfig

STEPS_AN_EPOCH = 10
CHECKPOINT_EVERY = 3
FURTHEST = 7
"""Batches that an attempt starts at most: two checkpoints and one more."""
SECONDS = 120
"""After which an attempt is taken to hang."""


class Report(Callback):
    """Writes a byte to a pipe at the start of each batch."""

    def __init__(self, pipe):
        self.pipe = pipe

    def on_train_batch_start(self, *_):
        os.write(self.pipe, b".")


def newest_whole(checkpoints):
    """The newest checkpoint that can be loaded, as one takes it up after a crash, or None."""
    for path in sorted(checkpoints.glob("*.ckpt"), key=os.path.getmtime, reverse=True):
        try:
            torch.load(path, weights_only=True)
        except Exception:  # what a broken file raises depends on where it is broken
            continue
        return path
    return None


def train(folder, threads, epochs, checkpoints, result, pipe):
    """Train from the last checkpoint there is to the end of the run."""
    seed_everything(0, verbose=False)
    model = ImageClassifier(
        BackboneConfig("resnet20", "eca", num_classes=4),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-4),
        # It asks for the number of steps, for which Lightning builds the loader early.
        lr_scheduler=lambda optimizer, **horizon: OneCycleLR(
            optimizer, max_lr=0.05, cycle_momentum=False, **horizon
        ),
        lr_interval="step",
    )
    data = FFCVDataModule(
        train=folder / "train.beton", batch_size=8, num_workers=threads, image_size=16
    )
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[
            ModelCheckpoint(checkpoints, "{step}", every_n_train_steps=CHECKPOINT_EVERY),
            Report(pipe),
        ],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, data, ckpt_path=newest_whole(checkpoints))
    (optimizer,) = trainer.optimizers
    torch.save((model.state_dict(), optimizer.state_dict()["state"]), result)


def attempt(kill_at, delay, *run):
    """Train in a child; kill it ``delay`` seconds after it started its batch number ``kill_at``.

    Returns whether it was killed. With ``kill_at`` None it may finish.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            signal.alarm(SECONDS)
            train(*run, writing)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    started = 0
    while started != kill_at and os.read(reading, 1):
        started += 1
    if started == kill_at:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    os.close(reading)
    _, status = os.waitpid(child, 0)
    if status not in (0, signal.SIGKILL):
        raise SystemExit(f"an attempt ended with status {status} at batch {started}")
    return status == signal.SIGKILL


def kill_again_and_again(folder, kills, seed):
    """Train with one thread, with two, and with two and kills.

    Prints batch, delay in seconds and last checkpointed step of each kill.
    """
    generator = random.Random(seed)
    epochs = -(-kills * FURTHEST // STEPS_AN_EPOCH)  # hence no kill comes too late
    for name, threads, planned in (("one", 1, 0), ("two", 2, 0), ("killed", 2, kills)):
        checkpoints = folder / name
        checkpoints.mkdir()
        run = folder, threads, epochs, checkpoints, folder / f"{name}.pt"
        for _ in range(planned):
            batch, delay = generator.randint(2, FURTHEST), generator.uniform(0, 0.05)
            if not attempt(batch, delay, *run):
                raise SystemExit(f"the run ended before it was killed at batch {batch}")
            last = newest_whole(checkpoints)
            print(batch, f"{delay:.3f}", last.stem if last else "step=0", flush=True)
            if last:
                # What a kill leaves of a newer one where a checkpoint is copied into its place.
                whole = last.read_bytes()
                (checkpoints / "broken.ckpt").write_bytes(whole[: generator.randrange(len(whole))])
        attempt(None, 0, *run)
