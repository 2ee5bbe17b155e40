"""Checks of options, whose errors name the option as configurations spell it."""


def require(holds: bool, option: str, range_: str, value: object) -> None:
    """Raise a ValueError that names an option and its range unless the option keeps to it."""
    if not holds:
        raise ValueError(f"{option} must be {range_}, got {value}")


def require_at_least(least: int, **options: int | None) -> None:
    """Raise a ValueError that names the first option of a data module below ``least``.

    None is always allowed.
    """
    for name, value in options.items():
        require(value is None or value >= least, f"data.{name}", f"at least {least}", value)
