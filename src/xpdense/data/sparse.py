"""Sparse features on the host, of which batches are expanded to dense rows."""

from __future__ import annotations

from typing import Any

import numpy as np


class SparseRows:
    """A SciPy CSR matrix (n, features) that returns dense rows.

    >>> from scipy.sparse import csr_array
    >>> SparseRows(csr_array([[0, 2], [3, 0]]), "float32")[np.array([1])]
    array([[3., 0.]], dtype=float32)
    """

    def __init__(self, matrix: Any, dtype: str) -> None:
        self._matrix = matrix.tocsr().astype(dtype, copy=False)
        self.shape, self.dtype, self.ndim = matrix.shape, self._matrix.dtype, 2

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Dense rows by numbers, a slice, or (slice, ...) as for an array."""
        dense: np.ndarray = self._matrix[rows[0] if isinstance(rows, tuple) else rows].toarray()
        return dense

    def some(self, rows: np.ndarray) -> SparseRows:
        """A sparse selection of rows."""
        return SparseRows(self._matrix[rows], str(self.dtype))

    def take(self, rows: np.ndarray, axis: int = 0, out: np.ndarray | None = None, mode: str = "raise") -> np.ndarray:
        """Dense rows by number, with the signature of `numpy.take`."""
        dense: np.ndarray = self._matrix[rows].toarray(out=out)
        return dense
