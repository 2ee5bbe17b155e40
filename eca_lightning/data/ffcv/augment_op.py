"""The FFCV operation that augments decoded crops.

FFCV's augmentations draw from numba's generator, which no seed controls and which depends on the
threads. This operation reads each sample's augmentation steps from its slot memory.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from eca_lightning.data.ffcv import ffcv_api
from eca_lightning.data.ffcv.numba_ops import apply_steps


class StepApplier(ffcv_api.Operation):
    """Apply each sample's steps to its pixels, in place.

    Its memory is the steps, float64, of shape ``(slots, batch, *shape)``, to be set before a slot
    is run; ``shape`` is that of one sample's, see `data.transforms.crop.Crop.steps`.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def declare_state_and_memory(self, previous_state: Any) -> tuple[Any, Any]:
        """Declare that the images keep shape and type, and the memory of each slot."""
        return previous_state, ffcv_api.AllocationQuery(self.shape, np.dtype("<f8"))

    def generate_code(self) -> Callable[..., Any]:
        """Return the function that FFCV compiles."""
        rows = ffcv_api.Compiler.get_iterator()

        def augment(images, steps):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
            for row in rows(len(images)):
                apply_steps(images[row], steps[row])
            return images

        augment.is_parallel = True  # type: ignore[attr-defined]
        return augment
