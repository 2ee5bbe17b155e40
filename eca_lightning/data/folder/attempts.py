"""Samples of image files, some of which cannot be read."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from torch.utils.data import Dataset

SampleKey = tuple[int, int, int | None]
"""Index of a sample, see `DistributedBatchSampler.indices`; epoch; image size, if it was set."""

OnUnreadable = Literal["skip", "raise"]
"""What to do about an image file that cannot be read."""

Instead = Literal["next", "blank", "nothing"]
"""What takes the place of a sample that cannot be read; blank is what ``dataset.blank`` returns."""

MAX_IN_A_ROW = 10
"""Files in a row that cannot be read, after which there is no next one."""


@dataclass(frozen=True)
class Attempt:
    """A sample, or what takes its place, and why it cannot be read."""

    index: int
    sample: Any
    error: str = ""


class Attempts(Dataset[Attempt]):
    """Attempts to read the samples of a dataset, which raises a ValueError where it cannot."""

    def __init__(self, dataset: Any, instead: Instead) -> None:
        self.dataset = dataset
        self.instead = instead

    def __getitem__(self, key: SampleKey) -> Attempt:
        """Read a sample.

        Raises:
            ValueError: If too many in a row cannot be read to take the next one.
        """
        try:
            return Attempt(key[0], self.dataset[key])
        except ValueError as error:
            index = max(key[0], 0) % len(self.dataset)
            reason = str(error)
        if self.instead == "nothing":
            return Attempt(index, None, reason)
        if self.instead == "blank":
            return Attempt(index, self.dataset.blank(key), reason)
        for step in range(1, MAX_IN_A_ROW):
            with suppress(ValueError):
                following = (index + step) % len(self.dataset)
                return Attempt(index, self.dataset[following, key[1], key[2]], reason)
        raise ValueError(f"{MAX_IN_A_ROW} images in a row cannot be read; the first: {reason}")
