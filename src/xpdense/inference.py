"""Predictions and scores, made in bounded parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from .backend import Array, Backend, host
from .data.arrays import Rows, moved, stored
from .errors import DataError
from .layers import Tape, forward
from .losses import Loss
from .metrics import Metric
from .network import Network


def logits(network: Network, parts: Iterable[Rows]) -> Iterator[tuple[Rows, Array]]:
    """The logits (rows, outputs) of each part in the network's dtype, in memory that the next ones use again.

    Parts that are larger than the network should be given at once are cut.
    """
    tape, ops = Tape(), network.ops
    network.arena.refresh()
    for rows in parts:
        for part in rows.parts(network.part_rows):
            z = forward(ops, network.layers, stored(part.x, network.backend), tape)
            yield part, z if ops.wide == ops.dtype else ops.xp.astype(z, network.backend.dtype(ops.wide))


def outputs(network: Network, parts: Iterable[Rows], function: Callable[[Any, Array], Array],
            place: Backend) -> Array:
    """`function(xp, logits)` of each part, one after the other, as one array (n, ...) on the backend `place`.

    Examples
    --------
    >>> import xpdense as xd
    >>> network = xd.DenseNetwork([xd.Dense(2, initializer="zeros")], inputs=3)
    >>> rows = Rows(np.ones((4, 3), "float32"), None, None)
    >>> outputs(network, [rows], lambda xp, z: z + 1.0, network.backend).shape
    (4, 2)
    """
    xp = network.ops.xp
    with network.backend.active(), np.errstate(all="ignore"):
        found = [moved(xp.asarray(function(xp, z), copy=True), network.backend, place)
                 for _, z in logits(network, parts)]
    with place.active():
        return found[0] if len(found) == 1 else place.xp.concat(found, axis=0)


def evaluate(network: Network, parts: Iterable[Rows], loss: Loss, metrics: Sequence[Metric]) -> dict[str, float]:
    """The mean loss over the rows, weighted where they have weights, and the metrics.

    Examples
    --------
    >>> import xpdense as xd
    >>> network = xd.DenseNetwork([xd.Dense(1, initializer="zeros")], inputs=3)
    >>> rows = Rows(np.ones((4, 3), "float32"), np.ones((4, 1), "float32"), None)
    >>> evaluate(network, [rows], xd.SquaredError(), [])
    {'loss': 1.0}
    """
    backend, xp = network.backend, network.ops.xp
    total, total_weight, scores = 0.0, 0.0, [metric.accumulator(loss) for metric in metrics]
    for part, z in logits(network, parts):
        weight = None if part.weight is None else np.asarray(host(part.weight), np.float64)
        part_weight = float(z.shape[0]) if weight is None else float(weight.sum())
        value, _ = loss(network.ops, z, stored(part.y, backend),
                        None if part.weight is None else stored(part.weight, backend))
        total, total_weight = total + float(value) * part_weight, total_weight + part_weight
        if scores:
            target, prediction = np.array(host(part.y)), np.array(backend.to_host(loss.link(xp, z)))
            for score in scores:
                score.add(target, prediction, weight)
    if not total_weight:
        raise DataError("the weight is zero for every row: there is no mean")
    return {"loss": total / total_weight,
            **{metric.name: score.value() for metric, score in zip(metrics, scores, strict=True)}}
