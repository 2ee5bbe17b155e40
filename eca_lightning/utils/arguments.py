"""Command lines as people type them, and errors that are one line."""

import os
import re
import stat
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

_NOISE = (
    *("Does not validate", "Subtypes:", "Errors:", "Not a valid subclass of", "Subclass types"),
    *("Expected a <class 'NoneType'>", "Expected a path but", "a class path (str)", "a dict with"),
)
_UNKNOWN_CLASS = re.compile(
    r"Expected a dot import path string: (?P<a>[\w.]+)|class_path '(?P<b>[\w.]+)':\s+No [\w.]+ attr"
    r"|has no attribute '\w+'\. Got value: (?P<c>[\w.]+)"
)
_UNKNOWN_OPTION = re.compile(
    r"unrecognized arguments: --(?P<a>[\w.]+)|Option '(?P<b>[^']+)' is not accepted"
    r"|(Group '(?P<group>[^']+)'|Subcommand '[^']+') does not accept option '(?P<c>[^']+)'"
)
_UNKNOWN_CHOICE = re.compile(r"invalid choice: '(?P<given>[^']*)' \(choose from (?P<known>.*)\)")
_UNUSABLE_FILE = re.compile(r"Unable to load config '([^']+)'")
_MISSING_CHOICE = re.compile(r'expected "([\w.]+)\.subcommand" to be one of \{([^}]*)\}')
_CLASSES = (
    *("eca_lightning", "torch.optim", "torch.optim.lr_scheduler", "lightning.pytorch.callbacks"),
    *("lightning.pytorch.loggers", "lightning.pytorch.strategies"),
)
"""Modules whose classes are named without them."""


def as_typed(arguments: Iterable[str]) -> list[str]:
    """Spell options as their parameters, ``--max-resolution`` as ``--max_resolution``.

    A leading ``~`` or ``~name`` of a value becomes the home folder, and a config from a pipe, which
    can be read only once, its content.
    """
    spelled: list[str] = []
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if option.startswith("--"):
            option = "--" + option[2:].replace("-", "_")
        else:
            option, equals, value = "", "", argument
        value = os.path.expanduser(value)
        if option == "--config" or spelled[-1:] == ["--config"]:
            value = Path(value).read_text() if _is_pipe(value) else value
        spelled.append(option + equals + value)
    return spelled


def _is_pipe(path: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


class OneLineErrors:
    """Base of a parser class: one line says what is wrong and names the nearest known name.

    An option of a yes or no needs no value.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        from eca_lightning.utils.yaml_files import use_in_parsers  # late, so that help is quick

        super().__init__(*args, **({"allow_abbrev": False} | kwargs))
        use_in_parsers()

    def parse_args(self, args: Any = None, *others: Any, **kwargs: Any) -> Any:
        """Parse arguments, ``--annotated`` as ``--annotated=true``."""
        parser: Any = super()
        args = sys.argv[1:] if args is None else list(args)
        bare = [place for place in range(len(args)) if self._is_bare(args, place)]
        if bare and getattr(self, "_subcommands_action", None) is None:
            full = [f"{a}=true" if place in bare else a for place, a in enumerate(args)]
            try:
                parsed = parser.parse_args(full, *others, **kwargs)
            except ValueError:
                parsed = None  # the other attempt says what is wrong
            if all(_value(parsed, args[place][2:]) is True for place in bare):
                return parsed
        try:
            return parser.parse_args(args, *others, **kwargs)
        except ValueError as error:
            raise ValueError(_located(str(error), args)) from error

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        """Parse a config, and name it where it is wrong."""
        parser: Any = super()
        try:
            return parser.parse_path(path, *args, **kwargs)
        except (ValueError, OSError) as error:
            remedy = "; save it as UTF-8" if isinstance(error, UnicodeDecodeError) else ""
            raise ValueError(f"{path}: {error}{remedy}") from error

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Report bad input as an error of this package, which the program prints in one line.

        Raises:
            ValueError: Always.
        """
        parser: Any = getattr(ex, "subcommand_parser", self)
        options = [name[2:] for name in parser._option_string_actions if name.startswith("--")]
        raise ValueError(_one_line(message, options)) from ex

    def _is_bare(self, args: Sequence[str], place: int) -> bool:
        argument: str = args[place]
        actions: Any = getattr(self, "_option_string_actions", {})
        if not argument.startswith("--") or "=" in argument or argument.endswith("help"):
            return False
        takes_none = (
            argument.startswith("--print_") or getattr(actions.get(argument), "nargs", 1) == 0
        )
        return not takes_none and "".join(args[place + 1 : place + 2])[:2] in ("", "--")


def _value(parsed: Any, key: str) -> Any:
    for part in key.rstrip("+").split("."):
        if isinstance(parsed, list):
            parsed = parsed[-1] if parsed else None
        if parsed is None or isinstance(parsed, str | int | float):
            return None
        inside = parsed if part in parsed else parsed.get("init_args") or {}
        parsed = inside.get(part)
    return parsed


def _located(message: str, arguments: Sequence[str]) -> str:
    """Say in which line of a config an unknown option stands, or what is wrong with its file."""
    from eca_lightning.utils.yaml_files import read_yaml

    found, below = _UNKNOWN_OPTION.search(message), _UNUSABLE_FILE.search(message)
    keys = (found["b"] or found["c"] or "").split(".") if found else [""]
    for option, value in zip(arguments, [*arguments[1:], ""], strict=True):
        path = Path(value if option == "--config" else option.removeprefix("--config="))
        if not option.startswith("--config") or ", line " in message or not os.path.isfile(path):
            continue
        if below and (file := path.parent / below[1]).is_file():
            read_yaml(file)  # says what is wrong
        lines = path.read_text("utf-8", "replace").splitlines()
        places = [
            [
                n
                for n, line in enumerate(lines, 1)
                if re.search(rf"(^|[\s{{,'\"]){key}['\"]?\s*:", line)
            ]
            for key in map(re.escape, keys)
        ]
        if all(keys) and all(places):
            return f"{path}, line {places[-1][0]}: {message.removeprefix(f'{path}: ')}"
    return message


def _one_line(message: str, options: Sequence[str]) -> str:
    got = re.search(r"Given value: (.{1,60})$", message, re.MULTILINE)
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    ours = next((i for i, line in enumerate(lines) if line.startswith("Given value")), len(lines))
    keys: list[str] = []
    clear: list[str] = []
    for line in lines[:ours]:
        while key := re.match(r'Parser key "([^"]+)":\s*', line):
            keys += [key[1]] if keys[-1:] != [key[1]] else []
            line = line[key.end() :]
        if line and not line.startswith(_NOISE) and line not in clear:
            clear.append(line)
    is_number = "<class 'float'>" in message  # or a tensor, as learning rates may be
    if is_number:
        clear = [line for line in clear if not _UNKNOWN_CLASS.search(line)]
    text = " ".join(clear) or " ".join(message.split())
    text = re.sub(r"Unexpected config:.*", "a config must be a map of options", text)
    text = text.replace("Problems parsing config: ", "")
    if missing := _MISSING_CHOICE.search(text):
        group, known = missing[1].replace(".", " "), missing[2].replace(",", ", ")
        text = f"{group} is followed by one of {known}"
    elif not is_number and (unknown := _UNKNOWN_CLASS.search(message)):
        name = unknown["a"] or unknown["b"] or unknown["c"]
        text = f"unknown class '{name}'{_hint(name, _classes_beside(name))}"
    elif "did you mean" not in text and (choice := _UNKNOWN_CHOICE.search(text)):
        names = re.findall(r"'([^']+)'", choice["known"])
        text = f"unknown command '{choice['given']}'{_hint(choice['given'], names)}; known: "
        text += ", ".join(names)
    elif "did you mean" not in text and (unknown := _UNKNOWN_OPTION.search(text)):
        group = f"{unknown['group']}." if unknown["group"] else ""
        text += _hint(group + (unknown["a"] or unknown["b"] or unknown["c"]), options)
    elif got and "Expected a <class" in text and "Got value" not in text:
        text = re.sub(r"Expected a <class '([\w.]+)'>", r"expected \1", text) + f", got {got[1]}"
    if not keys:
        return text
    joint = "." if re.match(r"[a-z_][\w.]*: ", text) else ": "
    return ".".join(keys) + joint + text


def _hint(name: str, known: Iterable[str]) -> str:
    plain = name.replace("-", "_")
    names = {option.lower(): option for option in (*known, "class_path", "init_args")}
    root, _, rest = plain.partition(".")
    roots = {option.partition(".")[0] for option in names}
    if rest and root.lower() not in roots:  # the group's name is the wrong one
        near = [f"{group}.{rest}" for group in get_close_matches(root.lower(), roots, n=1)]
    else:
        near = [names[close] for close in get_close_matches(plain.lower(), names, n=1)]
    return f" (did you mean '{near[0]}'?)" if near else ""


def _classes_beside(name: str) -> list[str]:
    module, _, _ = name.rpartition(".")
    places = [sys.modules.get(place) for place in ([module] if module else _CLASSES)]
    found = [entry for place in places if place for entry in dir(place) if entry[0].isupper()]
    return [f"{module}.{entry}" for entry in found] if module else found
