"""Activation functions: each formula with its derivative under it, in array-API calls only.

`derivative` is a function of the input z of `forward` (the pre-activation) or of its output a, whichever is cheaper or
more accurate. It is never a function of the incoming gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .backend import Array
from .errors import ParameterError, lookup, made, real


@dataclass(frozen=True)
class Activation:
    """An elementwise function and its derivative.

    Parameters
    ----------
    name : str
        Its name in messages and saved models.
    forward : callable (xp, z) -> a
        Array-API calls on `z` of any shape; must not write into `z`.
    derivative : callable (xp, saved) -> da/dz
        `saved` is z or a, depending on `saves`. The result must be a new array of the same shape.
    saves : "input" or "output"
        Whether `derivative` is a function of the input z or of the output a.
    initializer : str
        The default initializer of a Dense layer with this activation.
    config : mapping
        Parameters of the formula, such as `{"slope": 0.01}`; saved with a model.

    Raises
    ------
    ParameterError
        `saves` is neither "input" nor "output".

    Examples
    --------
    >>> import xpdense as xd
    >>> squared_relu = xd.Activation(
    ...     "squared_relu",
    ...     forward=lambda xp, z: xp.maximum(z, 0.0) ** 2,
    ...     derivative=lambda xp, z: 2.0 * xp.maximum(z, 0.0),
    ... )
    >>> net = xd.DenseNetwork([xd.Dense(8, squared_relu), xd.Dense(1)], inputs=3)
    """

    name: str
    forward: Callable[[Any, Array], Array]
    derivative: Callable[[Any, Array], Array]
    saves: str = "input"
    initializer: str = "glorot_uniform"
    config: Mapping[str, float] = field(default_factory=dict)

    def spec(self) -> str | dict[str, Any]:
        """Return the name, with the parameters if there are any, from which `as_activation` makes it again."""
        return {"name": self.name, **self.config} if self.config else self.name

    @property
    def builtin(self) -> bool:
        """Whether the formulas are those of this module, so that ops may choose a kernel by the name."""
        return self.forward.__module__ == self.derivative.__module__ == __name__ and self.name in ACTIVATIONS

    def __reduce_ex__(self, protocol: Any) -> Any:  # the formulas of this module do not pickle
        if self.builtin:
            return as_activation, (self.spec(),)
        return super().__reduce_ex__(protocol)

    def __post_init__(self) -> None:
        if self.saves not in ("input", "output"):
            raise ParameterError(f"saves must be 'input' or 'output', got {self.saves!r}")


# --- pieces ----------------------------------------------------------------------------------------------------

def sigmoid(xp: Any, z: Array) -> Array:
    """1 / (1 + exp(-z)), of a small relative error for every z: no positive number is exponentiated.

    >>> import numpy as np
    >>> sigmoid(np, np.array([-800.0, 0.0, 800.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    e = xp.exp(-xp.abs(z))
    return xp.where(z >= 0, 1.0 / (1.0 + e), e / (1.0 + e))


def softplus(xp: Any, z: Array) -> Array:
    """log(1 + exp(z)), finite for every finite z.

    >>> import numpy as np
    >>> softplus(np, np.array([-800.0, 800.0])).tolist()
    [0.0, 800.0]
    """
    return xp.maximum(z, 0.0) + xp.log1p(xp.exp(-xp.abs(z)))


def clip(xp: Any, x: Array, low: float, high: float) -> Array:
    """Limit x to [low, high]; NaN stays NaN. (`xp.clip` of some namespaces synchronises with the device.)

    >>> import numpy as np
    >>> clip(np, np.array([-3.0, 0.5]), -1.0, 1.0).tolist()
    [-1.0, 0.5]
    """
    return xp.minimum(xp.maximum(x, low), high)


def _polynomial(x: Array, coefficients: tuple[float, ...]) -> Array:
    total = x * coefficients[0] + coefficients[1]
    for c in coefficients[2:]:
        total = total * x + c
    return total


def erf(xp: Any, x: Array) -> Array:
    """The error function, elementwise, which the array API lacks; the error is below 3e-16 in float64.

    Source: W. J. Cody, "Rational Chebyshev approximations for the error function", Math. Comp. 23 (1969), with the
    coefficients of the SPECFUN routine CALERF.

    >>> import numpy as np
    >>> erf(np, np.array([0.0, 1.0, 8.0])).round(6).tolist()
    [0.0, 0.842701, 1.0]
    """
    y = xp.abs(x)
    small = xp.minimum(y, 0.46875)
    s = small * small
    near = small * _polynomial(s, (1.85777706184603153e-1, 3.16112374387056560e0, 1.13864154151050156e2,
                                   3.77485237685302021e2, 3.20937758913846947e3)) \
        / _polynomial(s, (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3,
                          2.84423683343917062e3))
    m = clip(xp, y, 0.46875, 4.0)
    middle = _polynomial(m, (2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0,
                             6.61191906371416295e1, 2.98635138197400131e2, 8.81952221241769090e2,
                             1.71204761263407058e3, 2.05107837782607147e3, 1.23033935479799725e3)) \
        / _polynomial(m, (1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2,
                          1.62138957456669019e3, 3.29079923573345963e3, 4.36261909014324716e3,
                          3.43936767414372164e3, 1.23033935480374942e3))
    far = clip(xp, y, 4.0, 6.0)  # from 5.93 on, erf is 1 to the last bit of float64
    r = 1.0 / (far * far)
    tail = r * _polynomial(r, (1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1,
                               1.25781726111229246e-1, 1.60837851487422766e-2, 6.58749161529837803e-4)) \
        / _polynomial(r, (1.0, 2.56852019228982242e0, 1.87295284992346725e0, 5.27905102951428412e-1,
                          6.05183413124413191e-2, 2.33520497626869185e-3))
    tail = (1.0 / math.sqrt(math.pi) - tail) / far
    complement = xp.where(y <= 4.0, middle * xp.exp(-m * m), tail * xp.exp(-far * far))
    return xp.sign(x) * xp.where(y <= 0.46875, near, 1.0 - complement)


def _mask(xp: Any, condition: Array, like: Array) -> Array:
    return xp.astype(condition, like.dtype)


# --- the activations -------------------------------------------------------------------------------------------

_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772  # Klambauer et al., arXiv:1706.02515


def _sigmoid_derivative(xp: Any, a: Array) -> Array:
    return a * (1.0 - a)


def _tanh_derivative(xp: Any, a: Array) -> Array:
    return 1.0 - a * a


def leaky_relu(slope: float = 0.01) -> Activation:
    """Return the activation max(z, slope * z), with 0 < slope < 1.

    >>> leaky_relu(0.2).config
    {'slope': 0.2}
    """
    slope = real("slope", slope, 0.0, 1.0, open_low=True, open_high=True)
    return Activation(
        "leaky_relu",
        forward=lambda xp, z: xp.maximum(z, slope * z),
        derivative=lambda xp, a: slope + (1.0 - slope) * _mask(xp, a > 0, a),
        saves="output", initializer="he_normal", config={"slope": slope},
    )


def elu(alpha: float = 1.0) -> Activation:
    """Return the activation z for z > 0, else alpha * (exp(z) - 1), with alpha > 0.

    Source: Clevert et al., arXiv:1511.07289.

    >>> elu(alpha=0.5).name
    'elu'
    """
    alpha = real("alpha", alpha, 0.0, open_low=True)
    return Activation(
        "elu",
        forward=lambda xp, z: xp.where(z > 0, z, alpha * xp.expm1(xp.minimum(z, 0.0))),
        derivative=lambda xp, a: xp.where(a > 0, xp.ones_like(a), a + alpha),
        saves="output", initializer="he_normal", config={"alpha": alpha},
    )


def _selu() -> Activation:
    scale, alpha = _SELU_SCALE, _SELU_ALPHA
    return Activation(
        "selu",
        forward=lambda xp, z: scale * xp.where(z > 0, z, alpha * xp.expm1(xp.minimum(z, 0.0))),
        derivative=lambda xp, a: xp.where(a > 0, xp.full_like(a, scale), a + scale * alpha),
        saves="output", initializer="lecun_normal",
    )


def _gelu() -> Activation:
    def cdf(xp: Any, z: Array) -> Array:
        return 0.5 * (1.0 + erf(xp, z * math.sqrt(0.5)))

    def density(xp: Any, z: Array) -> Array:
        return xp.exp(-0.5 * clip(xp, z, -40.0, 40.0) ** 2) / math.sqrt(2.0 * math.pi)

    return Activation(
        "gelu",  # z * Phi(z), Hendrycks and Gimpel, arXiv:1606.08415
        forward=lambda xp, z: z * cdf(xp, z),
        derivative=lambda xp, z: cdf(xp, z) + z * density(xp, z),
        initializer="he_normal",
    )


def _gelu_tanh() -> Activation:
    c, k = math.sqrt(2.0 / math.pi), 0.044715

    def tanh(xp: Any, z: Array) -> Array:
        z = clip(xp, z, -40.0, 40.0)  # tanh is 1 for smaller z already; keeps z ** 3 finite
        return xp.tanh(c * (z + k * z * z * z))

    def derivative(xp: Any, z: Array) -> Array:
        t, near = tanh(xp, z), clip(xp, z, -40.0, 40.0)
        return 0.5 * (1.0 + t) + 0.5 * near * (1.0 - t * t) * c * (1.0 + 3.0 * k * near * near)

    return Activation("gelu_tanh", forward=lambda xp, z: 0.5 * z * (1.0 + tanh(xp, z)), derivative=derivative,
                      initializer="he_normal")


def _silu() -> Activation:
    def derivative(xp: Any, z: Array) -> Array:
        s = sigmoid(xp, z)
        return s * (1.0 + z * (1.0 - s))

    return Activation("silu", forward=lambda xp, z: z * sigmoid(xp, z), derivative=derivative, initializer="he_normal")


def _mish() -> Activation:
    def derivative(xp: Any, z: Array) -> Array:
        t = xp.tanh(softplus(xp, z))
        return t + z * sigmoid(xp, z) * (1.0 - t * t)

    return Activation(
        "mish",  # z * tanh(softplus(z)), Misra, arXiv:1908.08681
        forward=lambda xp, z: z * xp.tanh(softplus(xp, z)), derivative=derivative, initializer="he_normal",
    )


#: The activations by name.
ACTIVATIONS: dict[str, Activation] = {
    a.name: a
    for a in (
        Activation("identity", forward=lambda xp, z: z, derivative=lambda xp, a: xp.ones_like(a), saves="output"),
        Activation("sigmoid", forward=sigmoid, derivative=_sigmoid_derivative, saves="output"),
        Activation("tanh", forward=lambda xp, z: xp.tanh(z), derivative=_tanh_derivative, saves="output"),
        Activation("relu", forward=lambda xp, z: xp.maximum(z, 0.0), derivative=lambda xp, a: _mask(xp, a > 0, a),
                   saves="output", initializer="he_normal"),
        leaky_relu(), elu(), _selu(), _gelu(), _gelu_tanh(), _silu(), _mish(),
        Activation("softplus", forward=softplus, derivative=lambda xp, a: -xp.expm1(-a), saves="output",
                   initializer="he_normal"),
        Activation("hard_sigmoid",  # clip(z / 6 + 1/2, 0, 1)
                   forward=lambda xp, z: clip(xp, z / 6.0 + 0.5, 0.0, 1.0),
                   derivative=lambda xp, a: _mask(xp, (a > 0) & (a < 1), a) / 6.0, saves="output"),
        Activation("hard_tanh",
                   forward=lambda xp, z: clip(xp, z, -1.0, 1.0),
                   derivative=lambda xp, a: _mask(xp, xp.abs(a) < 1, a), saves="output"),
    )
}
_WITH_PARAMETERS: dict[str, Callable[..., Activation]] = {"leaky_relu": leaky_relu, "elu": elu}


def as_activation(value: str | Mapping[str, Any] | Activation) -> Activation:
    """Return the Activation of a name or of a saved configuration; an Activation is returned as it is.

    Raises
    ------
    UnknownNameError
        The name is not registered; the message lists those that are.

    >>> as_activation("relu").saves
    'output'
    """
    if isinstance(value, Activation):
        return value
    if isinstance(value, Mapping):
        return made("activation", _WITH_PARAMETERS, value)
    return lookup("activation", value, ACTIVATIONS)
