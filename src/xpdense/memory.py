"""What a training needs of memory, checked before any of it is asked for."""

from __future__ import annotations

import numpy as np

from .backend import Backend
from .errors import MemoryLimitError
from .network import Network
from .optimizers import Optimizer


def check_memory(network: Network, optimizer: Optimizer, batch_size: int, place: Backend,
                 copies_ahead: int = 0) -> None:
    """Raise MemoryLimitError where a training needs more memory than is free on the backend `place`.

    It needs, for the parameters, the optimizer's state and two copies of both; for a batch, its features, and for
    each layer its output, what backward needs of it, and the gradients of both, and `copies_ahead` times the features
    of the rows that are read ahead. The network itself and the data are there already.
    """
    free = place.free()
    item, slots = np.dtype(network.dtype).itemsize, len(optimizer.slots)
    copies = item * (slots + 2 * (1 + slots)) * int(network.arena.params.shape[0])
    row = item * (4 * sum(network.widths()) + copies_ahead * network.inputs)
    if not free or copies + row * batch_size <= free:
        return
    fits = (free - copies) // row
    fits = 2 ** (fits.bit_length() - 1) if fits > 0 else 0
    advice = f"batch_size={fits:,} would fit." if fits else "No batch size fits: use fewer or narrower layers."
    raise MemoryLimitError(
        f"this training needs about {_size(copies + row * batch_size)} more, {_size(copies)} for the optimizer's state "
        f"and copies of the {network.size:,} parameters and {_size(row * batch_size)} for a batch of {batch_size:,} "
        f"rows; {place.name} has {_size(free)} free. {advice}")


def _size(count: int) -> str:
    """
    >>> _size(3 * 2**20)
    '3.0 MiB'
    """
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"
