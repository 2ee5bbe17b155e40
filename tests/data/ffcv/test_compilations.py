"""Loaders share what is compiled: a second one starts at once."""

import numpy as np
import pytest

pytest.importorskip("ffcv")

from numba.core import event

from eca_lightning.data.ffcv.format import check_beton
from eca_lightning.data.ffcv.loader import BetonLoader
from eca_lightning.data.sampler import DistributedBatchSampler
from eca_lightning.data.transforms.crop import Crop


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"decoder": "ffcv"}, {"os_cache": False}], ids=str)
def test_a_second_loader_compiles_nothing(raw_beton, options):
    info = check_beton(raw_beton)

    def read(crop, batch_size):
        loader = BetonLoader(info, crop, DistributedBatchSampler(101, batch_size), **options)
        return np.concatenate([images for images, _ in loader])

    train = Crop("random_resized_crop", 12, 16, scale=(0.3, 1.0), flip=True, seed=4)
    whole = read(Crop("full", 20, 24), 8)
    with event.install_recorder("numba:compile") as compilations:
        crops = read(train, 5)
        again = read(Crop("full", 20, 24), 50)
    assert not compilations.buffer
    assert crops.shape == (105, 3, 12, 16)
    assert np.array_equal(again[:101], whole[:101])
