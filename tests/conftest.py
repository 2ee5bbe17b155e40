"""Data that several test files share."""

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader


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


@pytest.fixture(autouse=True)
def _no_seed_of_another_test(monkeypatch):
    """seed_everything leaves its seed in the environment, where data modules look for one."""
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


@pytest.fixture
def tiny_data():
    return TinyData()
