"""Command-line parsers whose errors are one line."""

from typing import NoReturn

_NOISE = (
    *("Does not validate", "- Does not validate", "Subtypes:", "Errors:"),
    *("- Expected a <class 'NoneType'>", "Given value"),
)


class OneLineErrors:
    """Base of a parser class: errors name the option, and list neither options nor types."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Report bad input as an error of this package, which the program prints in one line.

        Raises:
            ValueError: Always.
        """
        lines = (line.strip() for line in message.partition("Given value type:")[0].splitlines())
        clear = " ".join(line for line in lines if line and not line.startswith(_NOISE))
        raise ValueError(clear or " ".join(message.split())) from ex
