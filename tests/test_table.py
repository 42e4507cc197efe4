"""Tables and data sets: what becomes of columns and targets, what is learnt from which rows, and what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from xpdense.data import datasets, table, target
from xpdense.data.table import TableEncoder
from xpdense.data.target import TargetEncoder
from xpdense.errors import (
    ArrayTypeError,
    DataError,
    FileFormatError,
    ModelFileError,
    NonFiniteDataError,
    ParameterError,
    ShapeError,
    TargetError,
    UnknownNameError,
)

pd = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")
pytest.importorskip("sklearn")


@pytest.fixture
def people() -> object:
    return pd.DataFrame({"age": [20.0, 30.0, np.nan, 40.0], "city": ["Rome", "Oslo", "Rome", None],
                         "vip": [True, False, True, True]})


# --- features --------------------------------------------------------------------------------------------------

def test_numbers_are_standardised_and_missing_ones_become_the_mean(people):
    x = TableEncoder.fit(people[["age"]]).transform(people)
    np.testing.assert_allclose(x[:, 0], [-np.sqrt(1.5), 0.0, 0.0, np.sqrt(1.5)])


def test_booleans_are_numbers_also_where_some_are_missing():
    values = pd.DataFrame({"a": pd.Series([True, False, None, True], dtype=object)})
    x = TableEncoder.fit(values).transform(values)
    assert x.shape == (4, 1)
    assert x[2, 0] == 0.0
    assert x[0, 0] == x[3, 0] > 0 > x[1, 0]


def test_categories_are_one_hot_and_a_missing_one_has_a_feature_of_its_own(people):
    encoder = TableEncoder.fit(people[["city"]])
    assert encoder.features == ["city=Oslo", "city=Rome", "city missing"]
    np.testing.assert_array_equal(encoder.transform(people), [[0, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])


def test_a_category_never_seen_is_all_zeros_and_so_is_a_missing_one_that_training_had_not():
    encoder = TableEncoder.fit(pd.DataFrame({"c": ["a", "b", "a"]}))
    assert not encoder.transform(pd.DataFrame({"c": ["new", None]})).any()


def test_categories_of_one_value_are_the_same_however_the_file_types_them():
    encoder = TableEncoder.fit(pd.DataFrame({"c": ["1", "2", "x", "1"]}))
    for values in (["1", "2"], [1, 2], [1.0, 2.0]):
        np.testing.assert_array_equal(encoder.transform(pd.DataFrame({"c": values})), [[1, 0, 0], [0, 1, 0]])


def test_only_the_rows_that_it_was_fitted_on_teach_an_encoder(people):
    encoder = TableEncoder.fit(people.iloc[:2])
    assert encoder.columns[0].mean == 25.0
    assert encoder.columns[0].scale == 5.0
    encoder.transform(people)
    assert encoder.columns[0].mean == 25.0


def test_a_constant_column_is_zero_and_never_divides_by_zero():
    for value in (0.0, 0.1, 1e300):
        frame = pd.DataFrame({"a": [value] * 7})
        assert not TableEncoder.fit(frame).transform(frame).any()


def test_huge_values_keep_a_finite_scale_and_an_outlier_is_cut_off():
    frame = pd.DataFrame({"a": [1e300, -1e300, 0.0]})
    encoder = TableEncoder.fit(frame)
    assert np.isfinite(encoder.columns[0].scale)
    np.testing.assert_allclose(encoder.transform(frame)[:, 0], [np.sqrt(1.5), -np.sqrt(1.5), 0.0])
    assert abs(TableEncoder.fit(pd.DataFrame({"a": [0.0, 1.0]})).transform(pd.DataFrame({"a": [1e9]}))) == table.CUT_OFF


def test_columns_that_teach_nothing_are_left_out_and_named():
    frame = pd.DataFrame({"good": [1.0, 2.0, 3.0], "id": ["u1", "u2", "u3"], "none": [np.nan] * 3,
                          "when": pd.date_range("2020-01-01", periods=3), "lists": [[1], [2], [3]]})
    encoder = TableEncoder.fit(frame)
    assert encoder.features == ["good"]
    for name in ("id", "none", "when", "lists"):
        assert any(repr(name) in note for note in encoder.notes)
    with pytest.raises(DataError, match=r"no column is left.*'id'"):
        TableEncoder.fit(frame[["id", "none"]])


def test_the_hundred_most_frequent_categories_are_kept():
    values = [f"c{i:03d}" for i in range(150)] + [f"c{i:03d}" for i in range(50, 150)]
    encoder = TableEncoder.fit(pd.DataFrame({"c": values}))
    assert encoder.columns[0].categories == tuple(f"c{i:03d}" for i in range(50, 150))
    assert any("150 categories" in note for note in encoder.notes)


def test_numbers_with_a_stray_word_among_them_are_pointed_out():
    encoder = TableEncoder.fit(pd.DataFrame({"a": ["1", "2", "?", "1"]}))
    assert any("'?'" in note for note in encoder.notes)


def test_an_infinity_is_refused_by_column_and_row():
    with pytest.raises(NonFiniteDataError, match=r"'a' holds inf \(row 2\)"):
        TableEncoder.fit(pd.DataFrame({"a": [1.0, np.inf]}))


def test_what_the_model_needs_and_the_data_lack_is_named(people):
    encoder = TableEncoder.fit(people)
    with pytest.raises(DataError, match="no column 'city'"):
        encoder.transform(people.drop(columns="city"))
    with pytest.raises(DataError, match=r"'age' holds 'old' \(row 1\)"):
        encoder.transform(pd.DataFrame({"age": ["old"], "city": ["Rome"], "vip": [True]}))


def test_columns_that_it_does_not_know_and_their_order_make_no_difference(people):
    encoder = TableEncoder.fit(people)
    shuffled = people.assign(extra=1)[["extra", "vip", "city", "age"]]
    np.testing.assert_array_equal(encoder.transform(shuffled), encoder.transform(people))


def test_an_encoder_comes_back_from_json_as_it_was(people):
    encoder = TableEncoder.fit(people)
    state = encoder.to_dict()
    assert json.loads(json.dumps(state)) == state
    again = TableEncoder.from_dict(json.loads(json.dumps(state)))
    np.testing.assert_array_equal(again.transform(people), encoder.transform(people))


@pytest.mark.parametrize("damage", [
    lambda s: s.pop("columns"), lambda s: s.update(inputs=3), lambda s: s["columns"][0].update(kind="magic"),
    lambda s: s["columns"][0].update(scale=0.0), lambda s: s["columns"][0].update(mean=float("nan")),
    lambda s: s["columns"][0].pop("mean"), lambda s: s["columns"][0].update(more=1),
    lambda s: s["columns"][1].update(categories=["a", "a"]), lambda s: s["columns"][1].update(categories=[1]),
    lambda s: s["columns"][1].update(missing="no"), lambda s: s["columns"].append(s["columns"][0]),
    lambda s: s["inputs"].remove("age"), lambda s: s.update(columns=[]),
])
def test_a_damaged_encoder_is_refused(people, damage):
    state = TableEncoder.fit(people).to_dict()
    damage(state)
    with pytest.raises(ModelFileError, match="damaged"):
        TableEncoder.from_dict(state)


# --- targets ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("values", "task"), [
    (["a", "b", "a", "c", "b"], "multi-class"), (["a", "b", "a"], "binary"), ([True, False, True], "binary"),
    ([0, 1, 1], "binary"), ([0.0, 1.0, 1.0], "binary"), (list(range(20)) * 2, "multi-class"),
    (list(range(21)) * 2, "regression"), ([1, 2, 3, 4, 5], "regression"), ([0.5, 1.0, 0.5], "regression"),
    (pd.Categorical(["u", "v", "u"]), "binary"),
])
def test_a_target_tells_its_task(values, task):
    assert TargetEncoder.infer("y", pd.Series(values)).task == task


@pytest.mark.parametrize("values", [["b", "a", "b"], [7, 3, 7], [True, False, True], [1.5, 0.5, 1.5]])
def test_labels_come_out_as_they_went_in(values):
    series = pd.Series(values)
    target = TargetEncoder.infer("y", series, "binary")
    numbers = target.encode(series)
    assert list(target.classes) == sorted(set(values))
    assert target.decoded(np.eye(2)[numbers]) == values  # softmax, two outputs
    assert target.decoded(numbers[:, None].astype(float)) == values  # one output
    assert TargetEncoder.from_dict(json.loads(json.dumps(target.to_dict()))) == target


def test_a_regression_comes_back_in_its_own_units():
    series = pd.Series([10.5, 20.0, 33.0])
    target = TargetEncoder.infer("y", series)
    values = target.encode(series)
    target = target.standardised(values[:2])
    assert (target.mean, target.scale) == (15.25, 4.75)
    np.testing.assert_allclose(target.decoded(target.scaled(values)[:, None]), series)


def test_probabilities_have_a_column_per_class():
    target = TargetEncoder("y", "binary", ("no", "yes"))
    np.testing.assert_allclose(target.probabilities(np.array([[0.25]])), [[0.75, 0.25]])


@pytest.mark.parametrize(("values", "task", "message"), [
    (["a", None, "b"], None, "1 of 3 rows have no target"), ([1, 1, 1], None, "one value only"),
    (["a", "b", "c"], None, "class of its own"), (["a", "b", "c", "a"], "binary", "3 classes"),
    (["a", "b"], "regression", "regression needs numbers"),
])
def test_a_target_that_cannot_serve_is_refused(values, task, message):
    with pytest.raises(TargetError, match=message):
        TargetEncoder.infer("y", pd.Series(values), task)


def test_a_label_that_the_model_does_not_know_is_named():
    target = TargetEncoder.infer("y", pd.Series(["a", "b"]))
    with pytest.raises(TargetError, match=r"'c'.*a, b"):
        target.encode(pd.Series(["a", "c"]))


@pytest.mark.parametrize("damage", [{"task": "magic"}, {"classes": ["a"]}, {"classes": ["a", "a"]}, {"scale": 0.0},
                                    {"classes": [["a"], ["b"]]}, {"target": 1}, {"mean": None}, {"classes": 5}])
def test_a_damaged_target_is_refused(damage):
    with pytest.raises(ModelFileError, match="damaged"):
        TargetEncoder.from_dict(TargetEncoder("y", "binary", ("a", "b")).to_dict() | damage)


def test_a_loss_must_fit_the_task():
    assert target.as_task_loss("regression", None) == "squared_error"
    assert target.as_task_loss("binary", "softmax_cross_entropy") == "softmax_cross_entropy"
    with pytest.raises(ParameterError, match="--task regression"):
        target.as_task_loss("multi-class", "squared_error")
    with pytest.raises(UnknownNameError, match="Known: absolute_error"):
        target.as_task_loss("binary", "nope")
    with pytest.raises(UnknownNameError, match="binary, multi-class, regression"):
        target.as_task("regresion")


# --- reading ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("name", "shape"), [("digits", (1797, 65)), ("iris", (150, 5)), ("wine", (178, 14)),
                                             ("breast_cancer", (569, 31)), ("diabetes", (442, 11)), ("xor", (4, 3))])
def test_the_known_sets_are_read_by_name(name, shape):
    found = datasets.read(name)
    assert found.frame.shape == shape
    assert found.column(None) == found.target
    assert found.whole == (name == "xor")


def test_what_is_neither_set_nor_file_lists_the_sets():
    with pytest.raises(UnknownNameError, match=r"mean 'digits'.*breast_cancer, diabetes, digits, iris, wine, xor"):
        datasets.read("digit")


def _write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz", "a.CSV", "packed.csv", "a.parquet"])
def test_every_kind_of_file_gives_the_same_table(tmp_path, name):
    frame = pd.DataFrame({"a": [1.5, None, 3.0], "b": ["x", None, "z"], "y": [0, 1, 0]})
    path = tmp_path / name
    if name == "a.parquet":
        frame.to_parquet(path)
    else:
        text = frame.to_csv(index=False, sep="\t" if "tsv" in name else ",").encode()
        path.write_bytes(gzip.compress(text) if "gz" in name or "packed" in name else text)
    found = datasets.read(str(path))
    assert found.name == path.name.split(".")[0]
    assert found.target == "y"
    pd.testing.assert_frame_equal(found.frame, frame, check_dtype=False)


@pytest.mark.parametrize(("name", "content", "message"), [
    ("a.csv", "", "is empty"), ("a.csv", "a,y\n", "no rows"), ("a.csv", "a,y\n1,0\n1,2,3\n", "line 3 .* 3 fields"),
    ("a.csv", "a,y\n1,0\n\n7\n", "line 4 .* 1 fields"), ("a.csv", "a,a,y\n1,2,0\n", "more than one column called 'a'"),
    ("a.csv", "a;y\n1;0\n", "separate columns by commas"), ("a.csv", "a,y\né,1\n".encode("latin-1"), "not UTF-8"),
    ("a.csv", "a,y\n1,0\n".encode("utf-16-le"), "zero bytes"), ("a.csv", bytes(range(256)), "a.csv"),
    ("a.csv.gz", gzip.compress(b"a,y\n1,0\n", mtime=0)[:-6], "damaged gzip"), ("a.parquet", b"PAR1junkPAR1", "Parquet"),
    ("a.npz", b"junk", "not an npz"), ("a.txt", "a,y\n", "unsupported file extension"),
])
def test_a_file_that_cannot_be_read_says_why(tmp_path, name, content, message):
    with pytest.raises(FileFormatError, match=message):
        datasets.read(_write(tmp_path / name, content))


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(FileFormatError, match="holds no Parquet files"):
        datasets.read(str(tmp_path))


def test_a_quoted_line_break_does_not_make_a_line_ragged(tmp_path):
    assert datasets.read(_write(tmp_path / "a.csv", 'a,y\n"x\ny",0\nz,1\n')).frame.shape == (2, 2)


def test_the_target_is_never_guessed(tmp_path):
    found = datasets.read(_write(tmp_path / "a.csv", "a,Price\n1,2\n"))
    with pytest.raises(DataError, match=r"no column is called.*a, Price"):
        found.column(None)
    with pytest.raises(UnknownNameError, match="mean 'Price'"):
        found.column("price")
    with pytest.raises(DataError, match="target and y may be"):
        datasets.read(_write(tmp_path / "b.csv", "y,target\n1,2\n")).column(None)


def test_npz_gives_columns_in_order_under_the_names_of_the_model(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.arange(6.0).reshape(3, 2), y=[0, 1, 0])
    assert list(datasets.read(str(path)).frame.columns) == ["x0", "x1", "y"]
    named = datasets.read(str(path), columns=["y", "b"], target="t")
    assert list(named.frame.columns) == ["y", "b", "t"]
    assert named.target == "t"
    with pytest.raises(ShapeError, match="2 columns, and the model was trained on 3"):
        datasets.read(str(path), columns=["a", "b", "c"])


class _Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('code was run')",)


@pytest.mark.parametrize(("arrays", "error", "message"), [
    ({"y": np.zeros(2)}, FileFormatError, "no array 'x'"), ({"x": np.zeros((2, 2))}, FileFormatError, "no array 'y'"),
    ({"x": np.array([[_Bomb()]], dtype=object), "y": np.zeros(1)}, FileFormatError, "never unpickled"),
    ({"x": np.zeros((2, 2)), "y": np.array([_Bomb(), 1], dtype=object)}, FileFormatError, "never unpickled"),
    ({"x": np.zeros(2), "y": np.zeros(2)}, ShapeError, r"\(rows, features\)"),
    ({"x": np.zeros((2, 2)), "y": np.zeros(3)}, ShapeError, "one value for each row"),
    ({"x": np.zeros((0, 2)), "y": np.zeros(0)}, ShapeError, "shape"),
    ({"x": np.zeros((2, 2), complex), "y": np.zeros(2)}, ArrayTypeError, "complex"),
])
def test_npz_arrays_that_cannot_serve_are_refused_and_never_unpickled(tmp_path, arrays, error, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(error, match=message):
        datasets.read(str(tmp_path / "a.npz"))


# --- splitting -------------------------------------------------------------------------------------------------

def test_a_split_keeps_every_row_once_and_the_share_of_each_class():
    classes = np.repeat([0, 1], [80, 20])
    kept, out, stratified = datasets.stratified_split(np.arange(100), 0.2, classes, 0, "test")
    assert stratified
    assert sorted([*kept, *out]) == list(range(100))
    assert classes[out].sum() == 4
    np.testing.assert_array_equal(out, datasets.stratified_split(np.arange(100), 0.2, classes, 0, "test")[1])
    assert not np.array_equal(out, datasets.stratified_split(np.arange(100), 0.2, classes, 2**40 + 1, "test")[1])


def test_a_class_of_one_row_is_split_without_regard_to_classes():
    assert not datasets.stratified_split(np.arange(10), 0.2, np.array([0] * 9 + [1]), 0, "test")[2]


def test_a_split_that_would_leave_nothing_is_refused():
    with pytest.raises(DataError, match="1 row cannot be split"):
        datasets.stratified_split(np.arange(1), 0.2, None, 0, "test")


def test_many_categories_in_several_columns_each_have_a_feature_of_their_own():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({name: [f"{name}{i}" for i in rng.integers(0, 60, 3000)] for name in "abc"})
    frame["n"] = rng.standard_normal(3000)
    frame.loc[:9, "b"] = None
    encoder = TableEncoder.fit(frame)
    x = encoder.transform(frame)
    expected = pd.get_dummies(frame, columns=list("abc"), prefix_sep="=", dtype=float)
    assert x.shape == (3000, 182)
    for position, feature in enumerate(encoder.features):
        values = frame["b"].isna() if feature == "b missing" else expected[feature] if feature != "n" else None
        if values is not None:
            assert np.array_equal(x[:, position], values), feature
