"""The command line: what it trains, writes, prints and refuses. Everything runs in a folder of its own."""

from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpdense as xd

pd, testing = pytest.importorskip("pandas"), pytest.importorskip("typer.testing")
for extra in ("rich", "sklearn", "pyarrow", "matplotlib"):
    pytest.importorskip(extra)
cli = pytest.importorskip("xpdense.cli")

RUNNER = testing.CliRunner()


def run(*arguments: Any, code: int = 0) -> Any:
    """The result of `xpdense ARGUMENTS`, which must end with this exit code and never with a traceback."""
    result = RUNNER.invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == code, result.output
    return result


def refused(*arguments: Any, code: int = 2) -> str:
    """The one line that says what is wrong, before anything is trained."""
    result = run(*arguments, code=code)
    assert re.fullmatch(r"error: .+\n", result.stderr), result.stderr
    assert "epoch" not in result.stdout
    return result.stderr


def score(output: str, name: str) -> list[float]:
    """A line of the score table: the network's, and the baseline's where there is one."""
    found = re.findall(rf"^{name} +(.*)$", output, re.MULTILINE)
    return [float(value) for value in found[-1].split()]


def history(folder: str | Path) -> list[dict[str, str]]:
    """The rows of a run's history.csv."""
    return list(csv.DictReader(io.StringIO((Path(folder) / "history.csv").read_text())))


def people(rows: int = 80) -> Any:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"age": rng.normal(40, 10, rows), "city": rng.choice(["Rome", "Oslo", "Bern"], rows),
                          "vip": rng.random(rows) > 0.5, "id": [f"u{i}" for i in range(rows)]})
    frame["label"] = np.where(frame.age + 5 * frame.vip > 42, "old", "young")
    frame["price"] = 1000 + 30 * frame.age + 50 * (frame.city == "Rome") + rng.normal(0, 5, rows)
    frame["visits"] = rng.poisson(np.exp(frame.age / 20))
    frame.loc[3, "age"], frame.loc[5, "city"] = np.nan, None
    return frame


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A table, and one model each of its text, quantity and counts."""
    folder = tmp_path_factory.mktemp("shared")
    table = folder / "people.csv"
    people().to_csv(table, index=False)
    found: dict[str, Any] = {"folder": folder, "table": table}
    for name, options in {
        "label": ["--epochs", 20],
        "price": ["--target", "price", "--epochs", 30],
        "visits": ["--target", "visits", "--loss", "poisson", "--task", "regression", "--epochs", 20],
    }.items():
        found[name] = folder / name
        found[f"{name} output"] = run("train", table, "--out", found[name], *options).stdout
    return found


def predictions(text: str) -> Any:
    return pd.read_csv(io.StringIO(text))


# --- what it reaches -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("seed", [0, 1])
def test_digits_reach_97_percent_with_the_defaults(seed):
    output = run("train", "digits", "--seed", seed).stdout
    network, baseline = score(output, "accuracy")
    assert network >= 0.97
    assert baseline < 0.15
    assert "360 test" in output
    assert "split class by class" in output


@pytest.mark.parametrize("seed", range(20))
def test_xor_is_learnt_from_its_four_points(seed, monkeypatch):
    monkeypatch.setattr(xd.History, "plot", lambda self, path: None)  # 20 pictures take longer than 20 trainings
    output = run("train", "xor", "--seed", seed).stdout
    assert float(history("runs/xor")[-1]["loss"]) < 0.05
    assert re.search(r"accuracy +1\.0", output)
    assert "is not split" in output


@pytest.mark.parametrize(("name", "metric", "least"), [("iris", "accuracy", 0.85), ("wine", "accuracy", 0.9),
                                                       ("breast_cancer", "accuracy", 0.93), ("diabetes", "r2", 0.3)])
def test_the_bundled_sets_are_learnt_well_above_the_trivial_baseline(name, metric, least):
    network, baseline = score(run("train", name).stdout, metric)
    assert network > least > baseline


# --- what it prints and writes ---------------------------------------------------------------------------------

def test_train_shows_network_device_ops_and_a_line_per_epoch_within_80_columns():
    output = run("train", "iris", "--epochs", 3).stdout
    for part in ("Dense(units=256", "numpy on CPU", "ops in float32", "108 training, 12 validation, 30 test"):
        assert part in output
    lines = re.findall(r"^epoch \d/3  loss \S+  validation loss \S+  accuracy \S+  \S+ k rows/s$", output, re.MULTILINE)
    assert len(lines) == 3
    assert max(map(len, output.splitlines())) <= 80


def test_a_run_holds_the_model_the_history_and_its_curves(shared):
    folder = shared["label"]
    assert sorted(path.name for path in folder.iterdir()) == ["curves.png", "history.csv", "model", "run.json"]
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    rows = history(folder)
    assert len(rows) == 20
    assert {"epoch", "loss", "validation_loss", "validation_accuracy"} <= rows[0].keys()


def test_columns_that_are_left_out_are_named(shared):
    assert "'id' is left out" in shared["label output"]


def test_the_same_seed_makes_the_same_model():
    for name in ("a", "b"):
        run("train", "iris", "--epochs", 2, "--seed", 5, "--out", name)
    first, second = (xd.load(f"{name}/model").params for name in ("a", "b"))
    assert all(np.array_equal(first[key], second[key]) for key in first)


def test_only_training_rows_teach_the_encoder_and_the_target_scale():
    from xpdense.data.datasets import split

    frame = people().drop(columns=["label", "visits"])
    frame.to_csv("p.csv", index=False)
    run("train", "p.csv", "--target", "price", "--epochs", 1, "--out", "p")
    kept, _, _ = split(np.arange(len(frame)), 0.2, None, 0, "")
    kept, _, _ = split(kept, 0.1, None, 0, "")
    extra = xd.load("p/model").extra
    assert extra["mean"] == pytest.approx(frame.price[kept].mean())
    assert extra["table"]["columns"][0]["mean"] == pytest.approx(frame.age[kept].mean())
    assert extra["mean"] != pytest.approx(frame.price.mean())


def test_without_a_test_set_the_score_is_of_the_training_rows_and_says_so():
    output = run("train", "iris", "--test", 0, "--validation", 0, "--epochs", 2).stdout
    assert "150 training, 0 validation, 0 test" in output
    assert "score on the 150 training rows" in output
    assert "kept the weights" not in output


def test_early_stopping_keeps_the_best_epoch():
    output = run("train", "diabetes", "--patience", 2).stdout
    best = int(re.search(r"kept the weights of epoch (\d+)", output)[1])
    losses = [float(row["validation_loss"]) for row in history("runs/diabetes")]
    assert best == 1 + int(np.argmin(losses))
    assert len(losses) == best + 2


def test_no_hidden_layer_is_a_linear_model():
    for hidden in ("none", "0", ""):
        output = run("train", "iris", "--hidden", hidden, "--epochs", 1).stdout
        assert "Dense(units=3" in output
        assert "relu" not in output


def test_options_reach_the_training():
    output = run("train", "iris", "--hidden", "8,4", "--activation", "tanh", "--optimizer", "sgd", "--learning-rate",
                 "0.25", "--batch-size", 5, "--dtype", "float64", "--weight-decay", "0.5", "--epochs", 1).stdout
    for part in ("units=8, activation=tanh", "units=4", "sgd at 0.25", "weight decay 0.5", "batches of 5", "float64"):
        assert part in output


def test_another_backend_trains_and_numpy_predicts():
    pytest.importorskip("array_api_strict")
    output = run("train", "iris", "--backend", "array_api_strict", "--epochs", 1, "--hidden", "4", "--out", "m").stdout
    assert "array_api_strict on CPU" in output
    assert len(predictions(run("predict", "m", "iris").stdout)) == 150


# --- folders ---------------------------------------------------------------------------------------------------

def test_a_new_run_never_touches_an_earlier_one():
    Path("runs/iris").mkdir(parents=True)  # such as one that is still training
    for expected in ("runs/iris-2", "runs/iris-3"):
        assert f"wrote {expected}/" in run("train", "iris", "--epochs", 1).stdout
    assert not list(Path("runs/iris").iterdir())


def test_an_earlier_run_may_be_replaced_by_name_and_nothing_else_may():
    run("train", "iris", "--epochs", 1, "--out", "m")
    run("train", "iris", "--epochs", 2, "--out", "m")
    assert len(Path("m/history.csv").read_text().splitlines()) == 3
    Path("m/notes.txt").write_text("mine")
    assert "notes.txt" in refused("train", "iris", "--out", "m")
    for name in ("history.csv", "model/stranger"):
        path = Path("other", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
        assert "other" in refused("train", "iris", "--out", "other")
        assert path.read_text() == "mine"
        path.unlink()


def test_a_place_that_cannot_be_written_is_refused_before_training():
    Path("file").write_text("mine")
    for out in ("file", "file/x", "/etc/passwd/x"):
        result = run("train", "iris", "--out", out, code=2)
        assert result.stderr.startswith("error: cannot write")
        assert "epoch" not in result.stdout
    Path("runs").write_text("mine")
    assert "--out" in refused("train", "iris")


def test_a_failed_run_leaves_no_folder():
    result = run("train", "diabetes", "--optimizer", "sgd", "--learning-rate", "1e8", "--out", "m", code=1)
    assert "the loss became" in result.stderr
    assert not Path("m").exists()


# --- predict, evaluate, backends -------------------------------------------------------------------------------

def test_predictions_are_the_original_labels_one_per_row(shared):
    frame = predictions(run("predict", shared["label"], shared["table"], "--proba").stdout)
    assert list(frame.columns) == ["prediction", "probability_old", "probability_young"]
    assert len(frame) == 80
    np.testing.assert_allclose(frame.probability_old + frame.probability_young, 1.0)
    assert (frame.prediction == np.where(frame.probability_young >= 0.5, "young", "old")).all()
    assert (frame.prediction == people().label).mean() > 0.9


def test_a_quantity_is_predicted_in_its_own_units(shared):
    frame = predictions(run("predict", shared["price"] / "model", shared["table"]).stdout)
    assert list(frame.columns) == ["prediction"]
    assert np.corrcoef(frame.prediction, people().price)[0, 1] > 0.9
    assert frame.prediction.mean() == pytest.approx(people().price.mean(), rel=0.05)
    assert "--proba" in refused("predict", shared["price"], shared["table"], "--proba")


def test_counts_are_not_standardised_for_poisson(shared):
    extra = xd.load(shared["visits"] / "model").extra
    assert (extra["mean"], extra["scale"]) == (0.0, 1.0)
    frame = predictions(run("predict", shared["visits"], shared["table"]).stdout)
    assert (frame.prediction > 0).all()
    assert frame.prediction.mean() == pytest.approx(people().visits.mean(), rel=0.2)


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
def test_predict_needs_no_target_and_every_kind_of_file_predicts_the_same(shared, kind):
    frame = people().drop(columns=["label", "id"])
    getattr(frame, "to_parquet" if kind == "parquet" else "to_csv")(f"p.{kind}", index=False)
    expected = run("predict", shared["label"], shared["table"]).stdout
    assert run("predict", shared["label"], f"p.{kind}").stdout == expected


def test_whole_number_and_boolean_labels_come_out_as_such():
    frame = people()[["age", "vip"]].assign(grade=lambda f: np.where(f.vip, 7, 3))
    frame.to_csv("p.csv", index=False)
    for target, labels in (("grade", {3, 7}), ("vip", {True, False})):
        run("train", "p.csv", "--target", target, "--epochs", 10, "--out", target)
        assert set(predictions(run("predict", target, "p.csv").stdout).prediction) == labels


def test_codes_and_labels_that_look_like_numbers_stay_what_they_were():
    codes = ["01", "02", "A"] * 20
    frame = pd.DataFrame({"code": codes, "x": np.arange(60) % 7, "y": ["1", "2", "one"] * 20})
    frame.to_csv("p.csv", index=False)
    run("train", "p.csv", "--epochs", 30, "--out", "m")
    frame[frame.code != "A"].to_csv("q.csv", index=False)  # pandas alone would read numbers here
    assert set(predictions(run("predict", "m", "q.csv").stdout).prediction.astype(str)) == {"1", "2"}
    assert score(run("evaluate", "m", "q.csv").stdout, "accuracy") == [1.0]


def test_npz_trains_predicts_and_evaluates():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3))
    np.savez("a.npz", x=x, y=(x[:, 0] > 0).astype(float))
    np.savez("x.npz", x=x)
    run("train", "a.npz", "--epochs", 15)
    assert run("predict", "runs/a", "a.npz").stdout == run("predict", "runs/a", "x.npz").stdout
    assert score(run("evaluate", "runs/a", "a.npz").stdout, "accuracy")[0] > 0.85
    assert "no array 'y'" in refused("evaluate", "runs/a", "x.npz")


def test_predict_writes_a_file_as_a_whole_or_not_at_all(shared):
    expected = run("predict", shared["label"], shared["table"]).stdout
    Path("p.csv").write_text("old")
    result = run("predict", shared["label"], shared["table"], "--out", "p.csv")
    assert Path("p.csv").read_text() == expected
    assert result.stdout == ""
    people().drop(columns="age").to_csv("data.csv", index=False)
    assert "'age'" in refused("predict", shared["label"], "data.csv", "--out", "p.csv")
    assert Path("p.csv").read_text() == expected
    people().to_csv("data.csv", index=False)
    before = Path("data.csv").read_bytes()
    for out in (".", "p.csv/x", "data.csv"):
        refused("predict", shared["label"], "data.csv", "--out", out)
    assert Path("data.csv").read_bytes() == before
    assert sorted(p.name for p in Path().iterdir()) == ["data.csv", "p.csv"]


def test_evaluate_prints_the_loss_and_the_metrics_of_the_task(shared):
    output = run("evaluate", shared["label"], shared["table"]).stdout
    truth = people().label
    labels = predictions(run("predict", shared["label"], shared["table"]).stdout).prediction
    assert score(output, "accuracy")[0] == pytest.approx((labels == truth).mean(), abs=1e-4)
    for name in ("loss", "balanced_accuracy", "f1", "roc_auc", "log_loss"):
        assert score(output, name)
    output = run("evaluate", shared["price"], shared["table"]).stdout
    values = predictions(run("predict", shared["price"], shared["table"]).stdout).prediction
    error = values - people().price
    assert score(output, "mae")[0] == pytest.approx(error.abs().mean(), abs=0.01)
    assert score(output, "rmse")[0] == pytest.approx(np.sqrt((error**2).mean()), abs=0.01)
    assert score(output, "r2")[0] == pytest.approx(1 - (error**2).mean() / people().price.var(ddof=0), abs=1e-3)


def test_a_score_that_has_no_value_is_not_made_up(shared):
    people().query("label == 'old'").to_csv("old.csv", index=False)
    assert re.search(r"roc_auc +n/a", run("evaluate", shared["label"], "old.csv").stdout)


def test_evaluate_refuses_labels_that_the_model_does_not_know(shared):
    people().assign(label="ancient").to_csv("p.csv", index=False)
    assert "'ancient'" in refused("evaluate", shared["label"], "p.csv")


def test_backends_lists_every_namespace_with_what_to_install():
    output = run("backends").stdout
    assert all(word in output for word in ("backend", "available", "version", "device", "ops", "note"))
    for row in xd.backends():
        assert row.name in output
        assert row.available or "pip install" in output or "finds no CUDA device" in " ".join(output.split())


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_what_is_no_model_of_a_table_is_refused(command, shared):
    assert "no folder" in refused(command, "nothing", "iris")
    xd.DenseNetwork([xd.Dense(1)], inputs=3).save("plain")
    assert "not made by `xpdense train`" in refused(command, "plain", "iris")
    network = xd.load(shared["label"] / "model")
    for key, value in (("table", {}), ("task", "regression"), ("classes", ["a", "b", "c"])):
        damaged = xd.load(shared["label"] / "model")
        damaged.extra = network.extra | {key: value}
        damaged.save("damaged")
        refused(command, "damaged", shared["table"])


# --- what it refuses -------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("options", "message"), [
    (["--task", "regresion"], "Known: binary, multi-class, regression"), (["--task", "binary"], "3 classes"),
    (["--loss", "hubert"], "Known: absolute_error"), (["--loss", "squared_error"], "does not fit a multi-class"),
    (["--loss", "poisson"], "--task regression"), (["--optimizer", "adm"], "Known: adagrad"),
    (["--activation", "rely"], "mean 'relu'"), (["--backend", "nump"], "mean 'numpy'"),
    (["--backend", "jax"], "immutable"), (["--dtype", "float16"], "Known: float32, float64"),
    (["--target", "Target"], "mean 'target'"), (["--hidden", "a"], "--hidden"), (["--hidden", "8,,8"], "--hidden"),
    (["--hidden", "-8"], "--hidden"), (["--hidden", "8,0"], "--hidden"), (["--hidden", "9999999999"], "GiB"),
    (["--learning-rate", "0"], "--learning-rate"), (["--learning-rate", "nan"], "--learning-rate"),
    (["--learning-rate", "fast"], "--learning-rate"), (["--weight-decay", "-1"], "--weight-decay"),
    (["--epochs", "0"], "--epochs"), (["--epochs", "1.5"], "--epochs"), (["--batch-size", "0"], "--batch-size"),
    (["--validation", "1"], "--validation"), (["--validation", "nan"], "--validation"), (["--test", "-0.1"], "--test"),
    (["--test", "0.999"], "cannot be split"), (["--patience", "0"], "--patience"), (["--seed", "-1"], "--seed"),
    (["--nope"], "--nope"),
])
def test_a_bad_option_is_one_line_and_touches_nothing(options, message):
    assert message in refused("train", "iris", *options)
    assert not list(Path().iterdir())


@pytest.mark.parametrize(("content", "message"), [
    ("a,y\n1,0\n", "one value only"), ("a,y\n1,0\n2,1\n", "cannot be split"),
    ("a,y\n1,0\n2,0\n3,0\n", "one value only"),
    ("a,y\n1,0\n2,\n3,1\n", "1 of 3 rows have no target"), ("a,y\n1,0\ninf,1\n3,0\n4,1\n5,1\n", "holds inf"),
    ("y\n0\n1\n0\n1\n", "no column is left"), ("a,b\n1,2\n", "--target"), ("a,y\n1,0\n1,2,3\n", "line 3"),
    ("a,y\n" + "1,0\n" * 9 + "1,1\n", "have one value of 'y' only"),
])
def test_a_table_that_cannot_be_learnt_is_one_line_and_touches_nothing(content, message):
    Path("a.csv").write_text(content)
    assert message in refused("train", "a.csv", "--seed", 1)
    assert [path.name for path in Path().iterdir()] == ["a.csv"]


def test_negative_counts_are_refused_for_poisson():
    Path("a.csv").write_text("a,y\n" + "".join(f"{i},{i - 5.5}\n" for i in range(40)))
    assert "not negative" in refused("train", "a.csv", "--loss", "poisson")


def test_a_class_of_one_row_is_trained_on_and_the_split_says_so():
    Path("a.csv").write_text("a,y\n" + "".join(f"{i},{'uv'[i % 2]}\n" for i in range(40)) + "1,w\n")
    assert "not split class by class" in run("train", "a.csv", "--epochs", 1).stdout


def test_data_that_is_neither_set_nor_file_lists_the_sets(shared):
    for command in (["train"], ["predict", shared["label"]], ["evaluate", shared["label"]]):
        line = refused(*command, "digit")
        assert "mean 'digits'" in line
        assert "breast_cancer, diabetes, digits, iris, wine, xor" in line


def test_a_missing_argument_and_an_unknown_command_are_one_line():
    assert "xpdense train --help" in refused("train")
    assert "xpdense --help" in refused("tain")


def test_ctrl_c_ends_with_130_one_line_and_no_folder(monkeypatch):
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(xd.DenseNetwork, "fit", interrupted)
    result = run("train", "iris", "--out", "m", code=130)
    assert result.stderr.splitlines() == ["interrupted: nothing was saved"]
    assert not Path("m").exists()


def test_main_runs_the_arguments_it_is_given(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"xpdense {xd.__version__}\n"


@pytest.mark.parametrize("module", ["typer", "rich"])
def test_without_its_extra_the_script_says_what_to_install(module):
    code = f"import sys; sys.modules[{module!r}] = None; from xpdense.cli import main; main()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1
    assert "pip install 'xpdense[cli]'" in ended.stderr


def test_help_imports_nothing_heavy():
    code = ("import sys\nfrom xpdense.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
            "heavy = {'pandas', 'sklearn', 'matplotlib', 'pyarrow', 'torch', 'xpdense.model'} & set(sys.modules)\n"
            "assert not heavy, heavy")
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert all(command in ended.stdout for command in ("train", "predict", "evaluate", "backends"))


def test_codes_with_leading_zeros_stay_as_they_are(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{i % 5},{['007', '08'][i % 5 > 2]}\n" for i in range(60))
    Path("codes.csv").write_text("a,y\n" + rows)
    for arguments in (["train", "codes.csv", "--epochs", "30", "--out", "run"], ["predict", "run", "codes.csv"]):
        with pytest.raises(SystemExit) as done:
            cli.main(arguments)
        assert done.value.code == 0
    predicted = capsys.readouterr().out.split()[-60:]
    assert set(predicted) == {"007", "08"}


def test_evaluate_says_that_the_target_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("all.csv").write_text("a,b,y\n" + "".join(f"{i},{i * i},{i % 2}\n" for i in range(40)))
    Path("some.csv").write_text("a,b\n1,2\n3,4\n")
    train = ["train", "all.csv", "--epochs", "1", "--out", "run"]
    for arguments, code in ((train, 0), (["evaluate", "run", "some.csv"], 2)):
        with pytest.raises(SystemExit) as done:
            cli.main(arguments)
        assert done.value.code == code
    assert "no column 'y', which the model predicts" in capsys.readouterr().err


EVERY = ["--checkpoint-every", "1epochs"]


# --- streams, checkpoints, and going on ------------------------------------------------------------------------

@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a table of 2,000 rows as CSV, as Parquet and as a folder of Parquet files."""
    monkeypatch.chdir(tmp_path)
    frame = people(2000).drop(columns="id")
    frame.to_csv("t.csv", index=False)
    frame.to_parquet("t.parquet", row_group_size=300)
    Path("parts").mkdir()
    for i in range(4):
        frame.iloc[500 * i : 500 * (i + 1)].to_parquet(f"parts/{i}.parquet", row_group_size=130)
    return tmp_path


@pytest.mark.parametrize("data", ["parts", "t.csv", "t.parquet"])
@pytest.mark.parametrize("target", ["label", "price"])
def test_data_are_read_as_they_are_used(data: str, target: str, table: Path) -> None:
    stream = [] if data == "parts" else ["--stream"]
    result = run("train", data, "--target", target, "--out", "m", "--epochs", 15, "--hidden", 32, *stream)
    assert "read as they are needed" in result.stdout
    assert "drawn row by row" in result.stdout
    name, bar = ("accuracy", 0.93) if target == "label" else ("r2", 0.97)
    assert score(result.stdout, name)[0] > bar
    whole = run("evaluate", "m", "t.csv", "--no-stream").stdout
    streamed = run("evaluate", "m", data, *stream).stdout
    for line in ("loss", name):
        assert score(streamed, line) == pytest.approx(score(whole, line), rel=1e-3)
    run("predict", "m", data, *stream, "--out", "p.csv")
    run("predict", "m", data, *stream, "--out", "p.parquet")
    run("predict", "m", "t.csv", "--no-stream", "--out", "whole.csv")
    found, other, expected = pd.read_csv("p.csv"), pd.read_parquet("p.parquet"), pd.read_csv("whole.csv")
    assert list(found.columns) == list(other.columns) == ["prediction"]
    if target == "price":
        assert np.allclose(found, expected, rtol=1e-4)
        assert np.allclose(other, expected, rtol=1e-4)
    else:
        assert (found == expected).all().all()
        assert (other == expected).all().all()


def test_streamed_predictions_are_printed_and_have_probabilities(table: Path) -> None:
    run("train", "parts", "--target", "label", "--out", "m", "--epochs", 2, "--hidden", "none")
    result = run("predict", "m", "parts", "--proba")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert len(rows) == 2000
    assert list(rows[0]) == ["prediction", "probability_old", "probability_young"]


def test_what_cannot_be_streamed_is_said(table: Path) -> None:
    np.savez("a.npz", x=np.eye(4), y=np.arange(4))
    assert "none of them" in refused("train", "a.npz", "--stream")
    assert "none of them" in refused("train", "iris", "--stream")
    Path("none").mkdir()
    assert "holds no Parquet files" in refused("train", "none")
    pd.read_parquet("t.parquet").rename(columns={"label": "kind"}).to_parquet("none/a.parquet")
    assert "as a target would be" in refused("train", "none")
    assert "unknown column 'nothing'" in refused("train", "parts", "--target", "nothing")
    frame = pd.read_parquet("t.parquet")
    frame.loc[1500, "price"] = np.nan
    frame.to_parquet("gaps.parquet")
    assert "1 of 2,000 rows have no target" in refused("train", "gaps.parquet", "--target", "price", "--stream")
    assert not Path("runs").exists()


def test_a_run_stopped_after_some_epochs_goes_on_to_the_same_model(table: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    from xpdense.checkpointing import Checkpoint

    options = ["--target", "price", "--epochs", 6, "--hidden", 16, "--checkpoint-every", "1epochs"]
    whole = run("train", "parts", *options, "--out", "whole")
    saved = Checkpoint._save

    def ends(self: Any, run: Any) -> None:
        saved(self, run)
        if run.history.epochs == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "_save", ends)
        result = run("train", "parts", *options, "--out", "half", code=130)
    assert "xpdense train --resume half goes on from step-" in result.stderr
    assert not Path("half/model").exists()
    again = run("train", "--resume", "half")
    assert "epoch 4/6" in again.stdout
    assert "epoch 3/6" not in again.stdout
    weights = [next(Path(name, "model").glob("weights-*")).read_bytes() for name in ("whole", "half")]
    assert weights[0] == weights[1]
    assert score(again.stdout, "r2") == score(whole.stdout, "r2")
    assert len(history("half")) == 6
    assert len(list(Path("half/checkpoints").iterdir())) >= 3
    assert "holds a run with checkpoints" in refused("train", "parts", *options, "--out", "half")


def test_checkpoints_that_nobody_asked_for_go_when_the_run_has_ended(table: Path) -> None:
    run("train", "t.csv", "--target", "price", "--epochs", 2, "--hidden", 8, "--out", "m")
    assert sorted(path.name for path in Path("m").iterdir()) == ["curves.png", "history.csv", "model", "run.json"]
    assert "nothing to go on with" in refused("train", "--resume", "m")


@pytest.mark.parametrize("value", ["0epochs", "-1steps", "often", "1.5steps", "", "10", "0s", "3 weeks"])
def test_how_often_must_be_a_number_and_a_unit(value: str, table: Path) -> None:
    assert "--checkpoint-every" in refused("train", "t.csv", "--target", "price", "--checkpoint-every", value)
    assert not Path("runs").exists()


def test_going_on_takes_its_options_from_the_run(table: Path) -> None:
    run("train", "t.csv", "--target", "price", "--epochs", 2, "--hidden", 8, "--out", "m", *EVERY)
    assert "leave out --seed" in refused("train", "--resume", "m", "--seed", 1)
    assert "leave out DATA" in refused("train", "t.csv", "--resume", "m")
    assert "has no run.json" in refused("train", "--resume", "nowhere")
    for text in ("{", "[]", '{"format": "xpdense-run", "version": 9, "options": {}}',
                 '{"format": "xpdense-run", "version": 1, "options": {"data": 5}}',
                 '{"format": "xpdense-run", "version": 1, "options": {"data": "t.csv", "__import__": "os"}}',
                 '{"format": "xpdense-run", "version": 1, "options": {"data": "t.csv", "seed": true}}'):
        Path("m/run.json").write_text(text)
        assert "cannot be read" in refused("train", "--resume", "m")


def test_data_that_have_changed_are_not_gone_on_with(table: Path) -> None:
    run("train", "t.csv", "--target", "price", "--epochs", 2, "--hidden", 8, "--out", "m", *EVERY)
    frame = pd.read_csv("t.csv")
    frame["price"] = frame["price"].to_numpy()[::-1]
    frame.to_csv("t.csv", index=False)
    result = run("train", "--resume", "m", code=2)
    assert "data was" in result.stderr
    assert "epoch" not in result.stdout


def test_what_fails_leaves_no_folders_behind(table: Path) -> None:
    wild = ["--optimizer", "sgd", "--learning-rate", "1e30"]
    run("train", "t.csv", "--target", "price", "--out", "new/deep/run", *wild, code=1)
    assert not Path("new").exists()
    run("train", "t.csv", "--target", "price", "--epochs", 1, "--hidden", "none", "--out", "m")
    assert "there is no folder" in refused("predict", "m", "t.csv", "--out", "new/deep/p.csv")
    assert not Path("new").exists()
