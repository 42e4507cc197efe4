"""`xpdense doctor`: on a table as `train` takes it, and on a Python file."""

from __future__ import annotations

import pytest

import xpdense.cli

PROGRAM = '''
import numpy as np

class Mine:
    def __init__(self):
        self.params = {"W1": np.array([[0.3], [-0.2]]), "b1": np.zeros(1)}

    def predict(self, X):
        return 1.0 / (1.0 + np.exp(-(X @ self.params["W1"] + self.params["b1"])))

    def loss(self, X, y):
        p = self.predict(X)
        return float(-np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)))

    def gradients(self, X, y):
        dz = (self.predict(X) - y) / len(X)
        return {"W1": SIGN * X.T @ dz, "b1": SIGN * dz.sum(0)}

    def step(self, X, y):
        for name, gradient in self.gradients(X, y).items():
            self.params[name] -= 0.5 * gradient

program = Mine()
X = np.random.default_rng(0).standard_normal((200, 2))
y = (X[:, :1] + X[:, 1:] > 0).astype(float)
epochs = 20
'''


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        xpdense.cli.main(["doctor", *arguments])
    return int(ended.value.code or 0)


def test_a_training_that_goes_well_is_sound(capsys):
    assert run("iris", "--hidden", "16") == 0
    assert "No findings" in capsys.readouterr().out


def test_a_rate_far_too_high_is_named_and_written_down(capsys, tmp_path):
    page = tmp_path / "page.html"
    assert run("iris", "--hidden", "16", "--learning-rate", "50", "--html", str(page)) == 1
    assert "learning_rate_too_high" in capsys.readouterr().out
    assert "learning_rate_too_high" in page.read_text()


def test_the_options_of_train_are_taken(capsys):
    assert run("wine", "--hidden", "8", "--out", "nowhere", "--patience", "3", "--test", "0.3", "--seed", "1") == 0


def test_a_python_file_is_run_and_its_program_examined(capsys, tmp_path):
    file = tmp_path / "program.py"
    file.write_text(PROGRAM.replace("SIGN", "1"))
    assert run(str(file)) == 0
    file.write_text(PROGRAM.replace("SIGN", "-1"))
    assert run(str(file)) == 1
    assert "gradient_sign" in capsys.readouterr().out


@pytest.mark.parametrize(("text", "message"), [
    ("X = 1\n1 / 0\n", "line 2: ZeroDivisionError"), ("X = 1", "does not define program, y"),
    ("def f(:", "SyntaxError"), (None, "there is no file"),
    (PROGRAM.replace("SIGN", "1") + "X = X[:3]", "y must be numbers, one for each of the 3 rows")])
def test_what_is_wrong_with_the_file_is_one_line(capsys, tmp_path, text, message):
    file = tmp_path / "program.py"
    if text is not None:
        file.write_text(text)
    assert run(str(file)) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_page_that_cannot_be_written_is_said_before_any_work(capsys, tmp_path):
    assert run("iris", "--html", str(tmp_path)) == 2
    assert "is a folder" in capsys.readouterr().err
