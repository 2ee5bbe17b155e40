"""Checks of options, with error messages that name the option as configurations spell it."""

from collections.abc import Iterable
from difflib import get_close_matches


def require(condition: bool, option: str, allowed: str, value: object) -> None:
    """Raise an error unless an option is in its range.

    Args:
        condition: Whether ``value`` is allowed.
        option: Name of the option, as in ``data.batch_size``.
        allowed: The range in words, to follow "must be".
        value: The value that was given.

    Raises:
        ValueError: If ``condition`` is false.
    """
    if not condition:
        raise ValueError(f"{option} must be {allowed}, got {value}")


def require_at_least(minimum: int, **options: int | None) -> None:
    """Raise an error if an option of a data module is below ``minimum``; None is allowed.

    Raises:
        ValueError: If an option is below ``minimum``; the message names the first.
    """
    for name, value in options.items():
        allowed = value is None or value >= minimum
        require(allowed, f"data.{name}", f"at least {minimum}", value)


def require_known(name: str, known: Iterable[str], what: str) -> None:
    """Raise an error that suggests the nearest known name unless ``name`` is known.

    Args:
        name: The name to look up.
        known: The names that exist.
        what: What the name stands for, as in ``backbone``.

    Raises:
        ValueError: If ``name`` is not among ``known``.
    """
    names = list(known)
    if name not in names:
        close = get_close_matches(name, names, n=1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        raise ValueError(f"unknown {what} '{name}'{hint}; known: {', '.join(names)}")
