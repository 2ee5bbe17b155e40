"""A training run that is killed again and again, beside the same run left alone.

    python tests/contracts/killed_runs.py FOLDER THREADS KILLS SEED

trains on ``FOLDER/train.beton`` with so many decoding threads and leaves the weights and momenta in
``FOLDER/alone.pt`` and ``FOLDER/killed.pt``. This process imports everything once and trains
nothing: it forks each attempt before any thread is there, as a fresh process would cost ten times
as much.
"""

import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim.lr_scheduler import OneCycleLR

from eca_lightning import FFCVDataModule, ImageClassifier
from eca_lightning.backbones import BackboneConfig
from eca_lightning.data.ffcv import loader as _streaming  # noqa: F401  importing FFCV takes seconds

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


def main(folder, threads, kills, seed):
    """Make both runs; print batch, delay in seconds and last checkpointed step of each kill."""
    chance = random.Random(seed)
    epochs = -(-kills * FURTHEST // STEPS_AN_EPOCH)  # hence no kill comes too late
    for name, planned in (("alone", 0), ("killed", kills)):
        checkpoints = folder / name
        checkpoints.mkdir()
        run = folder, threads, epochs, checkpoints, folder / f"{name}.pt"
        for _ in range(planned):
            batch, delay = chance.randint(2, FURTHEST), chance.uniform(0, 0.05)
            if not attempt(batch, delay, *run):
                raise SystemExit(f"the run ended before it was killed at batch {batch}")
            last = newest_whole(checkpoints)
            print(batch, f"{delay:.3f}", last.stem if last else "step=0", flush=True)
            if last:
                # What a kill leaves of a newer one where a checkpoint is copied into its place.
                whole = last.read_bytes()
                (checkpoints / "broken.ckpt").write_bytes(whole[: chance.randrange(len(whole))])
        attempt(None, 0, *run)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
