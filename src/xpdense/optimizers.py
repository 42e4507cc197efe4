"""Optimizers: each is a formula over the whole arena, its state arena-sized buffers.

Weight decay is coupled (added to the gradient) or decoupled (taken from the weights), and leaves biases and norms
alone unless `decay_all`. Clipping is by the global norm of all gradients, before the decay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .arena import Arena
from .backend import Array
from .errors import ParameterError, boolean, lookup, real
from .ops import Ops, slots
from .ops.slots import RATE, SCALED_EPSILON, STEP_SIZE
from .schedules import Schedule, as_schedule


class Optimizer:
    """A rule that changes parameters by their gradients; subclass it and write `rule`.

    Parameters
    ----------
    learning_rate : float or Schedule
    weight_decay : float
        Strength of the decay: of L2 penalty weight_decay / 2 * |w|**2 where coupled; of w -= rate * weight_decay * w
        where decoupled.
    penalty : float
        The same strength for a penalty on the sum of a batch's losses, not their mean: it adds penalty / rows to the
        weight decay, as scikit-learn's `alpha` does, and is part of the training loss.
    decoupled : bool
        Loshchilov and Hutter, arXiv:1711.05101. Default: False, but True for AdamW and Lion.
    decay_all : bool
        Whether biases and norms decay too.
    clip_norm : float, optional
        Gradients are scaled down so that the norm of all of them together is at most this.

    Examples
    --------
    A user's own: the sign of the gradient.

    >>> import xpdense as xd
    >>> class SignSGD(xd.Optimizer):
    ...     def rule(self, xp, p, g, state, hyper):      # 1-D pieces of the arena
    ...         p -= hyper[0] * xp.sign(g)               # hyper[0] is the learning rate
    >>> optimizer = SignSGD(0.01, clip_norm=1.0)
    """

    name = "optimizer"
    slots: tuple[str, ...] = ()  #: names of the state buffers, which start at zero
    kernel: str | None = None  #: the compiled kernel of this very rule
    _decoupled = False

    def __init__(self, learning_rate: float | Schedule = 1e-3, *, weight_decay: float = 0.0,
                 penalty: float = 0.0, decoupled: bool | None = None, decay_all: bool = False,
                 clip_norm: float | None = None) -> None:
        self.learning_rate = as_schedule(learning_rate)
        self.weight_decay, self.penalty = real("weight_decay", weight_decay, 0.0), real("penalty", penalty, 0.0)
        self.reported_penalty = self.penalty  # what the training loss holds of it
        self.decoupled = self._decoupled if decoupled is None else boolean("decoupled", decoupled)
        self.decay_all = boolean("decay_all", decay_all)
        self.clip_norm = None if clip_norm is None else real("clip_norm", clip_norm, 0.0, open_low=True)

    def rule(self, xp: Any, p: Array, g: Array, state: dict[str, Array], hyper: Array) -> None:
        """Change `p` (and `state`) in place; all are equal pieces (..., n) of their buffers.

        hyper[0] is the learning rate; hyper[1:] are this step's `scalars`. `g` must not be written to.
        """
        raise NotImplementedError

    def scalars(self, rate: float, step: int) -> tuple[float, ...]:
        """Numbers that change per step, computed on the host in float64; `step` counts from 1."""
        return ()

    def constants(self) -> tuple[float, ...]:
        """Numbers of the rule that never change, for the kernel."""
        return ()

    def begin(self, arena: Arena) -> OptimizerState:
        """Fresh state for an arena."""
        self.learning_rate.reset()
        return OptimizerState(self, arena)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.learning_rate})"


class OptimizerState:
    """What an optimizer remembers of one run: its buffers, and this step's scalars on the device.

    Attributes
    ----------
    buffers : dict of arrays (size,), by slot
    hyper : array (k,)
        The learning rate and the optimizer's scalars; a device array, so that a recorded step can be replayed.
    steps : int
        How many steps a training has made with it, over all its runs.
    """

    def __init__(self, optimizer: Optimizer, arena: Arena) -> None:
        self.optimizer, self.arena, self.steps = optimizer, arena, 0
        self.buffers = {slot: arena.backend.zeros(arena.params.shape, arena.dtype) for slot in optimizer.slots}
        self.hyper = arena.backend.zeros((1 + len(optimizer.scalars(1.0, 1)),), arena.dtype)

    def scalars(self, step: int, rate: float) -> tuple[float, ...]:
        """What `hyper` holds in step `step`, from 0."""
        return rate, *self.optimizer.scalars(rate, step + 1)

    def set_step(self, ops: Ops, step: int, rate: float) -> None:
        """Tell the optimizer the number of the step, from 0, and its learning rate."""
        ops.assign(self.hyper, self.scalars(step, rate))

    def step(self, ops: Ops, step: int, rate: float, rows: int = 1) -> None:
        """Change the arena's parameters by its gradients, in step `step`, from 0, of a batch of `rows`."""
        self.set_step(ops, step, rate)
        self.update(ops, rows)

    def update(self, ops: Ops, rows: int = 1) -> None:
        """The same, once the step's scalars are on the device: one op over the arena."""
        arena, rule = self.arena, self.optimizer
        ops.update(rule, arena.params, arena.grads, self.buffers, self.hyper,
                   (rule.weight_decay + rule.penalty / rows, arena.decay_size),
                   None if arena.working is arena.params else arena.working)

    def snapshot(self, into: dict[str, Array] | None = None) -> dict[str, Array]:
        """A copy of the buffers, for `restore`; in the memory of an earlier one, where that is given."""
        if into is None:
            return {slot: self.arena.backend.xp.asarray(buffer, copy=True) for slot, buffer in self.buffers.items()}
        for slot, buffer in self.buffers.items():
            into[slot][...] = buffer
        return into

    def restore(self, saved: dict[str, Array] | None) -> None:
        """Put a snapshot's values back, in place; None: zeros, as at the beginning."""
        for slot, buffer in self.buffers.items():
            buffer[...] = 0.0 if saved is None else saved[slot]


class SGD(Optimizer):
    """p -= rate * g."""

    name = "sgd"
    kernel = "update sgd"

    def __init__(self, learning_rate: float | Schedule = 1e-2, **common: Any) -> None:
        super().__init__(learning_rate, **common)

    def rule(self, xp: Any, p: Array, g: Array, state: dict[str, Array], hyper: Array) -> None:
        p -= hyper[RATE] * g


class Momentum(Optimizer):
    """v = momentum * v + g; p -= rate * v (Polyak 1964, in PyTorch's form)."""

    name = "momentum"
    kernel = "update momentum"
    slots = ("velocity",)

    def __init__(self, learning_rate: float | Schedule = 1e-2, *, momentum: float = 0.9, **common: Any) -> None:
        super().__init__(learning_rate, **common)
        self.momentum = real("momentum", momentum, 0.0, 1.0)

    def constants(self) -> tuple[float, ...]:
        return slots.constants["momentum"](momentum=self.momentum)

    def rule(self, xp: Any, p: Array, g: Array, state: dict[str, Array], hyper: Array) -> None:
        v = state["velocity"]
        v *= self.momentum
        v += g
        p -= hyper[RATE] * v


class Nesterov(Momentum):
    """v = momentum * v + g; p -= rate * (g + momentum * v) (Sutskever et al., ICML 2013)."""

    name = "nesterov"
    kernel = "update nesterov"

    def rule(self, xp: Any, p: Array, g: Array, state: dict[str, Array], hyper: Array) -> None:
        v = state["velocity"]
        v *= self.momentum
        v += g
        p -= hyper[RATE] * (g + self.momentum * v)


class RMSprop(Optimizer):
    """s = decay * s + (1 - decay) g**2; p -= rate * g / (sqrt(s) + epsilon) (Tieleman and Hinton 2012)."""

    name = "rmsprop"
    kernel = "update rmsprop"
    slots = ("square",)

    def __init__(self, learning_rate: float | Schedule = 1e-3, *, decay: float = 0.99, epsilon: float = 1e-8,
                 **common: Any) -> None:
        super().__init__(learning_rate, **common)
        self.decay = real("decay", decay, 0.0, 1.0, open_high=True)
        self.epsilon = real("epsilon", epsilon, 0.0, open_low=True)

    def constants(self) -> tuple[float, ...]:
        return slots.constants["rmsprop"](decay=self.decay, rest=1.0 - self.decay, epsilon=self.epsilon)

    def rule(self, xp: Any, p: Array, g: Array, state: dict[str, Array], hyper: Array) -> None:
        s = state["square"]
        s *= self.decay
        s += (1.0 - self.decay) * g * g
        denominator = xp.sqrt(s)
        denominator += self.epsilon
        p -= hyper[RATE] * g / denominator


class Adagrad(Optimizer):
    """s += g**2; p -= rate * g / (sqrt(s) + epsilon) (Duchi et al., JMLR 12, 2011)."""

    name = "adagrad"
    kernel = "update adagrad"
    slots = ("square",)

    def __init__(self, learning_rate: float | Schedule = 1e-2, *, epsilon: float = 1e-10, **common: Any) -> None:
        super().__init__(learning_rate, **common)
        self.epsilon = real("epsilon", epsilon, 0.0, open_low=True)

    def constants(self) -> tuple[float, ...]:
        return slots.constants["adagrad"](epsilon=self.epsilon)

    def rule(self, xp: Any, p: Array, g: Array, state: dict[str, Array], hyper: Array) -> None:
        s = state["square"]
        s += g * g
        denominator = xp.sqrt(s)
        denominator += self.epsilon
        p -= hyper[RATE] * g / denominator


class Adam(Optimizer):
    """p -= rate * m_hat / (sqrt(v_hat) + epsilon) with running means of g and g**2 (Kingma and Ba, arXiv:1412.6980).

    The buffers hold m / (1 - beta1) and v / (1 - beta2), which saves three passes over the arena: m = beta1 m + g,
    v = beta2 v + g**2, and what is left out goes, with the bias corrections, into two scalars.
    """

    name = "adam"
    kernel = "update adam"
    slots = ("mean", "square")

    def __init__(self, learning_rate: float | Schedule = 1e-3, *, beta1: float = 0.9, beta2: float = 0.999,
                 epsilon: float = 1e-8, **common: Any) -> None:
        super().__init__(learning_rate, **common)
        self.beta1 = real("beta1", beta1, 0.0, 1.0, open_high=True)
        self.beta2 = real("beta2", beta2, 0.0, 1.0, open_high=True)
        self.epsilon = real("epsilon", epsilon, 0.0, open_low=True)

    def scalars(self, rate: float, step: int) -> tuple[float, ...]:
        root = math.sqrt((1.0 - self.beta2**step) / (1.0 - self.beta2))
        return slots.scalars(step_size=rate * (1.0 - self.beta1) / (1.0 - self.beta1**step) * root,
                             scaled_epsilon=self.epsilon * root)

    def constants(self) -> tuple[float, ...]:
        return slots.constants["adam"](beta1=self.beta1, beta2=self.beta2)

    def rule(self, xp: Any, p: Array, g: Array, state: dict[str, Array], hyper: Array) -> None:
        m, v = state["mean"], state["square"]
        m *= self.beta1
        m += g
        v *= self.beta2
        v += g * g
        change = xp.sqrt(v)
        change += hyper[SCALED_EPSILON]
        change = m / change
        change *= hyper[STEP_SIZE]
        p -= change


class AdamW(Adam):
    """Adam with decoupled weight decay, 0.01 unless said otherwise (Loshchilov and Hutter, arXiv:1711.05101)."""

    name = "adamw"
    kernel = "update adam"
    _decoupled = True

    def __init__(self, learning_rate: float | Schedule = 1e-3, *, weight_decay: float = 1e-2, **others: Any) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay, **others)


class Lion(Optimizer):
    """p -= rate * sign(beta1 m + (1 - beta1) g); m = beta2 m + (1 - beta2) g (Chen et al., arXiv:2302.06675)."""

    name = "lion"
    kernel = "update lion"
    slots = ("mean",)
    _decoupled = True

    def __init__(self, learning_rate: float | Schedule = 1e-4, *, beta1: float = 0.9, beta2: float = 0.99,
                 **common: Any) -> None:
        super().__init__(learning_rate, **common)
        self.beta1 = real("beta1", beta1, 0.0, 1.0, open_high=True)
        self.beta2 = real("beta2", beta2, 0.0, 1.0, open_high=True)

    def constants(self) -> tuple[float, ...]:
        return slots.constants["lion"](beta1=self.beta1, rest1=1.0 - self.beta1,
                                       beta2=self.beta2, rest2=1.0 - self.beta2)

    def rule(self, xp: Any, p: Array, g: Array, state: dict[str, Array], hyper: Array) -> None:
        m = state["mean"]
        p -= hyper[RATE] * xp.sign(self.beta1 * m + (1.0 - self.beta1) * g)
        m *= self.beta2
        m += (1.0 - self.beta2) * g


#: Every optimizer by name.
OPTIMIZERS: dict[str, type[Optimizer]] = {
    cls.name: cls for cls in (SGD, Momentum, Nesterov, RMSprop, Adagrad, Adam, AdamW, Lion)
}


def as_optimizer(value: str | Optimizer, **arguments: Any) -> Optimizer:
    """An Optimizer from its name (with arguments for it), or from itself.

    >>> as_optimizer("adam", learning_rate=0.01)
    Adam(Constant(learning_rate=0.01))
    """
    if isinstance(value, Optimizer):
        if not hasattr(value, "learning_rate"):
            raise ParameterError(f"{type(value).__name__} has its own __init__, which must call super().__init__(rate)")
        return value
    if isinstance(value, Mapping) or (isinstance(value, type) and issubclass(value, Optimizer)):
        raise ParameterError(f"pass an instance of the optimizer, such as Adam(1e-3), got {value!r}")
    return lookup("optimizer", value, OPTIMIZERS)(**arguments)
