"""Predictions and scores, made in bounded parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from .backend import Array, Backend, host
from .data.arrays import Held, Rows, moved, stored
from .layers import Tape, forward
from .losses import Loss
from .metrics import Metric
from .network import Network


def batch_rows(network: Network) -> int:
    """Rows that are worked on at once outside training: as many as keep the widest layer near 2**21 elements."""
    return max(1, 2**21 // max(network.widths()))


def parts(network: Network, x: Any) -> Iterator[Any]:
    """x (n, inputs), of any place, in slices of at most `batch_rows` rows."""
    n, rows = int(x.shape[0]), batch_rows(network)
    for i in range(0, n, rows):
        yield x[i : min(i + rows, n), ...]


def bounded(network: Network, found: Iterable[Rows]) -> Iterator[Rows]:
    """Rows that come in parts, in parts of at most `batch_rows`."""
    most = batch_rows(network)
    for rows in found:
        for i in range(0, rows.count, most):
            weight = None if rows.weight is None else rows.weight[i : i + most]
            yield Rows(rows.x[i : i + most], rows.y[i : i + most], weight)


def slices_of(network: Network, rows: Rows) -> Iterator[Array]:
    """The features of rows in slices of at most `batch_rows`, on the network's backend."""
    return (stored(x, network.backend) for x in parts(network, rows.x))


def logits(network: Network, slices: Iterable[Array]) -> Iterator[Array]:
    """The logits of each slice in the network's dtype, in memory that the next one uses again."""
    tape, ops = Tape(), network.ops
    network.arena.refresh()
    for x in slices:
        z = forward(ops, network.layers, x, tape)
        yield z if ops.wide == ops.dtype else ops.xp.astype(z, network.backend.dtype(ops.wide))


def outputs(network: Network, slices: Iterable[Array], function: Callable[[Any, Array], Array],
            place: Backend) -> Array:
    """`function(xp, logits)` of each slice, one after the other, as one array (n, ...) of `place`."""
    xp = network.ops.xp
    with network.backend.active(), np.errstate(all="ignore"):
        out = [moved(xp.asarray(function(xp, z), copy=True), network.backend, place) for z in logits(network, slices)]
    with place.active():
        return out[0] if len(out) == 1 else place.xp.concat(out, axis=0)


def evaluate(network: Network, slices: Iterable[Array], rows: Rows, loss: Loss,
             metrics: Sequence[Metric]) -> dict[str, float]:
    """Mean loss over the rows, weighted where they have weights, and the metrics.

    `slices` are the features of `rows`, one slice after the other; targets and weights are taken from `rows`.
    """
    def parts() -> Iterator[Rows]:
        start = 0
        for x in slices:
            end = start + int(x.shape[0])
            yield Rows(x, rows.y[start:end, ...], None if rows.weight is None else rows.weight[start:end])
            start = end

    return evaluate_parts(network, parts(), loss, metrics)


def evaluate_parts(network: Network, parts: Iterable[Rows], loss: Loss, metrics: Sequence[Metric]) -> dict[str, float]:
    """The same, of rows that come in parts; metrics keep a prediction and a target for each row."""
    backend, xp, held = network.backend, network.ops.xp, list[Rows]()
    total, mass, kept = 0.0, 0.0, []

    def slices() -> Iterator[Array]:
        for part in parts:
            held[:] = [part]
            yield stored(part.x, backend)

    for z in logits(network, slices()):
        part = held[0]
        weight = None if part.weight is None else np.asarray(host(part.weight), np.float64)
        share = float(z.shape[0]) if weight is None else float(weight.sum())
        value, _ = loss(network.ops, z, stored(part.y, backend),
                        None if part.weight is None else stored(part.weight, backend))
        total, mass = total + float(value) * share, mass + share
        if metrics:
            kept.append((np.array(host(part.y)), np.array(backend.to_host(loss.link(xp, z))), weight))
    values = {"loss": total / mass}
    if metrics:
        target, prediction = (np.concatenate(column) for column in list(zip(*kept, strict=True))[:2])
        weight = None if kept[0][2] is None else np.concatenate([row[2] for row in kept])
        values |= {metric.name: metric(loss, target, prediction, weight) for metric in metrics}
    return values


def measured(network: Network, rows: Rows | Held, loss: Loss, metrics: Sequence[Metric]) -> dict[str, float]:
    if isinstance(rows, Rows):
        return evaluate(network, slices_of(network, rows), rows, loss, metrics)
    return evaluate_parts(network, bounded(network, rows.parts()), loss, metrics)
