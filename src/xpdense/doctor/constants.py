"""Names for the constants by which a gradient is off: 1/batch, features/batch, 2 and the like."""

from __future__ import annotations

from collections.abc import Mapping


def named(constant: float, sizes: Mapping[str, int], tolerance: float = 1e-5) -> str | None:
    """The simplest product of 2 and of the sizes that is `constant`; all of the equally simple ones; None if none is.

    Parameters
    ----------
    constant : float
        Positive.
    sizes : mapping of names to numbers
    tolerance : float
        Relative.

    >>> named(569 / 30, {"batch": 569, "features": 30})
    'batch/features'
    >>> named(0.5, {"batch": 8})
    '1/2'
    >>> named(1.23, {"batch": 8}) is None
    True
    """
    bases = {name: float(size) for name, size in sizes.items() if size > 1}
    for level in _levels(bases):
        found = [text for text, value in level.items() if abs(value - constant) <= tolerance * constant]
        if found:
            return " or ".join(found)
    return None


def _levels(bases: dict[str, float]) -> list[dict[str, float]]:
    """Products from the simplest on."""
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
