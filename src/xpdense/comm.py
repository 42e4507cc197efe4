"""Sums over the processes of a training. `Solo` is one process, which has nothing to sum."""

from __future__ import annotations

from typing import Any, Protocol


class Comm(Protocol):
    """What a training needs of the processes that share it."""

    def sum_(self, buffer: Any) -> None:
        """Replace `buffer`, an array of any shape, by its sum over all processes."""


class Solo:
    """A single process.

    Examples
    --------
    >>> Solo().sum_("the buffer of the only process is the sum already")
    """

    def sum_(self, buffer: Any) -> None:
        """Leave `buffer` as it is."""
