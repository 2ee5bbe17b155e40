"""A run of several ranks that unfreezes its first stages, on other images at each rank."""

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import BackboneFinetuning
from torch.utils.data import DataLoader

from eca_lightning import ImageClassifier
from eca_lightning.backbones import BackboneConfig
from eca_lightning.classification.finetuning import FineTuning


class FirstWeights(Callback):
    """Remembers the weights of the first layer at the start, and after each epoch."""

    def __init__(self):
        self.seen = []

    def on_train_start(self, trainer, pl_module):
        self.seen.append(pl_module.backbone.conv1.weight.detach().clone())

    def on_train_epoch_end(self, trainer, pl_module):
        self.on_train_start(trainer, pl_module)


def fit(*callbacks, **options):
    torch.manual_seed(0)
    model = ImageClassifier(BackboneConfig("resnet20", num_classes=3), **options)
    images = torch.randint(0, 256, (16, 3, 16, 16), dtype=torch.uint8)
    batches = DataLoader(list(zip(images, torch.arange(16) % 3, strict=True)), batch_size=4)
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
    trainer.fit(model, batches)
    return model


def unfreeze_on_ranks():
    """Print what holds, on rank zero."""
    first = FirstWeights()
    model = fit(first, finetuning=FineTuning(2, unfreeze_epoch=1))
    start, frozen, trained = first.seen
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    of_ranks = [torch.empty_like(weights) for _ in range(2)]
    torch.distributed.all_gather(of_ranks, weights)
    found = {
        "frozen": torch.equal(start, frozen),
        "trained": not torch.equal(frozen, trained),
        "alike": torch.equal(*of_ranks),
    }
    try:
        fit(BackboneFinetuning(1))
    except ValueError as error:
        found["refused"] = "is for one process" in str(error)
    print(*(name for name, holds in found.items() if holds))
