"""Processes that are killed, interrupted and told to end: what is resumed ends in the bits of an unbroken run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from soak import kills

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked")
pytest.importorskip("pyarrow")

RUNS = 20
CODE = """
import json
from soak import kills
print(json.dumps(kills.soak({runs}, 11, {{{name!r}: kills.VARIANTS[{name!r}]}})))
"""


@pytest.mark.parametrize("variant", kills.VARIANTS)
def test_runs_that_are_killed_and_resumed_end_in_the_same_bits(variant: str) -> None:
    code = CODE.format(runs=RUNS // len(kills.VARIANTS), name=variant)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, env=environment)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["unequal"] == []
    assert found["equal"] == found["runs"] == RUNS // len(kills.VARIANTS)
    assert found["kills"] > 0


# --- the command line ------------------------------------------------------------------------------------------

TRAIN = ["train", "digits", "--hidden", "32", "--seed", "3", "--patience", "100000"]


def command(*arguments: str | Path, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "xpdense.cli", *map(str, arguments)], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload]


def weights(folder: Path) -> bytes:
    return next((folder / "model").glob("weights-*")).read_bytes()


def ends_well(process: subprocess.Popen[str]) -> str:
    """What a process prints that ends with 0."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def wait_for(found: object, process: subprocess.Popen[str], seconds: float = 60.0) -> None:
    """Wait until something is there, while the process runs."""
    deadline = time.monotonic() + seconds
    while not found():  # type: ignore[operator]
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def test_a_run_of_the_command_line_that_is_killed_goes_on(tmp_path: Path) -> None:
    whole = command(*TRAIN, "--epochs", "150", "--out", tmp_path / "whole", "--checkpoint-every", "100steps")
    ends_well(whole)
    run = command(*TRAIN, "--epochs", "150", "--out", tmp_path / "run", "--checkpoint-every", "100steps")
    wait_for(lambda: list((tmp_path / "run" / "checkpoints").glob("step-*")), run)
    run.kill()
    run.communicate()
    assert not (tmp_path / "run" / "model").exists()
    again = command("train", "--resume", tmp_path / "run")
    assert "epoch   1/150" not in ends_well(again)
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_a_run_that_is_killed_before_its_first_checkpoint_begins_again(tmp_path: Path) -> None:
    run = command(*TRAIN, "--epochs", "20", "--out", tmp_path / "run")
    wait_for((tmp_path / "run" / "run.json").exists, run)
    run.kill()
    run.communicate()
    again = command("train", "--resume", tmp_path / "run")
    ends_well(again)
    whole = command(*TRAIN, "--epochs", "20", "--out", tmp_path / "whole")
    ends_well(whole)
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_with_a_checkpoint_and_the_usual_status(number: signal.Signals, code: int,
                                                                    tmp_path: Path) -> None:
    run = command(*TRAIN, "--epochs", "100000", "--out", tmp_path / "run", start_new_session=True)
    assert run.stdout is not None
    for line in run.stdout:
        if line.startswith("epoch"):
            break
    run.send_signal(number)
    _, err = run.communicate(timeout=60)
    assert run.returncode == code, err
    found = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert len(found) == 1
    assert err.strip().endswith(f"interrupted: xpdense train --resume {tmp_path / 'run'} goes on from {found[0]}")
    assert "Traceback" not in err


SLOW = """
import sys, time
import numpy as np, xpdense as xd

class Slow(xd.Layer):
    def forward(self, ops, x, tape):
        if tape.train:
            time.sleep(3.0)
        return x
    def backward(self, ops, dy, tape):
        return dy

class Say(xd.Callback):
    def on_train_begin(self, run):
        print("begun", flush=True)

net = xd.DenseNetwork([xd.Dense(2), Slow(), xd.Dense(1)], inputs=2)
net.fit(np.ones((64, 2)), np.ones(64), loss="squared_error", batch_size=8, epochs=50,
        callbacks=[xd.Checkpoint(sys.argv[1]), Say()])
"""


def slow(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(folder)], text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.5)
    return process


def test_the_step_under_way_is_finished_first(tmp_path: Path) -> None:
    process = slow(tmp_path)
    since = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert 1.5 < time.monotonic() - since < 20.0
    assert "KeyboardInterrupt: interrupted after 1 steps" in err
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000000001"]


def test_a_second_interrupt_ends_it_at_once(tmp_path: Path) -> None:
    process = slow(tmp_path)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    since = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - since < 1.5
    assert "interrupted twice" in err
    assert list(tmp_path.iterdir()) == []


def test_the_handlers_that_were_there_are_there_again(tmp_path: Path) -> None:
    import numpy as np

    import xpdense as xd

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    seen = []

    class Look(xd.Callback):
        def on_epoch_end(self, run: object) -> None:
            seen.append(signal.getsignal(signal.SIGTERM))

    net = xd.DenseNetwork([xd.Dense(1)], inputs=2)
    net.fit(np.ones((8, 2)), np.ones(8), loss="squared_error", epochs=1, callbacks=[xd.Checkpoint(tmp_path), Look()])
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert len(seen) == 1
    assert seen[0] not in before
