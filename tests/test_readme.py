"""Every code block of the README runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.M | re.S)
PYTHON = [body for language, body in BLOCKS if language == "python"]
LINES = [line for language, body in BLOCKS if language == "console" for line in body.splitlines()]
COMMANDS = [line.removeprefix("$ ").partition("  #")[0].strip() for line in LINES if line.startswith("$ ")]


def test_every_block_says_what_it_is():
    assert {language for language, _ in BLOCKS} == {"python", "console"}
    assert len(PYTHON) >= 6
    assert len(COMMANDS) >= 8
    assert "@@" not in README


@pytest.mark.parametrize("block", PYTHON, ids=range(len(PYTHON)))
def test_python_block_runs(block, tmp_path, monkeypatch, capsys, request):
    monkeypatch.chdir(tmp_path)
    if "import cupy as xp" in block:
        assert block.replace("import cupy as xp", "import numpy as xp") in PYTHON, "the same ten lines"
        request.getfixturevalue("cuda_backend")  # a GPU, or a CPU that plays one
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    if "validation loss" in block:
        assert float(capsys.readouterr().out.split()[-1]) < 0.05


def test_the_ten_lines_run_on_torch():
    torch = pytest.importorskip("torch")
    block = next(b for b in PYTHON if "import numpy as xp" in b).replace("import numpy as xp", "import torch as xp")
    scope = {"__name__": "readme"}
    exec(compile(block, "README.md", "exec"), scope)
    assert isinstance(scope["prediction"], torch.Tensor)


def test_the_diverging_run_says_where_it_began(capsys):
    exec(next(b for b in PYTHON if "NonFiniteLossError" in b), {"__name__": "readme"})
    assert "the loss became" in capsys.readouterr().out


def test_the_wrong_gradient_is_found(capsys):
    exec(next(b for b in PYTHON if "check_gradients" in b), {"__name__": "readme"})
    out = capsys.readouterr().out
    assert "WRONG" in out
    row = next(line for line in out.splitlines() if "WRONG" in line)
    assert float(row.split()[-4]) == pytest.approx(50 / 3, rel=1e-3)  # the norm ratio names the factor
    assert "gradient_scale at w" in out


def test_the_causes_of_the_table_are_those_that_the_doctor_names():
    table = README[README.index("The causes it knows:"):README.index("`check_gradients` compares")]
    named = set(re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", table.partition("\n\n")[2].partition("\n\n")[0]))
    source = "".join(path.read_text() for path in (ROOT / "src/xpdense/doctor").rglob("*.py"))
    assert len(named) >= 42
    assert all(f'"{cause}"' in source for cause in named)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_make_target_exists(command):
    done = subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("pip ")])
def test_extra_exists(command):
    wanted = set(re.findall(r"\[(\w+)\]", command))
    assert wanted <= set(metadata.metadata("xpdense").get_all("Provides-Extra"))


def test_the_command_lines_run_one_after_the_other(tmp_path):
    lines = [c for c in COMMANDS if c.startswith("xpdense ")]
    assert lines
    for line in lines:
        command = [sys.executable, "-c", "from xpdense.cli import main; main()", *shlex.split(line)[1:]]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}: {done.stderr}"
    assert (tmp_path / "predictions.csv").stat().st_size > 0


def test_the_table_names_what_there_is():
    from xpdense.activations import ACTIVATIONS
    from xpdense.initializers import INITIALIZERS
    from xpdense.layers import LAYERS
    from xpdense.losses import LOSSES
    from xpdense.metrics import METRICS
    from xpdense.optimizers import OPTIMIZERS

    table = README[README.index("## What is supported"):README.index("Conventions:")]
    words = set(re.findall(r"\w+", table))
    for registry in (ACTIVATIONS, LAYERS, LOSSES, METRICS, OPTIMIZERS):
        assert registry.keys() <= words
    for name in INITIALIZERS:
        assert name in words or set(re.split("_(?=normal|uniform)", name)) <= words | {"normal", "uniform"}
