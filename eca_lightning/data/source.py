"""What the classification data modules know of a dataset before they read its images."""

from typing import Any, Protocol

import numpy as np


class Source(Protocol):
    """A dataset whose index was read, but not its images."""

    @property
    def labels(self) -> Any:
        """Label of each image."""

    @property
    def class_names(self) -> list[str] | None:
        """Name of each label, where known."""

    @property
    def num_classes(self) -> int:
        """Number of classes."""


def class_counts(source: Source, num_classes: int) -> list[int]:
    """Return the number of images of each class."""
    return np.bincount(source.labels, minlength=num_classes).tolist()
