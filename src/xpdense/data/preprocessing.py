"""What a network that was trained on a table knows of it: how columns become features, and outputs labels or values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .table import TableEncoder
from .target import TargetEncoder


@dataclass(frozen=True)
class Preprocessing:
    """The encoders of a table's columns and of its target; the member `preprocessing` of a network.

    Attributes
    ----------
    table : TableEncoder
        Columns -> features.
    target : TargetEncoder
        Target -> what the network is trained on, and its outputs -> labels or values.
    data_name : str or None
        Name of the data set.

    Examples
    --------
    >>> import pandas
    >>> frame = pandas.DataFrame({"age": [20.0, 30.0, 40.0], "y": ["no", "yes", "no"]})
    >>> found = Preprocessing(TableEncoder.fit(frame[["age"]]), TargetEncoder.infer("y", frame["y"]), "people")
    >>> Preprocessing.from_dict(found.to_dict()).target.classes
    ('no', 'yes')
    """

    table: TableEncoder
    target: TargetEncoder
    data_name: str | None = None

    @property
    def text(self) -> list[str]:
        """The columns whose values are text, the target among them."""
        return [*self.table.text, *([self.target.column] if self.target.is_text else [])]

    def to_dict(self) -> dict[str, Any]:
        """The state for JSON, which `DenseNetwork.config` puts next to the entries of `extra`."""
        name = {} if self.data_name is None else {"data": self.data_name}
        return {**name, "table": self.table.to_dict(), **self.target.to_dict()}

    @staticmethod
    def from_dict(state: dict[str, Any]) -> Preprocessing:
        """Rebuild it from a state, whose other entries are ignored.

        Raises
        ------
        ModelFileError
            The state is damaged.
        """
        name = state.get("data")
        return Preprocessing(TableEncoder.from_dict(state["table"]), TargetEncoder.from_dict(state),
                             name if isinstance(name, str) else None)

    @staticmethod
    def split(extra: dict[str, Any]) -> tuple[Preprocessing | None, dict[str, Any]]:
        """Divide the entries `extra` of a model file into the preprocessing, if all of it is there, and the user's own.

        Raises
        ------
        ModelFileError
            The preprocessing is damaged.

        >>> Preprocessing.split({"note": "mine"})
        (None, {'note': 'mine'})
        """
        if not extra.keys() >= {"table", "target", "task", "classes", "mean", "scale"}:
            return None, extra
        found = Preprocessing.from_dict(extra)
        taken = found.to_dict()
        return found, {key: value for key, value in extra.items() if key not in taken}
