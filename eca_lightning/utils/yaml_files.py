"""Read YAML, and refuse what its parser takes without a word or chokes on."""

import os
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader

_MAX_DEPTH, _MAX_VALUES = 100, 100_000
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_load_unchecked = get_loader("yaml")


class BadYamlError(yaml.YAMLError, ValueError):
    """What is wrong with a YAML document, and in which line."""


def load_yaml(text: str) -> Any:
    """Load YAML as jsonargparse does; a leading ``~`` becomes the home folder.

    Raises:
        BadYamlError: If it is no YAML, has a key twice, or aliases make it huge or endless.
    """
    try:
        _require_shallow(text)
        if (root := yaml.compose(text, _Loader)) is not None:
            _count(root, {}, ())
        return _with_home(_load_unchecked(text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise BadYamlError(f"{line}{error.problem or error.context}") from error


def read_yaml(path: Path) -> Any:
    """Load a YAML file.

    Raises:
        ValueError: If `load_yaml` does not take it; the message begins with the path.
    """
    try:
        return load_yaml(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a YAML file that can be used: {error}") from error


def use_in_parsers() -> None:
    """Let jsonargparse read configs and values by `load_yaml`."""
    set_loader("yaml", load_yaml, (yaml.YAMLError,))


def _require_shallow(text: str) -> None:
    """Raise a BadYamlError for nesting at which composers recurse until the process dies."""
    depth = 0
    for event in yaml.parse(text, _Loader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise BadYamlError(f"line {event.start_mark.line + 1}: it is nested too deeply")


def _count(node: Any, counts: dict[int, int], above: tuple[int, ...]) -> int:
    """Count the values of a node, an alias's as often as it stands for them; check the keys."""
    line = node.start_mark.line + 1
    if id(node) in above:
        raise BadYamlError(f"line {line}: an alias contains itself")
    if id(node) not in counts:
        parts = []
        if isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                at, name = key.start_mark.line + 1, str(key.value)
                if name in lines and isinstance(key, yaml.ScalarNode):
                    first = lines[name]
                    raise BadYamlError(f"line {at}: '{name}' is given in line {first} already")
                lines[name] = at
                parts += [key, value]
        elif isinstance(node, yaml.SequenceNode):
            parts = node.value
        counts[id(node)] = 1 + sum(_count(part, counts, (*above, id(node))) for part in parts)
        if counts[id(node)] > _MAX_VALUES:
            raise BadYamlError(f"line {line}: its aliases stand for over {_MAX_VALUES:,} values")
    return counts[id(node)]


def _with_home(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_home(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_with_home(entry) for entry in value]
    return os.path.expanduser(value) if isinstance(value, str) else value
