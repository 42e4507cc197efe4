"""A network: layers over one arena, with forward and backward."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .arena import Arena, Parameter
from .backend import DTYPES, Array, Backend, resolve
from .errors import BackendError, ParameterError, ShapeError, lookup, positive_int
from .layers import LAYERS, Layer, Tape, backward, forward, stack, to_config
from .losses import Loss
from .ops import CudaOps, check_choice, ops_class, ops_for
from .spec import Spec


class Network:
    """Layers with their parameters on one backend.

    Parameters
    ----------
    layers : sequence of Layer
    inputs : int
        Number of input features.
    backend : str
        Such as "numpy", "cupy:0" or "torch:cpu". With "auto" the network moves to the backend of its data.
    dtype : "float32" or "float64"
    seed : int
        Seed of the initial parameters and of dropout.
    precision : "full", "tf32", "float16" or "bfloat16"
        Precision of the products on CUDA: see CudaOps.
    ops : "auto", "native", "cuda" or "generic"
        Which ops compute: see `xpdense.ops.ops_class`.

    Attributes
    ----------
    layers : list of Layer
    inputs, outputs : int
        Numbers of input and output features.
    arena : Arena
    ops : Ops
    backend : Backend

    Raises
    ------
    ParameterError, UnknownNameError
        An argument is wrong.
    ShapeError
        The layers do not fit each other.
    BackendError
        The backend is not available, or does not have this precision or these ops.

    Examples
    --------
    >>> from xpdense.layers import Dense
    >>> network = Network([Dense(2, "relu"), Dense(1)], inputs=3)
    >>> network.forward(np.zeros((4, 3), np.float32)).shape, network.size
    ((4, 1), 11)
    """

    def __init__(self, layers: Sequence[Layer], inputs: int, backend: str = "auto", dtype: str = "float32",
                 seed: int = 0, precision: str = "full", ops: str = "auto") -> None:
        self.layers = stack(layers)
        self.inputs = positive_int("inputs", inputs)
        lookup("dtype", dtype, DTYPES)
        self.dtype = dtype
        self.seed = positive_int("seed", seed, 0)
        self.precision, self.ops_wanted = check_choice(precision, ops)
        if precision != "full" and dtype != "float32":
            raise ParameterError(f"precision {precision!r} goes with dtype 'float32', got {dtype!r}")
        self.follows_input = backend == "auto"
        self.backend = resolve("numpy" if self.follows_input else backend)
        if not self.follows_input:
            self.check_precision()
        declared, self.outputs = declared_by(self.layers, self.inputs)
        with self.backend.active():
            self._settle(declared)
            self.arena.initialize(self.seed)
            self._bind()

    # --- structure ---------------------------------------------------------------------------------------------

    def named_layers(self) -> Iterator[tuple[str, Layer]]:
        """Yield all layers with their names, such as "0", in order; the layers inside "2" follow it as "2.0", "2.1"."""
        yield from named_layers(self.layers)

    def _settle(self, declared: Mapping[str, Parameter]) -> None:
        """Make ops and arena on the current backend."""
        self.ops = ops_for(self.backend, self.dtype, self.precision, self.ops_wanted)
        self.arena = Arena(declared, self.backend, self.dtype, self.ops.dtype)

    def _bind(self) -> None:
        """Bind every layer to its views into the arena, and release the memory of earlier passes."""
        self.arena.refresh()
        self._tapes: dict[tuple[int, ...], Tape]
        self._tape: Tape | None
        self.forget()
        self.step_on_device = self.backend.zeros((1,), "int64")  # (1,) number of the training step, on the device
        for position, (name, layer) in enumerate(self.named_layers()):
            params = _own(name, {n: self.arena.working_values(n) for n in self.arena.declared})
            layer.bind(params, _own(name, self.grads), (self.seed & 0xFFFFFFFF, position))

    def check_precision(self, backend: Backend | None = None) -> None:
        """Raise BackendError if the precision is reduced and the network is not on CUDA, or would not be."""
        place = backend or self.backend
        if self.precision != "full" and ops_class(place, self.ops_wanted) is not CudaOps:
            raise BackendError(f"precision {self.precision!r} needs CUDA's kernels, and the network is on "
                               f"{place.name} with ops={self.ops_wanted!r}: leave it out, or use backend='cupy'")

    def to(self, backend: str | Backend) -> None:
        """Move the parameters to another backend, in place; gradients are not moved."""
        target = resolve(backend) if isinstance(backend, str) else backend
        if target.name == self.backend.name:
            return
        ops_class(target, self.ops_wanted)  # an error here leaves the network as it was
        values = self.arena.to_host()
        with target.active():
            self.backend = target
            self._settle(self.arena.declared)
            self._fill(values)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for pickle and copy; views and working memory are made again from it."""
        left_out = ("arena", "ops", "backend", "layers", "_tapes", "_tape", "step_on_device")
        return {k: v for k, v in vars(self).items() if k not in left_out} | {
            "layers": stack(self.layers), "declared": self.arena.declared, "values": self.arena.to_host(),
            "backend": self.backend.name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        declared, values, name = state.pop("declared"), state.pop("values"), state.pop("backend")
        vars(self).update(state)
        try:
            self.backend = resolve(name)
        except (BackendError, ParameterError):  # its backend is not available here: use the CPU
            self.backend, self.ops_wanted = resolve("numpy"), "auto"
        with self.backend.active():
            self._settle(declared)
            self._fill(values)

    def _fill(self, values: dict[str, np.ndarray]) -> None:
        for name, value in values.items():
            self.arena.write(name, value)
        self._bind()

    @property
    def params(self) -> dict[str, Array]:
        """Writable views of the trained parameters by name, such as "0.weight"; a move to a backend makes new ones."""
        return {n: self.arena.values(n) for n, p in self.arena.declared.items() if p.trained}

    @property
    def grads(self) -> dict[str, Array]:
        """Writable views of the gradients of `params` after the last backward, in 16 bits if they are stored so."""
        return {n: self.arena.view(self.arena.grads, n) for n, p in self.arena.declared.items() if p.trained}

    @property
    def size(self) -> int:
        """Number of trained parameters."""
        return sum(p.size for p in self.arena.declared.values() if p.trained)

    @property
    def part_rows(self) -> int:
        """Rows that are worked on at once outside training: as many as keep the widest layer near 2**21 elements."""
        return max(1, 2**21 // max(self.widths()))

    def spec(self, loss: Loss | None = None, backend: Backend | None = None) -> Spec:
        """What data need to know of this network, as it is or as it would be on another backend.

        Raises
        ------
        BackendError
            The network cannot be on that backend.
        """
        place, ops = backend or self.backend, self.ops
        self.check_precision(place)
        if place.name != self.backend.name:
            ops = ops_for(place, self.dtype, self.precision, self.ops_wanted)
        return Spec(self.inputs, self.outputs, self.dtype, ops.dtype, place, self.part_rows, loss)

    def widths(self) -> list[int]:
        """Return the numbers of features before the first layer and after each layer."""
        widths = [self.inputs]
        for layer in self.layers:
            widths.append(layer.outputs(widths[-1]))
        return widths

    def config(self) -> dict[str, Any]:
        """Return layers, inputs, element type and seed as values of JSON.

        Raises
        ------
        ParameterError
            A layer cannot be made again from its public attributes.
        """
        for _, layer in self.named_layers():
            try:
                inspect.signature(type(layer)).bind(**layer.config())
            except TypeError as error:
                raise ParameterError(f"{type(layer).__name__} could not be made again from its public attributes: "
                                     f"{error}; begin the names of others with an underscore") from error
        return {"layers": [to_config(layer) for layer in self.layers], "inputs": self.inputs, "dtype": self.dtype,
                "seed": self.seed}

    # --- the two passes ----------------------------------------------------------------------------------------

    @property
    def is_builtin(self) -> bool:
        """Whether every layer is one of this package's layers, which compute by ops alone."""
        return all(type(layer) in LAYERS.values() for _, layer in self.named_layers())

    def set_step(self, step: int) -> None:
        """Set the number of the training step, on which dropout depends."""
        self.ops.assign(self.step_on_device, (step,))

    def buffer(self, name: str, shape: tuple[int, ...], dtype: str | None = None) -> Array:
        """Return memory of the current training pass, which is the same in each pass of this batch size."""
        assert self._tape is not None, "forward comes first"
        return self._tape.buffer(self.ops, name, shape, dtype)

    def forward(self, x: Array, train: bool = False) -> Array:
        """Return the logits (..., batch, outputs) of x (..., batch, inputs), an array of this backend and dtype.

        With `train`, the values that backward needs are kept, in memory that is allocated once for each batch size; the
        result is valid until the next training pass. Without it, the network does not change.

        Raises
        ------
        ShapeError
            x does not have `inputs` features.
        """
        if x.shape[-1] != self.inputs:
            raise ShapeError(f"the network takes {self.inputs} features, got an array of shape {tuple(x.shape)}")
        if not train:
            return forward(self.ops, self.layers, x, Tape())
        shape = tuple(x.shape)
        if shape not in self._tapes:
            if len(self._tapes) >= 4:  # a full and a last batch, of training and validation
                self._tapes.clear()
            self._tapes[shape] = Tape(train=True, step=self.step_on_device, input_gradient=False)
        self._tape = self._tapes[shape]
        return forward(self.ops, self.layers, x, self._tape)

    def backward(self, dz: Array) -> None:
        """Compute all gradients of a loss from dz, its gradient at the logits of the last training pass.

        Raises
        ------
        ShapeError
            There was no training pass since the last backward.
        """
        if self._tape is None:
            raise ShapeError("backward needs a forward(x, train=True) before it, one for each")
        tape, self._tape = self._tape, None  # backward overwrites its memory, so it runs once
        backward(self.ops, self.layers, dz, tape)

    def forget(self) -> None:
        """Release the memory of training passes, and the batches that it refers to."""
        self._tapes, self._tape = {}, None

    def trace(self, x: Array) -> list[tuple[str, Array, Array]]:
        """Return name, input and output of every top-level layer for x, in a training pass of the current step."""
        rows = []
        for position, layer in enumerate(self.layers):
            y = layer.forward(self.ops, x, Tape(train=True, step=self.step_on_device))
            shape = (*x.shape[:-1], layer.outputs(x.shape[-1]))
            if tuple(y.shape) != tuple(shape):
                raise ShapeError(f"layer {position} ({type(layer).__name__}) made an array of shape {tuple(y.shape)} "
                                 f"of {tuple(x.shape)}, and its outputs() says {tuple(shape)}")
            rows.append((f"layer {position} ({type(layer).__name__})", x, y))
            x = y
        return rows


def declared_by(layers: Sequence[Layer], inputs: int) -> tuple[dict[str, Parameter], int]:
    """Return the parameters that layers declare, by name, and the number of outputs; no memory is allocated.

    Raises
    ------
    ParameterError
        The name of a parameter is empty or contains a dot.

    >>> from xpdense.layers import Dense
    >>> list(declared_by([Dense(2)], inputs=3)[0])
    ['0.weight', '0.bias']
    """
    declared = dict[str, Parameter]()
    for name, layer in named_layers(layers):
        for key, parameter in layer.parameters(_width_before(layers, inputs, name)).items():
            if not key or "." in key:
                raise ParameterError(f"a parameter's name must not hold a dot, got {key!r} in {layer!r}")
            declared[f"{name}.{key}"] = parameter
    for layer in layers:
        inputs = layer.outputs(inputs)
    return declared, inputs


def _width_before(layers: Sequence[Layer], width: int, name: str) -> int:
    """Return the number of input features of the layer of this name."""
    for position in name.split("."):
        for layer in layers[: int(position)]:
            width = layer.outputs(width)
        layers = list(layers[int(position)].sublayers())
    return width


def _own(layer: str, arrays: dict[str, Array]) -> dict[str, Array]:
    """Return the arrays of the layer of this name, by their names in the layer."""
    return {n.rpartition(".")[2]: array for n, array in arrays.items() if n.rpartition(".")[0] == layer}


def named_layers(layers: Sequence[Layer], prefix: str = "") -> Iterator[tuple[str, Layer]]:
    """Yield layers and the layers inside them with their names: see `Network.named_layers`.

    >>> from xpdense.layers import Dense, Residual
    >>> [name for name, _ in named_layers([Residual([Dense(2)]), Dense(1)])]
    ['0', '0.0', '1']
    """
    for position, layer in enumerate(layers):
        yield f"{prefix}{position}", layer
        yield from named_layers(layer.sublayers(), f"{prefix}{position}.")
