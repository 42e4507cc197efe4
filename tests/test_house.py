"""The house: a module imports from floors below, and on its own floor only from its left."""

from __future__ import annotations

import ast
import graphlib
import re
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


# --- cycles, sizes, seams --------------------------------------------------------------------------------------

ROOT = Path(__file__).parent.parent


def imports_between(modules: dict[str, Path]) -> dict[str, set[str]]:
    """For each module by its dotted name, those of the others that it imports, anywhere in it."""
    found = {}
    for name, path in modules.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        wanted = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                parts = package.split(".") if node.level else []
                base = parts[: len(parts) - node.level + 1] + ([node.module] if node.module else [])
                whole = ".".join(base)
                wanted |= {full if (full := f"{whole}.{alias.name}".strip(".")) in modules else whole
                           for alias in node.names}
        found[name] = {other for other in wanted if other in modules} - {name}
    return found


def cycle_of(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle; empty without one."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def modules_of(folder: Path, prefix: str) -> dict[str, Path]:
    names = {path: ".".join([prefix, *path.relative_to(folder).with_suffix("").parts]) for path in folder.rglob("*.py")}
    return {name.removesuffix(".__init__").strip("."): path for path, name in names.items()}


LAZY_MODULES = {("xpdense.history", "xpdense.plots"), ("xpdense.model", "xpdense.doctor.watch")}


@pytest.mark.parametrize(("folder", "prefix"), [("src/xpdense", "xpdense"), ("bench", "bench"), ("tests", "")])
def test_no_modules_import_each_other_in_a_circle(folder, prefix):
    graph = imports_between(modules_of(ROOT / folder, prefix))
    graph.pop("xpdense", None)  # it imports names when they are first used
    graph = {name: {other for other in others if (name, other) not in LAZY_MODULES and other in graph}
             for name, others in graph.items()}
    assert len(graph) > 10
    assert not cycle_of(graph)


def test_a_circle_is_found():
    assert cycle_of({"a": {"b"}, "b": {"c"}, "c": {"a"}})


def functions_of(path: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]


def code_lines(path: Path, function: str) -> int:
    """Lines of a method's body, without its docstring."""
    body = next(node for node in functions_of(path) if node.name == function).body[1:]
    return body[-1].end_lineno - body[0].lineno + 1


def test_the_loop_and_fit_are_short():
    assert len((SOURCE / "training.py").read_text().splitlines()) < 350
    assert code_lines(SOURCE / "model.py", "fit") < 40


PUBLIC = {"fit", "open", "find_learning_rate", "diagnose", "check_network", "check_gradients", "train", "doctor",
          "explain_gradients"}  # signatures that users call by keywords


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_function_has_more_than_eight_parameters(path):
    def count(node):
        every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        return len([one for one in every if one.arg not in ("self", "cls")])

    assert not [node.name for node in functions_of(path)
                if count(node) > 8 and node.name != "__init__" and node.name not in PUBLIC]


def test_only_data_knows_one_kind_of_data_set_from_another():
    found = [str(path.relative_to(SOURCE)) for path in MODULES if room_of(path) != "data"
             and re.search(r"isinstance\([^)]*\bStream\b", path.read_text())]
    assert not found
