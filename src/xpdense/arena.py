"""The arena: all parameters of a network in one contiguous buffer, all gradients in another, and views into both.

Parameters with weight decay come first, so that weight decay applies to a prefix of the buffer and needs no mask. Each
tensor starts at a multiple of 16 elements (a cache line of float32); the elements between tensors are always zero. A
third buffer holds the state that is not trained, such as running means and variances.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .backend import Array, Backend
from .errors import positive_int
from .initializers import Initializer, as_initializer

ALIGNMENT = 16


@dataclass(frozen=True)
class Parameter:
    """The declaration of one array of a layer.

    Parameters
    ----------
    shape : tuple of int
    initializer : str or Initializer
    decay : bool
        Whether weight decay applies to the array: usually to weights, and not to biases and norms.
    trained : bool
        False for state that is saved but not trained, such as a running mean.

    Raises
    ------
    ParameterError
        A length in `shape` is not a positive integer.

    Examples
    --------
    >>> Parameter((3, 2), "he_normal", decay=True).size
    6
    """

    shape: tuple[int, ...]
    initializer: str | Initializer = "zeros"
    decay: bool = False
    trained: bool = True

    def __post_init__(self) -> None:
        for n in self.shape:
            positive_int("each length of a parameter's shape", n)

    @property
    def size(self) -> int:
        """Number of elements."""
        size = 1
        for n in self.shape:
            size *= n
        return size


class Arena:
    """The buffers of one network on one backend.

    Parameters
    ----------
    declared : mapping of str to Parameter
    backend : Backend
    dtype : str
        Element type of parameters and state.
    storage : str, optional
        Element type of gradients and working parameters, if it is another.

    Attributes
    ----------
    params, grads : array (size,)
        Parameters and their gradients, in the same order.
    working : array (size,)
        The parameters as the products read them: `params` itself, or a copy of it in the 16-bit type of `grads`.
    state : array (state_size,)
        State that is not trained.
    decay_size : int
        Weight decay applies to `params[:decay_size]`.

    Raises
    ------
    MemoryLimitError
        Training would need more memory than the device has.

    Examples
    --------
    >>> from xpdense.backend import resolve
    >>> declared = {"0.weight": Parameter((3, 2), decay=True), "0.bias": Parameter((2,))}
    >>> arena = Arena(declared, resolve("numpy"), "float32")
    >>> arena.params.shape, arena.decay_size, arena.values("0.weight").shape
    ((32,), 16, (3, 2))
    """

    def __init__(self, declared: Mapping[str, Parameter], backend: Backend, dtype: str,
                 storage: str | None = None) -> None:
        self.declared = dict(declared)
        self.backend, self.dtype = backend, dtype
        self._offsets: dict[str, int] = {}
        trained = [n for n, p in declared.items() if p.trained]
        size = self._lay_out([n for n in trained if declared[n].decay], 0)
        self.decay_size = size
        size = self._lay_out([n for n in trained if not declared[n].decay], size)
        state_size = self._lay_out([n for n, p in declared.items() if not p.trained], 0)
        item = np.dtype(dtype).itemsize
        backend.check_memory(4 * size * item, f"training a network of {size:,} parameters in {dtype}")
        self.params = backend.zeros((size,), dtype)  # (size,)
        self.grads = backend.zeros((size,), storage or dtype)  # (size,)
        self.working = self.params if storage in (None, dtype) else backend.zeros((size,), storage)  # (size,)
        self.state = backend.zeros((state_size,), dtype)  # (state_size,)

    def _lay_out(self, names: list[str], offset: int) -> int:
        for name in names:
            self._offsets[name] = offset
            offset += -(-self.declared[name].size // ALIGNMENT) * ALIGNMENT
        return offset

    def view(self, buffer: Array, name: str) -> Array:
        """Return a writable view of the tensor `name` in `buffer`, which is laid out as `params` or as `state`."""
        parameter, start = self.declared[name], self._offsets[name]
        return self.backend.xp.reshape(buffer[start : start + parameter.size], parameter.shape, copy=False)

    def values(self, name: str) -> Array:
        """Return a writable view of the parameter or state tensor `name`."""
        return self.view(self.params if self.declared[name].trained else self.state, name)

    def working_values(self, name: str) -> Array:
        """Return a view of the tensor `name` as the layers read it: see `working`."""
        return self.view(self.working, name) if self.declared[name].trained else self.values(name)

    def initialize(self, seed: int) -> None:
        """Draw the values of every tensor; the same seed gives the same values on every backend."""
        for position, (name, parameter) in enumerate(self.declared.items()):
            rng = np.random.default_rng([seed, position])
            self.write(name, as_initializer(parameter.initializer).draw(rng, parameter.shape))

    def write(self, name: str, values: np.ndarray) -> None:
        """Set the tensor `name` from a NumPy array of its shape."""
        with np.errstate(under="ignore"):
            cast = np.array(values, dtype=self.dtype)
        self.values(name)[...] = self.backend.from_host(cast)

    def to_host(self) -> dict[str, np.ndarray]:
        """Return copies of all tensors, trained or not, by name, as NumPy arrays."""
        return {name: np.array(self.backend.to_host(self.values(name))) for name in self.declared}

    def snapshot(self, into: tuple[Array, Array] | None = None) -> tuple[Array, Array]:
        """Return a copy of parameters and state, for `restore`; `into` is an earlier copy, whose memory is reused."""
        xp = self.backend.xp
        if into is None:
            return xp.asarray(self.params, copy=True), xp.asarray(self.state, copy=True)
        into[0][...], into[1][...] = self.params, self.state
        return into

    def restore(self, saved: tuple[Array, Array]) -> None:
        """Write the values of a snapshot to parameters and state, in place."""
        self.params[...], self.state[...] = saved
        self.refresh()

    def refresh(self) -> None:
        """Copy `params` to `working`; needed after anything other than an update has written to `params`."""
        if self.working is not self.params:
            self.working[...] = self.params
