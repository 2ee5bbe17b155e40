"""The package is a stack of rooms: each may import only from those before it."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "eca_lightning"
ROOMS = ["utils", "attention", "backbones", "data", "weights", "training", "runs"]
ROOMS += ["classification", "detection", "export", "compare", "explain", "paper", "benchmarks"]
STRANGERS = {("detection", "classification")}  # though one comes after the other


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_rooms_before_it(room):
    allowed = {r for r in ROOMS[: ROOMS.index(room) + 1] if (room, r) not in STRANGERS}
    for path in (PACKAGE / room).rglob("*.py"):
        for module in imported_modules(path):
            if module.startswith("eca_lightning."):
                assert module.split(".")[1] in allowed, f"{path}: {module}"


def test_every_room_is_listed():
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert rooms == set(ROOMS)
