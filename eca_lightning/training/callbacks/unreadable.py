"""Image files that prediction could not read."""

from collections.abc import Mapping

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info

from eca_lightning.utils.distributed import gather_objects


def unreadable_files(trainer: Trainer) -> dict[int, str]:
    """Why files were not predicted, by their index, over all ranks, which must ask together."""
    own: dict[int, str] = getattr(trainer.predict_dataloaders, "unreadable", {})
    found = [pair for part in gather_objects(trainer, own) for pair in part.items()]
    return dict(sorted(found))


def report_unreadable(unreadable: Mapping[int, str]) -> None:
    """Say which files were not predicted, and why."""
    for reason in unreadable.values():
        rank_zero_info(reason)
    if unreadable:
        rank_zero_info(f"{len(unreadable)} images could not be read and were skipped")
