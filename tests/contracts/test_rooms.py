"""The package is a stack of rooms: each may import only from those before it."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "eca_lightning"
ROOMS = ["attention", "backbones", "data", "tasks", "training", "analysis", "export"]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_rooms_before_it(room):
    later = ROOMS[ROOMS.index(room) + 1 :]
    for path in (PACKAGE / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in getattr(node, "names", [])]
            if isinstance(node, ast.ImportFrom):
                modules = [f"{node.module}.{name}" for name in modules]
            for module in modules:
                assert module.split(".")[1:2] not in [[r] for r in later], f"{path}: {module}"


def test_what_all_rooms_share_imports_from_none():
    assert "eca_lightning" not in (PACKAGE / "files.py").read_text()


def test_every_room_is_listed():
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert rooms <= set(ROOMS)
