"""Layers: forward and backward of each on one screen.

A layer holds its configuration. A network copies it, binds it to views into the arena (`self.params`, `self.grads`),
and passes it a `Tape` in each pass. What backward needs from forward is kept on the tape, so that one network can
predict in several threads at once.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from .activations import Activation, as_activation
from .arena import Parameter
from .backend import Array
from .errors import ParameterError, ShapeError, boolean, lookup, positive_int, real
from .initializers import INITIALIZERS, Initializer, as_initializer
from .ops import Memory, Ops


class Tape(Memory):
    """The values that a layer keeps between forward and backward, and the memory that it works in.

    A layer stores what backward needs as attributes of its own, such as `tape.x`.

    Attributes
    ----------
    train : bool
        Whether this is a training pass.
    step : int64 array (1,), or None
        Number of the training step, on the device.
    input_gradient : bool
        Whether the gradient of the layer's input is needed.
    children : list of Tape
        The tapes of the layers inside the layer.

    Examples
    --------
    >>> tape = Tape(train=True)
    >>> tape.x = 3.0
    >>> tape.x, tape.train
    (3.0, True)
    """

    x: Array
    saved: Any

    def __init__(self, train: bool = False, step: Array | None = None, input_gradient: bool = True) -> None:
        super().__init__()
        self.train, self.step, self.input_gradient = train, step, input_gradient
        self.children: list[Tape] = []

    def __getattr__(self, name: str) -> Any:  # for type checkers: a layer chooses its attributes
        raise AttributeError(f"this tape holds no {name!r}: did forward run before backward?")


class Layer:
    """Base class of the layers; subclass it and write `forward` and `backward`.

    Public attributes are the arguments of `__init__`, under the same names: a saved model makes the layer again from
    them. The names of other attributes begin with an underscore.

    Examples
    --------
    A user-defined layer, with a trained gain for each feature:

    >>> import xpdense as xd
    >>> class Scale(xd.Layer):
    ...     def parameters(self, inputs):
    ...         return {"gain": xd.Parameter((inputs,), "ones")}
    ...     def forward(self, ops, x, tape):                             # (batch, features)
    ...         tape.x = x
    ...         return x * self.params["gain"]
    ...     def backward(self, ops, dy, tape):
    ...         self.grads["gain"][...] = ops.xp.sum(dy * tape.x, axis=0)
    ...         return dy * self.params["gain"]
    >>> xd.check_network([xd.Dense(4, "tanh"), Scale(), xd.Dense(1)], inputs=3).ok
    True
    """

    #: Views into the arena by name, set by `bind`.
    params: Mapping[str, Array]
    grads: Mapping[str, Array]

    def parameters(self, inputs: int) -> dict[str, Parameter]:
        """Return the declarations of the layer's arrays for inputs of this many features, by name."""
        return {}

    def outputs(self, inputs: int) -> int:
        """Return the number of output features for this many input features; raise ShapeError if it does not fit."""
        return inputs

    def forward(self, ops: Ops, x: Array, tape: Tape) -> Array:
        """Return the output (..., batch, outputs) for x (..., batch, inputs); it must not write into `x`."""
        raise NotImplementedError

    def backward(self, ops: Ops, dy: Array, tape: Tape) -> Array:
        """Return dL/dx for dL/dy, and overwrite every array of `self.grads`; it must not write into `dy`.

        The result is not used where `tape.input_gradient` is False, and may then be None.
        """
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this layer again; values are those of JSON."""
        return {k: v for k, v in vars(self).items() if not k.startswith("_") and k not in ("params", "grads")}

    def bind(self, params: Mapping[str, Array], grads: Mapping[str, Array], key: tuple[int, int]) -> None:
        """Set `params` and `grads`, views into the arena by name.

        `key` identifies the layer's random bits: two ints in [0, 2**32), the network's seed and the layer's position.
        A layer that draws random bits overrides this method to store it.
        """
        self.params, self.grads = params, grads

    def sublayers(self) -> Sequence[Layer]:
        """Return the layers inside this one."""
        return ()

    def unbound(self) -> Layer:
        """Return a copy that is bound to no network; the layers inside it are copied too."""
        layer = copy.copy(self)
        for name, value in list(vars(self).items()):
            if name in ("params", "grads"):
                delattr(layer, name)
            elif isinstance(value, Layer):
                setattr(layer, name, value.unbound())
            elif isinstance(value, (list, tuple)) and any(isinstance(inner, Layer) for inner in value):
                setattr(layer, name, [inner.unbound() if isinstance(inner, Layer) else inner for inner in value])
        return layer

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.config().items())})"


class Dense(Layer):
    """A fully connected layer, a = activation(x @ weight + bias).

    Parameters
    ----------
    units : int
        Number of output features.
    activation : str or Activation
    initializer : str or Initializer, optional
        The initializer of the weight. The default depends on the activation: He for the rectifiers, LeCun for selu,
        else Glorot.
    bias : bool
        Whether the layer has a bias, whose initial values are zero.

    Raises
    ------
    ParameterError
        `units` is not a positive integer, or an argument is of the wrong type.
    UnknownNameError
        The activation or the initializer is not registered.

    Notes
    -----
    weight (inputs, units), bias (units,). Backward, with z = x @ weight + bias and sums over the batch:
    dz = da * activation'(z); dweight = x.T @ dz; dbias = sum(dz); dx = dz @ weight.T.

    Examples
    --------
    >>> {name: p.shape for name, p in Dense(2, "relu").parameters(inputs=3).items()}
    {'weight': (3, 2), 'bias': (2,)}
    """

    def __init__(self, units: int, activation: str | Mapping[str, Any] | Activation = "identity", *,
                 initializer: str | Mapping[str, Any] | Initializer | None = None, bias: bool = True) -> None:
        self.units = positive_int("units", units)
        self._activation = as_activation(activation)
        self._initializer = as_initializer(self._activation.initializer if initializer is None else initializer)
        self.bias = boolean("bias", bias)

    def parameters(self, inputs: int) -> dict[str, Parameter]:
        weight = {"weight": Parameter((inputs, self.units), self._initializer, decay=True)}
        return weight | ({"bias": Parameter((self.units,), "zeros")} if self.bias else {})

    def outputs(self, inputs: int) -> int:
        return self.units

    def forward(self, ops: Ops, x: Array, tape: Tape) -> Array:
        shape = (*x.shape[:-1], self.units)
        z = ops.matmul(x, self.params["weight"], out=tape.buffer(ops, "z", shape))
        out = tape.buffer(ops, "a", shape) if self._activation.saves == "input" else None
        a, tape.saved = ops.activate(self._activation, z, self.params.get("bias"), out=out)
        tape.x = x
        return a  # (..., batch, units)

    def backward(self, ops: Ops, dy: Array, tape: Tape) -> Array:
        dz = ops.activate_backward(self._activation, tape.saved, dy, out=tape.saved, dbias=self.grads.get("bias"))
        ops.matmul(ops.transpose(tape.x), dz, out=self.grads["weight"])
        if not tape.input_gradient:
            return None
        return ops.matmul(dz, ops.transpose(self.params["weight"]), out=tape.buffer(ops, "dx", tape.x.shape))

    def config(self) -> dict[str, Any]:
        return {"units": self.units, "activation": self._activation.spec(), "initializer": self._initializer.spec(),
                "bias": self.bias}


class Dropout(Layer):
    """Dropout: in training, set each feature to zero with probability `rate`, and scale the others by 1 / (1 - rate).

    The random bits are a function of the network's seed, the layer's position and the step; backward draws the same
    bits again. Outside training the layer returns its input. Source: Srivastava et al., JMLR 15 (2014).

    Parameters
    ----------
    rate : float in [0, 1)

    Examples
    --------
    >>> Dropout(0.2).outputs(inputs=3)
    3
    """

    _key = (0, 0)

    def __init__(self, rate: float = 0.5) -> None:
        self.rate = real("rate", rate, 0.0, 1.0, open_high=True)

    def bind(self, params: Mapping[str, Array], grads: Mapping[str, Array], key: tuple[int, int]) -> None:
        super().bind(params, grads, key)
        self._key = key

    def forward(self, ops: Ops, x: Array, tape: Tape) -> Array:
        return self._apply(ops, x, tape, "y")

    def backward(self, ops: Ops, dy: Array, tape: Tape) -> Array:
        return self._apply(ops, dy, tape, "dx")

    def _apply(self, ops: Ops, x: Array, tape: Tape, name: str) -> Array:
        if not tape.train or not self.rate:
            return x
        return ops.dropout(x, self.rate, self._key, tape.step, out=tape.buffer(ops, name, x.shape))


class _Norm(Layer):
    """Base class of the two norms: a gain, whose initial values are one, and a bias, whose initial values are zero."""

    def __init__(self, epsilon: float = 1e-5) -> None:
        self.epsilon = real("epsilon", epsilon, 0.0, open_low=True)

    def parameters(self, inputs: int) -> dict[str, Parameter]:
        return {"gain": Parameter((inputs,), "ones"), "bias": Parameter((inputs,), "zeros")}

    def _normalize(self, ops: Ops, x: Array, tape: Tape, axis: int) -> Array:
        saved = tape.buffer(ops, "x_hat", x.shape), tape.buffer(ops, "statistics", (3, x.shape[-3 - axis]), ops.wide)
        y, tape.saved = ops.normalize(x, self.params["gain"], self.params["bias"], axis, self.epsilon,
                                      out=tape.buffer(ops, "y", x.shape), saved=saved)
        return y

    def _backward(self, ops: Ops, dy: Array, tape: Tape, axis: int) -> Array:
        return ops.normalize_backward(tape.saved, dy, self.params["gain"], axis, self.grads["gain"],
                                      self.grads["bias"], out=tape.buffer(ops, "dx", dy.shape))


class LayerNorm(_Norm):
    """Layer normalisation: each row over its features, then gain and bias (Ba et al., arXiv:1607.06450).

    Parameters
    ----------
    epsilon : float
        A positive number that is added to the variance.

    Examples
    --------
    >>> {name: p.shape for name, p in LayerNorm().parameters(inputs=3).items()}
    {'gain': (3,), 'bias': (3,)}
    """

    def forward(self, ops: Ops, x: Array, tape: Tape) -> Array:
        return self._normalize(ops, x, tape, axis=-1)

    def backward(self, ops: Ops, dy: Array, tape: Tape) -> Array:
        return self._backward(ops, dy, tape, axis=-1)


class BatchNorm(_Norm):
    """Batch normalisation: each feature over the batch, then gain and bias (Ioffe and Szegedy, arXiv:1502.03167).

    In training, running means of the batch's mean and variance are updated, running += momentum * (batch - running);
    outside training they are used. A batch of one row has no variance: the output is then the bias, and the running
    values do not change. The running variance is that of the population (1 / n); PyTorch's is that of the sample.

    Parameters
    ----------
    momentum : float in (0, 1]
    epsilon : float
        A positive number that is added to the variance.

    Examples
    --------
    >>> [name for name, p in BatchNorm().parameters(inputs=3).items() if not p.trained]
    ['running_mean', 'running_variance']
    """

    def __init__(self, momentum: float = 0.1, epsilon: float = 1e-5) -> None:
        super().__init__(epsilon)
        self.momentum = real("momentum", momentum, 0.0, 1.0, open_low=True)

    def parameters(self, inputs: int) -> dict[str, Parameter]:
        return super().parameters(inputs) | {
            "running_mean": Parameter((inputs,), "zeros", trained=False),
            "running_variance": Parameter((inputs,), "ones", trained=False),
        }

    def forward(self, ops: Ops, x: Array, tape: Tape) -> Array:
        if not tape.train:
            p = self.params
            return ops.scale_shift(x, p["running_mean"], p["running_variance"], p["gain"], p["bias"], self.epsilon,
                                   out=tape.buffer(ops, "y", x.shape))
        y = self._normalize(ops, x, tape, axis=-2)
        if x.shape[-2] > 1:
            for name, batch in zip(("running_mean", "running_variance"), tape.saved[2:], strict=True):
                ops.blend(self.params[name], batch[..., 0, :], self.momentum)
        return y

    def backward(self, ops: Ops, dy: Array, tape: Tape) -> Array:
        return self._backward(ops, dy, tape, axis=-2)


class Residual(Layer):
    """A residual block, y = x + f(x), where the layers f keep the number of features (He et al., arXiv:1512.03385).

    Raises
    ------
    ShapeError
        In `outputs`: the layers change the number of features.

    Examples
    --------
    >>> block = Residual([LayerNorm(), Dense(32, "relu"), Dense(16)])
    >>> block.outputs(16)
    16
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = stack(layers)

    def outputs(self, inputs: int) -> int:
        width = inputs
        for layer in self.layers:
            width = layer.outputs(width)
        if width != inputs:
            raise ShapeError(f"a Residual adds its input of {inputs} features to its layers' output of {width}: "
                             f"end it with Dense({inputs})")
        return inputs

    def sublayers(self) -> Sequence[Layer]:
        return self.layers

    def forward(self, ops: Ops, x: Array, tape: Tape) -> Array:
        y = forward(ops, self.layers, x, tape)
        return ops.add(y, x, out=tape.buffer(ops, "y", x.shape))

    def backward(self, ops: Ops, dy: Array, tape: Tape) -> Array:
        dx = backward(ops, self.layers, dy, tape)
        return None if dx is None else ops.add(dx, dy, out=tape.buffer(ops, "dx", dy.shape))

    def config(self) -> dict[str, Any]:
        return {"layers": [to_config(layer) for layer in self.layers]}


# --- stacks ----------------------------------------------------------------------------------------------------

def stack(layers: Sequence[Layer]) -> list[Layer]:
    """Return unbound copies of the layers.

    Raises
    ------
    ParameterError
        `layers` is not a list of at least one Layer.

    >>> stack([Dropout(0.2)])
    [Dropout(rate=0.2)]
    """
    if isinstance(layers, Layer) or not isinstance(layers, Sequence) or not layers:
        raise ParameterError(f"layers must be a list of at least one layer, got {layers!r}")
    for layer in layers:
        if not isinstance(layer, Layer):
            hint = f"; did you mean {layer.__name__}(...)?" if isinstance(layer, type) else ""
            raise ParameterError(f"each layer must be a Layer such as Dense(64, 'relu'), got {layer!r}{hint}")
    return [layer.unbound() for layer in layers]


def forward(ops: Ops, layers: Sequence[Layer], x: Array, tape: Tape) -> Array:
    """Return the output of a list of layers for x; their tapes are the children of `tape`."""
    if not tape.children:
        needed = tape.input_gradient
        for layer in layers:
            tape.children.append(Tape(tape.train, tape.step, needed))
            needed = needed or has_parameters(layer)
    for layer, child in zip(layers, tape.children, strict=True):
        x = layer.forward(ops, x, child)
    return x


def backward(ops: Ops, layers: Sequence[Layer], dy: Array, tape: Tape) -> Array:
    """Return the gradient at the input of a list of layers; None if it is not needed and no layer computed it."""
    for layer, child in zip(reversed(layers), reversed(tape.children), strict=True):
        if dy is None:
            break  # the layers before have no parameters, and the input's gradient is not needed
        dy = layer.backward(ops, dy, child)
    return dy


def has_parameters(layer: Layer) -> bool:
    """Whether a bound layer, or a layer inside it, has trained parameters."""
    return bool(getattr(layer, "grads", None)) or any(has_parameters(inner) for inner in layer.sublayers())


# --- to and from JSON ------------------------------------------------------------------------------------------

LAYERS: dict[str, type[Layer]] = {cls.__name__: cls for cls in (Dense, Dropout, BatchNorm, LayerNorm, Residual)}


def to_config(layer: Layer) -> dict[str, Any]:
    """Return type and arguments of a layer as values of JSON.

    >>> to_config(Dropout(0.2))
    {'type': 'Dropout', 'rate': 0.2}
    """
    return {"type": type(layer).__name__, **layer.config()}


def from_config(config: Mapping[str, Any], custom: Mapping[str, Any]) -> Layer:
    """Return the layer of a configuration; `custom` holds user-defined layer classes and activations by name.

    Raises
    ------
    UnknownNameError
        The type is neither registered nor in `custom`.

    >>> from_config({"type": "Dropout", "rate": 0.2}, {})
    Dropout(rate=0.2)
    """
    arguments = dict(config)
    classes = LAYERS | {name: cls for name, cls in custom.items() if isinstance(cls, type)}
    cls = lookup("layer", arguments.pop("type", None), classes)
    if issubclass(cls, Residual):
        arguments["layers"] = [from_config(inner, custom) for inner in arguments["layers"]]
    if issubclass(cls, Dense):
        for role in ("activation", "initializer"):
            arguments[role] = _user_defined(arguments[role], custom)
        if _name(arguments["initializer"]) not in INITIALIZERS:  # its values are saved, so it is not needed again
            arguments["initializer"] = Initializer(_name(arguments["initializer"]), INITIALIZERS["zeros"].draw)
    return cls(**arguments)


def _name(spec: Any) -> str:
    return str(spec["name"] if isinstance(spec, Mapping) else getattr(spec, "name", spec))


def _user_defined(spec: Any, custom: Mapping[str, Any]) -> Any:
    """Return the user-defined activation or initializer of a saved configuration; else the configuration itself."""
    own = custom.get(_name(spec), spec)
    if own is spec or isinstance(own, (Activation, Initializer)):
        return own
    return own(**{k: v for k, v in spec.items() if k != "name"} if isinstance(spec, Mapping) else {})
