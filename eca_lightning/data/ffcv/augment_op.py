"""The FFCV operation that augments what :class:`~.decoding.CropDecoder` has decoded.

FFCV's own augmentations draw from numba's generator, which no seed controls and which depends on
the threads. Here the operation is told each sample's steps through its slot memory.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from eca_lightning.data.ffcv.ffcv_api import AllocationQuery, Compiler, Operation, State
from eca_lightning.data.ffcv.numba_ops import apply_steps


class StepApplier(Operation):
    """Carry out each sample's steps on its pixels, in place.

    Its memory is the steps, float64, of shape ``(slots, batch, *shape)``, to be filled in before a
    slot is run.

    Args:
        shape: Shape of the steps of one sample, see :meth:`~.views.Crop.steps`.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, AllocationQuery]:
        """Tell FFCV that images stay what they are, and the memory of each slot."""
        return previous_state, AllocationQuery(self.shape, np.dtype("<f8"))

    def generate_code(self) -> Callable[..., Any]:
        """The function that FFCV compiles."""
        rows = Compiler.get_iterator()

        def augment(images, steps):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
            for row in rows(len(images)):
                apply_steps(images[row], steps[row])
            return images

        augment.is_parallel = True  # type: ignore[attr-defined]
        return augment
