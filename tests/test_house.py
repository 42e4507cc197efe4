"""The house: a module imports from floors below, and on its own floor only from its left."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import xpdense

SOURCE = Path(xpdense.__file__).parent
FLOORS = [
    ["errors", "files", "backend"],
    ["ops", "comm"],
    ["initializers", "schedules", "activations", "arena"],
    ["layers", "losses", "optimizers", "spec", "network"],
    ["metrics", "data"],
    ["step", "memory", "replay", "rollback", "inference"],
    ["history", "callbacks", "storage", "checkpointing", "training"],
    ["model", "learning_rate"],
    ["plots", "doctor", "estimators"],
    ["runs", "cli"],
]
LAZY = {("model", "doctor"), ("history", "plots"), ("learning_rate", "plots")}  # imported upward, where they are used
PLACE = {room: (floor, position) for floor, rooms in enumerate(FLOORS) for position, room in enumerate(rooms)}
ON_AN_EXTRA = ("cli", "plots", "estimators")  # rooms that are made of one
EXTRAS = {"sklearn", "narwhals", "pandas", "matplotlib", "typer", "rich", "pyarrow", "torch", "cupy", "scipy"}


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_rooms(source: str, path: Path) -> set[str]:
    """The rooms of xpdense that a module imports, anywhere in it."""
    rooms, package = set(), ["xpdense", *path.relative_to(SOURCE).parts[:-1]]
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            base += node.module.split(".") if node.module else []
            names = [".".join([*base, alias.name]) for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("xpdense.")}
    return rooms & PLACE.keys()


def climbing(room: str, rooms: set[str]) -> list[str]:
    """Those of `rooms` that `room` may not import."""
    return sorted(
        other for other in rooms - {room} if PLACE[other] > PLACE[room] and (room, other) not in LAZY
    )


MODULES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_module_imports_from_a_floor_above(path):
    assert not climbing(room_of(path), imported_rooms(path.read_text(), path))


def test_every_module_has_its_place():
    assert {room_of(path) for path in MODULES} == PLACE.keys()


@pytest.mark.parametrize(("path", "line"), [
    ("network.py", "from .training import Loop"),
    ("network.py", "import xpdense.model"),
    ("ops/generic.py", "from ..layers import Dense"),
    ("layers.py", "def f():\n    from . import losses"),
    ("history.py", "from .training import Loop"),
    ("doctor/evidence.py", "from ..estimators import base"),
])
def test_a_climbing_import_is_found(path, line):
    assert climbing(room_of(SOURCE / path), imported_rooms(line, SOURCE / path))


@pytest.mark.parametrize("path", [p for p in MODULES if room_of(p) not in ON_AN_EXTRA],
                         ids=lambda path: str(path.relative_to(SOURCE)))
def test_extras_are_imported_only_where_they_are_used(path):
    top = [node for node in ast.parse(path.read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {alias.name.split(".")[0] for node in top if isinstance(node, ast.Import) for alias in node.names}
    names |= {(node.module or "").split(".")[0] for node in top if isinstance(node, ast.ImportFrom) and not node.level}
    assert not names & EXTRAS
