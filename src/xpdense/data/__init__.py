"""Data: the one way in (`dataset`), which are arrays (`arrays`, `sparse`) or streams (`stream`), and the batches that a
training takes from them (`feeding`, `prefetch`); the encoding of tables (`columns`, `table`, `target`, together in
`preprocessing`); the readers of files (`csv`, `parquet`, `npy`), which return whole tables (`datasets`) or are read
chunk by chunk (`sources`); and the writer of predictions (`writing`)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .arrays import Rows as Rows
    from .arrays import prepared as prepared
    from .dataset import ArrayDataset as ArrayDataset
    from .dataset import Dataset as Dataset
    from .dataset import as_dataset as as_dataset
    from .feeding import Batches as Batches
    from .feeding import Feed as Feed
    from .feeding import InMemory as InMemory
    from .stream import Stream as Stream
    from .stream import open as open

_PLACES = {"open": "stream", "Stream": "stream", "Dataset": "dataset", "ArrayDataset": "dataset",
           "as_dataset": "dataset", "Rows": "arrays", "prepared": "arrays", "Feed": "feeding", "InMemory": "feeding",
           "Batches": "feeding"}
__all__ = list(_PLACES)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'xpdense.data' has no attribute {name!r}")
    return getattr(import_module(f"xpdense.data.{_PLACES[name]}"), name)
