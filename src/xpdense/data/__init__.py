"""Data: arrays and batches (`arrays`, `sparse`); the encoding of tables (`columns`, `table`, `target`, together in
`preprocessing`); the readers of files (`csv`, `parquet`, `npy`), which return whole tables (`datasets`) or are read
chunk by chunk (`sources`, `stream`, `windows`, `prefetch`); and the writer of predictions (`writing`)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["Stream", "open"]

if TYPE_CHECKING:
    from .stream import Stream as Stream
    from .stream import open as open


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'xpdense.data' has no attribute {name!r}")
    return getattr(import_module("xpdense.data.stream"), name)
