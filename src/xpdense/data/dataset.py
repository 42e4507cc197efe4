"""`Dataset`, the one way in for data, and `ArrayDataset`, which is that of arrays; `Stream` is the other one here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from ..backend import Backend, backend_of, host
from ..errors import ParameterError
from ..spec import Spec
from .arrays import Rows, as_array, features, labelled, prepared, shaped, split
from .feeding import Batches, Feed, InMemory
from .preprocessing import Preprocessing
from .sparse import SparseRows


class Dataset(Protocol):
    """Rows of features, with their targets and weights.

    Attributes
    ----------
    rows, inputs : int
        How many rows there are, and the features of each.
    preprocessing : Preprocessing or None
        What a network that is trained on these rows needs to predict for other tables.

    Notes
    -----
    Three more members are optional: `readable_once`, True if a second pass over the rows is impossible;
    `first(spec)`, rows from the beginning that a later pass still gets, by default those of the first part; and
    `copies_ahead`, how many copies of a batch's features are in memory because rows are read ahead, by default 0.

    Examples
    --------
    A data set of one's own that makes its rows when they are needed; `prepared` checks them:

    >>> from xpdense.data import ArrayDataset, Batches, InMemory, prepared
    >>> class Multiples:
    ...     rows, inputs, preprocessing = 100, 1, None
    ...
    ...     def _rows(self, spec):
    ...         x = np.arange(100.0)[:, None]
    ...         return prepared(x, 3.0 * x, None, spec)
    ...
    ...     def split(self, validation, *, seed):
    ...         x = np.arange(100.0)[:, None]
    ...         return ArrayDataset(x, 3.0 * x).split(validation, seed=seed)
    ...
    ...     def parts(self, spec):
    ...         return self._rows(spec).parts(32)
    ...
    ...     def feed(self, spec, batch_size, seed, shuffle):
    ...         return InMemory(self._rows(spec), Batches(100, batch_size, seed, shuffle))
    ...
    ...     def digest(self):
    ...         return "multiples of 3"
    >>> import xpdense as xd
    >>> net = xd.DenseNetwork([xd.Dense(1)], inputs=1)
    >>> net.evaluate(Multiples(), loss="squared_error")["loss"] > 0.0
    True
    """

    @property
    def rows(self) -> int: ...

    @property
    def inputs(self) -> int: ...

    @property
    def preprocessing(self) -> Preprocessing | None: ...

    def split(self, validation: float, *, seed: int) -> tuple[Dataset, ...]:
        """The rows to train on, and a fraction of them to validate by, drawn at random from a seed."""

    def parts(self, spec: Spec) -> Iterator[Rows]:
        """The rows in their own order, in parts of bounded size; without a loss in `spec`, their features only.

        What can be checked without a pass over the rows is checked when this is called. `Rows.on_host` says that the
        arrays are NumPy arrays, and the network may be elsewhere.
        """

    def feed(self, spec: Spec, batch_size: int, seed: int, shuffle: bool) -> Feed:
        """The batches of a training, each epoch in an order drawn from the seed."""

    def digest(self) -> str:
        """A checksum that tells these rows from others."""


class ArrayDataset:
    """Rows in arrays of any namespace, or a sparse matrix of features.

    They are checked and prepared for a network once; the parts of a split share that.

    Parameters
    ----------
    x : array (n, inputs)
    y : array (n, outputs) or (n,), optional
    sample_weight : array (n,), optional
    what : str
        What messages call the data set, such as "validation ".
    x_name : str
        What messages call the features.
    preprocessing : Preprocessing, optional
        The encoders by which the arrays were made from a table.

    Examples
    --------
    >>> training, validation = ArrayDataset(np.eye(10), np.arange(10.0)).split(0.2, seed=0)
    >>> training.rows, validation.rows, validation.inputs
    (8, 2, 10)
    """

    def __init__(self, x: Any, y: Any = None, sample_weight: Any = None, what: str = "", x_name: str = "x",
                 preprocessing: Preprocessing | None = None) -> None:
        self._given, self._what, self._x_name = (x, y, sample_weight), what, f"{what}{x_name}"
        self._whole: ArrayDataset = self  # of which these are some of the rows
        self._numbers: np.ndarray | None = None
        self._prepared: tuple[Spec, Rows] | None = None
        self.preprocessing = preprocessing

    @property
    def x(self) -> Any:
        """The features, as they were given."""
        return self._given[0]

    @property
    def _shape(self) -> tuple[int, int]:
        array = self.x if isinstance(self.x, SparseRows) else as_array(self.x, self._x_name)[0]
        if array.ndim != 2:
            shaped(self.x, -1, self._x_name)  # says what is wrong
        return int(array.shape[0]), int(array.shape[1])

    @property
    def rows(self) -> int:
        return self._shape[0] if self._numbers is None else len(self._numbers)

    @property
    def inputs(self) -> int:
        return self._shape[1]

    def split(self, validation: float, *, seed: int) -> tuple[ArrayDataset, ArrayDataset]:
        """Two data sets of rows drawn at random, of which the second holds this fraction of them."""
        first, second = split(self.rows, validation, seed)
        return self.some(first), self.some(second)

    def some(self, numbers: np.ndarray) -> ArrayDataset:
        """Some of the rows, by number."""
        part = ArrayDataset(*self._given, self._what, preprocessing=self.preprocessing)
        part._whole, part._numbers = self._whole, numbers if self._numbers is None else self._numbers[numbers]
        return part

    def head(self, rows: int = 10_000) -> tuple[np.ndarray, np.ndarray | None]:
        """The features (n, inputs) and targets of the first rows, as NumPy arrays, such as `diagnose` takes."""
        numbers = slice(rows) if self._numbers is None else self._numbers[:rows]
        x, y = (None if array is None else np.asarray(host(array))[numbers] for array in self._given[:2])
        assert x is not None
        return x, y

    def prepare(self, spec: Spec) -> Rows:
        """The rows, checked and where the network takes them; kept for the next call.

        Raises
        ------
        ShapeError, ArrayTypeError, NonFiniteDataError, DataError, TargetError
        """
        if self._prepared is None or self._prepared[0] != spec:
            if self._numbers is None:
                rows = prepared(*self._given, spec, self._what)
            else:
                rows = self._whole.prepare(spec).some(self._numbers)
            self._prepared = spec, rows
        return self._prepared[1]

    def parts(self, spec: Spec) -> Iterator[Rows]:
        x, y, weight = self._given
        ready = self._prepared is not None and self._prepared[0] == spec
        if ready or self._numbers is not None or isinstance(x, SparseRows):
            return iter([self.prepare(spec)])
        x, _ = shaped(x, spec.inputs, self._x_name)
        rows = labelled(x, y, weight, spec, self._what)
        return (Rows(features(part.x, spec, self._x_name), part.y, part.weight)
                for part in rows.parts(spec.part_rows))

    def feed(self, spec: Spec, batch_size: int, seed: int, shuffle: bool) -> InMemory:
        rows = self.prepare(spec)
        return InMemory(rows, Batches(rows.count, batch_size, seed, shuffle))

    def digest(self) -> str:
        """A checksum of the rows, as they were prepared last, or as they were given."""
        found = self._whole._prepared
        if found is not None:
            return self.prepare(found[0]).digest()
        x, y, weight = (None if array is None else host(array) for array in self._given)
        rows = Rows(x, y, weight)
        return (rows if self._numbers is None else rows.some(self._numbers)).digest()


def as_dataset(x: Any, y: Any = None, sample_weight: Any = None, what: str = "") -> Dataset:
    """The data set of arrays; one that is given already, which brings its own targets and weights, is returned.

    Raises
    ------
    ParameterError
        A data set comes with y or sample_weight.

    Examples
    --------
    >>> as_dataset(np.eye(3), np.arange(3.0)).rows
    3
    """
    if not is_dataset(x):
        return ArrayDataset(x, y, sample_weight, what)
    if y is not None or sample_weight is not None:
        raise ParameterError("a data set brings its own y and weights: leave them out")
    found: Dataset = x
    return found


def is_dataset(x: Any) -> bool:
    """Whether an object has the methods of a `Dataset`."""
    return all(callable(getattr(type(x), name, None)) for name in ("split", "parts", "feed", "digest"))


def first_rows(data: Dataset, spec: Spec) -> Rows:
    """Rows from the beginning of a data set, which a later pass still gets.

    >>> import xpdense as xd
    >>> spec = xd.DenseNetwork([xd.Dense(1)], inputs=3).spec(xd.SquaredError())
    >>> first_rows(ArrayDataset(np.eye(3), np.arange(3.0)), spec).count
    3
    """
    first = getattr(data, "first", None)
    rows: Rows = next(iter(data.parts(spec))) if first is None else first(spec)
    return rows


def place_of(x: Any) -> Backend | None:
    """The backend of an array, or of those of an ArrayDataset; None for other data sets, and for other objects, which
    NumPy converts."""
    x = x.x if isinstance(x, ArrayDataset) else x
    return None if is_dataset(x) or isinstance(x, SparseRows) else backend_of(x)
