"""Data: checked arrays and batches (`arrays`); a table's features (`table`), target (`target`) and the values of its
columns (`columns`); known sets and files (`datasets`); rows that are read when they are needed (`open`, in `stream`),
where they come from (`sources`), how they are fed to a training (`windows`), and the thread that reads ahead
(`prefetch`)."""

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
