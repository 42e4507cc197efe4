"""Names for the constant by which a gradient is wrong: 1/batch, features/batch, 2 and similar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .chain import DenseLayer


def constant_name(constant: float, sizes: Mapping[str, int], tolerance: float = 1e-5) -> str | None:
    """Find the simplest product of 2 and of sizes that equals a constant.

    Parameters
    ----------
    constant : float
        Positive.
    sizes : mapping of names to int
    tolerance : float
        Relative.

    Returns
    -------
    str, optional
        All names that are equally simple, joined by "or"; None if no product equals the constant.

    >>> constant_name(569 / 30, {"batch": 569, "features": 30})
    'batch/features'
    >>> constant_name(0.5, {"batch": 8})
    '1/2'
    >>> constant_name(1.23, {"batch": 8}) is None
    True
    """
    bases = {name: float(size) for name, size in sizes.items() if size > 1}
    for level in _levels(bases):
        found = [text for text, value in level.items() if abs(value - constant) <= tolerance * constant]
        if found:
            return " or ".join(found)
    return None


def _levels(bases: dict[str, float]) -> list[dict[str, float]]:
    """Return the products by their names, the simplest ones first."""
    ratios = {f"{a}/{b}": x / y for a, x in bases.items() for b, y in bases.items() if a != b and x != y}
    single = bases | {f"1/{a}": 1.0 / x for a, x in bases.items()}
    doubled = {f"2 {a}": 2.0 * x for a, x in bases.items()} | {f"2/{a}": 2.0 / x for a, x in bases.items()}
    halved = {f"{a}/2": x / 2.0 for a, x in bases.items()} | {f"1/(2 {a})": 0.5 / x for a, x in bases.items()}
    squares = {f"{a}²": x * x for a, x in bases.items()} | {f"1/{a}²": 1.0 / (x * x) for a, x in bases.items()}
    products = {f"{a}·{b}": x * y for a, x in bases.items() for b, y in bases.items() if a < b}
    inverse = {f"1/({text})": 1.0 / value for text, value in products.items()}
    twos = {f"2 {text}": 2.0 * value for text, value in ratios.items()}
    halves = {f"{text}/2": value / 2.0 for text, value in ratios.items()}
    return [{"1": 1.0, "2": 2.0, "1/2": 0.5}, single, ratios, doubled | halved, squares | products | inverse,
            twos | halves, {"4": 4.0, "1/4": 0.25}]


def with_layer_sizes(sizes: Mapping[str, int], layers: Sequence[DenseLayer]) -> dict[str, int]:
    """Add the inputs and units of layers to named sizes; a number that has a name keeps it.

    >>> with_layer_sizes({"features": 3}, [DenseLayer("W1", None, 3, 2, False)])
    {'features': 3, 'units of W1': 2}
    """
    known = dict(sizes)
    for layer in layers:
        for name, number in ((f"inputs of {layer.weight}", layer.inputs), (f"units of {layer.weight}", layer.units)):
            if number not in known.values():
                known[name] = number
    return known


def scale_fix(name: str | None, constant: float) -> str:
    """Say how to remove a constant factor from a gradient.

    Parameters
    ----------
    name : str, optional
        From `constant_name`, possibly with a minus sign.
    constant : float
        Named if `name` is None.

    >>> scale_fix("batch", 40.0)
    'Divide it by the number of rows: the loss is a mean over the batch, the gradient a sum.'
    """
    first = (name or "").removeprefix("-").split(" or ")[0]
    if first == "batch":
        return "Divide it by the number of rows: the loss is a mean over the batch, the gradient a sum."
    if first == "1/batch":
        return "Divide it by the number of rows only once, or make the loss a mean over the batch as well."
    if first.startswith("batch/"):
        return f"Divide it by the number of rows instead of the {first.removeprefix('batch/')}."
    return f"Divide it by {name or format(constant, '.6g')}: the factor is in the loss or in the gradient alone."
