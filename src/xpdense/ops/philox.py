"""Counter-based random bits: Philox4x32-10, in integer array-API calls.

The bits are a function of a key and a counter, so they need no state, are the same on every backend, and can be drawn
again instead of being stored. Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011. Words of
32 bits are stored in int64, for which every namespace has multiplication and shifts; a product that overflows keeps its
low bits, which the masks select.
"""

from __future__ import annotations

from typing import Any

from ..backend import Array

_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW = 0xFFFFFFFF


def philox(counter: tuple[Any, Any, Any, Any], key: tuple[int, int]) -> tuple[Array, Array, Array, Array]:
    """Return four words of random bits for each counter.

    Parameters
    ----------
    counter : four int64 arrays or ints, each in [0, 2**32), that broadcast together
    key : two ints in [0, 2**32)

    Returns
    -------
    four int64 arrays of values in [0, 2**32)

    >>> [f"{word:08x}" for word in philox((0, 0, 0, 0), (0, 0))]
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = ((p1 >> 32) & _LOW) ^ c1 ^ k0, p1 & _LOW, ((p0 >> 32) & _LOW) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return c0, c1, c2, c3


def random_words(xp: Any, size: int, step: Array, key: tuple[int, int], device: Any) -> Array:
    """Return `size` words of random bits, an int64 array (size,) of values in [0, 2**32).

    `step` is an int64 array (1,) on the device, the number of the training step. Element i is word i % 4 of the
    counter (i // 4, 0, step % 2**32, step // 2**32).

    >>> import numpy as np
    >>> random_words(np, 2, np.array([0]), (0, 0), None).tolist()
    [1713891541, 3781805453]
    """
    blocks = xp.arange((size + 3) // 4, dtype=xp.int64, device=device)  # (blocks,)
    words = philox((blocks & _LOW, blocks >> 32, step & _LOW, step >> 32), key)
    return xp.reshape(xp.stack(words, axis=-1), (-1,))[:size]
