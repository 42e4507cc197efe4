"""The slots of the kernels' arguments, by the names that the kernels give them in C++.

A kernel takes its arrays, sizes and scalars in an order. The order is that of the enums of kernels/slots.h, which the
compilers and this module read; the constants of an optimizer's rule are ordered by the enum in the rule (optimizers.h).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_INSTALLED = Path(__file__).parents[1] / "kernels"
SOURCES = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[3] / "kernels"  #: the folder kernels/


def enums(text: str) -> dict[str, dict[str, tuple[str, ...]]]:
    """The enums of C++ text: for each struct ("" outside of one), the names in each of its enums.

    Names in capitals, which are counts, are left out.

    >>> enums("enum hyper { rate, HYPER }; struct add { enum arrays { a, b, out, ARRAYS }; };")
    {'': {'hyper': ('rate',)}, 'add': {'arrays': ('a', 'b', 'out')}}
    """
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    struct = ""
    for name, enum, body in re.findall(r"\bstruct (\w+)|\benum (\w+) \{([^}]*)\}", re.sub("//.*", "", text)):
        if name:
            struct = name
        else:
            names = re.findall(r"\w+", body)
            found.setdefault(struct, {})[enum] = tuple(n for n in names if not n.isupper())
    return found


def _by_name(function: str, names: Sequence[str], returns: str) -> Callable[..., Any]:
    """A function that takes a keyword argument for each name; `returns` is an expression of the names."""
    made: Callable[..., Any] = eval(f"lambda *, {', '.join(names)}: {returns}")
    made.__name__ = made.__qualname__ = function  # which Python puts into an error
    return made


def _tuple(names: Sequence[str]) -> str:
    return f"({''.join(f'{name}, ' for name in names)})"


def _kernel(name: str, slots: Mapping[str, Sequence[str]]) -> Callable[..., Any]:
    groups = [slots.get(group, ()) for group in ("arrays", "sizes", "scalars")]
    return _by_name(name, [slot for group in groups for slot in group], f"({', '.join(map(_tuple, groups))})")


_TEXT = (SOURCES / "slots.h").read_text()
_ENUMS, _RULES = enums(_TEXT), enums((SOURCES / "optimizers.h").read_text())

#: The version of the slots, which a compiled library has to have too.
VERSION = int(re.findall(r"\bversion = (\d+);", _TEXT)[0])

#: The number of each scalar of a step in `hyper`.
HYPER = {name: position for position, name in enumerate(_ENUMS[""]["hyper"])}
RATE, STEP_SIZE, SCALED_EPSILON = HYPER["rate"], HYPER["step_size"], HYPER["scaled_epsilon"]
#: The number of each number in the state of the loss scaling.
LOSS_SCALING = {name: position for position, name in enumerate(_ENUMS[""]["loss_scaling"])}
LOSS_SCALE, GOOD_STEPS = LOSS_SCALING["loss_scale"], LOSS_SCALING["good_steps"]

#: kernels.NAME(x=..., rows=..., ...) -> (arrays, sizes, scalars): the arguments of a kernel of the CPU library.
kernels = SimpleNamespace(**{name: _kernel(name, slots) for name, slots in _ENUMS.items() if name})
#: The names of the constants of an optimizer's rule, in order.
CONSTANTS = {struct.removeprefix("rule_"): slots["constants"] for struct, slots in _RULES.items()}
#: constants[RULE](decay=..., ...): the constants of a rule, as its kernel takes them.
constants: Mapping[str, Callable[..., tuple[float, ...]]] = {
    rule: _by_name(rule, names, _tuple(names)) for rule, names in CONSTANTS.items()
}
_LATER = [name for name in HYPER if name != "rate"]
#: scalars(...): the scalars of a step that follow the learning rate.
scalars: Callable[..., tuple[float, ...]] = _by_name("scalars", _LATER, _tuple(_LATER))
