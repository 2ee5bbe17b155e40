"""Checks of options, with error messages that name the option as configurations spell it."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

SHOWN = 10
"""Faults that a message lists."""

_MAX_DEPTH, _MAX_VALUES = 50, 10_000_000


def require(condition: bool, option: str, allowed: str, value: object) -> None:
    """Raise ``ValueError("{option} must be {allowed}, got {value}")`` unless a condition holds."""
    if not condition:
        raise ValueError(f"{option} must be {allowed}, got {value}")


def require_uint8(images: "Tensor") -> None:
    """Raise a TypeError unless images are bytes, which the tasks normalize themselves."""
    if str(images.dtype) != "torch.uint8":
        raise TypeError(f"images are {images.dtype}, but must be uint8: the model normalizes them")


class DataError(ValueError):
    """All that is wrong with the data; the message lists the first ten faults and their number.

    Args:
        faults: Each with what it is about and, where there is one of its own, its remedy.
        remedy: What to do about them.
    """

    def __init__(self, faults: Sequence[str], remedy: str = "") -> None:
        self.faults = list(faults)
        lines = [printable(fault) for fault in self.faults[:SHOWN]]
        if len(self.faults) > 1:
            more = f", the first {SHOWN}" if len(self.faults) > SHOWN else ""
            lines.insert(0, f"{len(self.faults):,} faults in the data{more}:")
        if remedy:
            lines[-1] += ("; " if len(lines) == 1 else "\n") + remedy
        super().__init__("\n  ".join(lines))


def printable(text: str) -> str:
    r"""Replace bytes of file names that are not UTF-8 by escapes such as ``\xff``."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def require_shallow(content: Any) -> None:
    """Check that nested lists and dicts of a file are not so many or deep that programs choke.

    A pickle can hold a list that contains itself, or one many times, which takes no space in it.

    Raises:
        ValueError: If they are nested deeper than 50 levels, or stand for over ten million values.
    """
    level, values = {id(content): (content, 1)}, 0
    for _ in range(_MAX_DEPTH):
        below: dict[int, tuple[Any, int]] = {}
        for container, times in level.values():
            parts = container.values() if isinstance(container, dict) else container
            values += times * len(parts)
            for part in parts:
                if isinstance(part, dict | list | tuple):
                    below[id(part)] = part, times + below.get(id(part), (part, 0))[1]
        if not below:
            return
        if values > _MAX_VALUES:
            raise ValueError(f"its lists and dicts stand for over {_MAX_VALUES:,} values")
        level = below
    raise ValueError(f"its lists and dicts are nested deeper than {_MAX_DEPTH} levels")


def require_at_least(minimum: int, **options: int | None) -> None:
    """Raise a ValueError if an option of a data module is below ``minimum``; None is allowed."""
    for name, value in options.items():
        allowed = value is None or value >= minimum
        require(allowed, f"data.{name}", f"at least {minimum}", value)


def require_known(name: str, known: Iterable[str], what: str) -> None:
    """Raise a ValueError that suggests the nearest known name unless ``name`` is known.

    ``what`` says what the name stands for, as in ``backbone``.
    """
    names = list(known)
    if name not in names:
        close = get_close_matches(name, names, n=1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        raise ValueError(f"unknown {what} '{name}'{hint}; known: {', '.join(names)}")


def other_classes(ours: Sequence[Any], theirs: Sequence[Any]) -> str:
    """Say where the classes of the data, ``theirs``, are not those of the checkpoint."""
    pairs = enumerate(zip_longest(ours, theirs))
    index, (was, now) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
    return (
        f"of the data differ from the checkpoint's: class {index} is {now!r} in the data and "
        f"{was!r} in the checkpoint. Give the data of the checkpoint or, if they are the same "
        "classes in the same order, --rename_classes true"
    )
