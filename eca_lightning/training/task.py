"""What both LightningModules share."""

from typing import Any


def architecture_differences(saved: dict[str, Any], given: dict[str, Any]) -> str:
    """Say in what the backbone of a checkpoint differs from a config's; empty if in nothing.

    How block tails are computed, ``fused``, is no part of the architecture.
    """
    differences = [
        f"{key} is {saved[key]!r} in the checkpoint and {given[key]!r} here"
        for key in given
        if key != "fused" and key in saved and saved[key] != given[key]
    ]
    return "; ".join(differences)
