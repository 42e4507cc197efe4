"""The doctor's modules do not import each other in a circle, and no model."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import xpdense

SOURCE = Path(xpdense.__file__).parent


def name_of(path: Path) -> str:
    return ".".join(["xpdense", *path.relative_to(SOURCE).with_suffix("").parts]).removesuffix(".__init__")


MODULES = {name_of(path): path for path in SOURCE.rglob("*.py")}
DOCTOR = {name for name in MODULES if name.startswith("xpdense.doctor.")}


def imports(name: str, source: str) -> set[str]:
    """The modules of xpdense that a module imports, in functions too."""
    package = name.split(".") if MODULES[name].name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *(node.module or "").split(".")] if node.module else base
            found |= {".".join(base), *(".".join([*base, alias.name]) for alias in node.names)}
    return found & MODULES.keys()


def circle(sources: dict[str, str]) -> list[str]:
    """A circle of imports, or nothing."""
    graph = {name: imports(name, source) & sources.keys() for name, source in sources.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def read() -> dict[str, str]:
    return {name: MODULES[name].read_text() for name in DOCTOR}


def test_no_imports_in_a_circle():
    assert circle(read()) == []


def test_a_circle_is_found_in_a_function_too():
    sources = read()
    sources["xpdense.doctor.report"] += "\ndef f():\n    from .diagnosis import Diagnosis\n"
    assert set(circle(sources)) == {"xpdense.doctor.report", "xpdense.doctor.diagnosis"}


@pytest.mark.parametrize("name", sorted(DOCTOR))
def test_a_module_of_the_doctor_needs_no_model(name):
    assert "xpdense.model" not in imports(name, MODULES[name].read_text())
