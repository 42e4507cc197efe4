"""Optimizers: each is a formula over the whole arena; its state are buffers of the arena's size.

Weight decay is coupled (added to the gradient) or decoupled (subtracted from the weights). It does not apply to biases
and norms unless `decay_all` is given. Gradients are clipped by their global norm, before weight decay is added.
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
    """Base class of the optimizers; subclass it and write `rule`.

    Parameters
    ----------
    learning_rate : float or Schedule
    weight_decay : float
        Strength of the decay: coupled, that of an L2 penalty weight_decay / 2 * |w|**2; decoupled, that of
        w -= rate * weight_decay * w.
    penalty : float
        Strength of an L2 penalty relative to the sum of a batch's losses, not to their mean. It adds penalty / rows to
        the weight decay, as scikit-learn's `alpha` does, and is part of the training loss.
    decoupled : bool, optional
        Whether the decay is decoupled (Loshchilov and Hutter, arXiv:1711.05101). Default: False, but True for AdamW
        and Lion.
    decay_all : bool
        Whether weight decay applies to biases and norms too.
    clip_norm : float, optional
        Gradients whose global norm is larger are scaled down to this norm.

    Raises
    ------
    ParameterError
        A parameter is not a finite number in its range.

    Examples
    --------
    A user-defined optimizer, which follows the sign of the gradient:

    >>> import xpdense as xd
    >>> class SignSGD(xd.Optimizer):
    ...     def rule(self, xp, p, g, state, hyper):      # 1-D pieces of the arena
    ...         p -= hyper[0] * xp.sign(g)               # hyper[0] is the learning rate
    >>> optimizer = SignSGD(0.01, clip_norm=1.0)
    """

    name = "optimizer"
    slots: tuple[str, ...] = ()  #: names of the state buffers, whose initial values are zero
    kernel: str | None = None  #: the kernel of this rule; a subclass does not inherit it
    _decoupled = False

    def __init__(self, learning_rate: float | Schedule = 1e-3, *, weight_decay: float = 0.0,
                 penalty: float = 0.0, decoupled: bool | None = None, decay_all: bool = False,
                 clip_norm: float | None = None) -> None:
        self.learning_rate = as_schedule(learning_rate)
        self.weight_decay, self.penalty = real("weight_decay", weight_decay, 0.0), real("penalty", penalty, 0.0)
        self.reported_penalty = self.penalty  # the part of it that the training loss contains
        self.decoupled = self._decoupled if decoupled is None else boolean("decoupled", decoupled)
        self.decay_all = boolean("decay_all", decay_all)
        self.clip_norm = None if clip_norm is None else real("clip_norm", clip_norm, 0.0, open_low=True)

    def rule(self, xp: Any, p: Array, g: Array, state: dict[str, Array], hyper: Array) -> None:
        """Update `p` and `state` in place.

        Parameters
        ----------
        p, g, and each array of `state` : array (..., n)
            The same piece of parameters, gradients and state buffers. `g` must not be written to.
        hyper : array (k,)
            The learning rate, hyper[0], then the `scalars` of this step.
        """
        raise NotImplementedError

    def scalars(self, rate: float, step: int) -> tuple[float, ...]:
        """Return the numbers of the rule that change with each step, computed in float64; `step` counts from 1."""
        return ()

    def constants(self) -> tuple[float, ...]:
        """Return the numbers of the rule that never change, in the order in which the kernel takes them."""
        return ()

    def begin(self, arena: Arena) -> OptimizerState:
        """Return the initial state for an arena, and reset the learning rate."""
        self.learning_rate.reset()
        return OptimizerState(self, arena)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.learning_rate})"


class OptimizerState:
    """The state of an optimizer in one training: its buffers, and the scalars of the step on the device.

    Attributes
    ----------
    buffers : dict of str to array (size,)
        The state buffers by name.
    hyper : array (k,)
        The learning rate and the optimizer's scalars; a device array, so that a recorded step can be replayed.
    steps : int
        The number of steps made with it, over all runs of the training.

    Examples
    --------
    >>> from xpdense.network import Network
    >>> from xpdense.layers import Dense
    >>> network = Network([Dense(1)], inputs=2)
    >>> state = Adam(0.1).begin(network.arena)
    >>> state.step(network.ops, step=0, rate=0.1)
    >>> sorted(state.buffers), state.hyper.shape
    (['mean', 'square'], (3,))
    """

    def __init__(self, optimizer: Optimizer, arena: Arena) -> None:
        self.optimizer, self.arena, self.steps = optimizer, arena, 0
        self.buffers = {slot: arena.backend.zeros(arena.params.shape, arena.dtype) for slot in optimizer.slots}
        self.hyper = arena.backend.zeros((1 + len(optimizer.scalars(1.0, 1)),), arena.dtype)

    def scalars(self, step: int, rate: float) -> tuple[float, ...]:
        """Return the values of `hyper` in step `step`, counted from 0."""
        return rate, *self.optimizer.scalars(rate, step + 1)

    def set_step(self, ops: Ops, step: int, rate: float) -> None:
        """Write the scalars of step `step`, counted from 0, with learning rate `rate` to `hyper`."""
        ops.assign(self.hyper, self.scalars(step, rate))

    def step(self, ops: Ops, step: int, rate: float, rows: int = 1) -> None:
        """Update the arena's parameters by its gradients, in step `step`, counted from 0, of a batch of `rows`."""
        self.set_step(ops, step, rate)
        self.update(ops, rows)

    def update(self, ops: Ops, rows: int = 1) -> None:
        """Update the arena's parameters in one op, with the scalars that `hyper` holds."""
        arena, rule = self.arena, self.optimizer
        ops.update(rule, arena.params, arena.grads, self.buffers, self.hyper,
                   (rule.weight_decay + rule.penalty / rows, arena.decay_size),
                   None if arena.working is arena.params else arena.working)

    def snapshot(self, into: dict[str, Array] | None = None) -> dict[str, Array]:
        """Return a copy of the buffers, for `restore`; `into` is an earlier copy, whose memory is reused."""
        if into is None:
            return {slot: self.arena.backend.xp.asarray(buffer, copy=True) for slot, buffer in self.buffers.items()}
        for slot, buffer in self.buffers.items():
            into[slot][...] = buffer
        return into

    def restore(self, saved: dict[str, Array] | None) -> None:
        """Write the values of a snapshot to the buffers, in place; None stands for the initial zeros."""
        for slot, buffer in self.buffers.items():
            buffer[...] = 0.0 if saved is None else saved[slot]


class SGD(Optimizer):
    """Gradient descent: p -= rate * g.

    >>> import numpy as np
    >>> p = np.array([1.0])
    >>> SGD().rule(np, p, np.array([0.5]), {}, np.array([0.1]))
    >>> p.tolist()
    [0.95]
    """

    name = "sgd"
    kernel = "update sgd"

    def __init__(self, learning_rate: float | Schedule = 1e-2, **common: Any) -> None:
        super().__init__(learning_rate, **common)

    def rule(self, xp: Any, p: Array, g: Array, state: dict[str, Array], hyper: Array) -> None:
        p -= hyper[RATE] * g


class Momentum(Optimizer):
    """Gradient descent with momentum: v = momentum * v + g; p -= rate * v (Polyak 1964, in PyTorch's form).

    >>> import numpy as np
    >>> p, state = np.array([1.0]), {"velocity": np.array([1.0])}
    >>> Momentum(momentum=0.5).rule(np, p, np.array([0.5]), state, np.array([0.1]))
    >>> p.tolist()
    [0.9]
    """

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
    """Nesterov's momentum: v = momentum * v + g; p -= rate * (g + momentum * v) (Sutskever et al., ICML 2013).

    >>> import numpy as np
    >>> p, state = np.array([1.0]), {"velocity": np.array([1.0])}
    >>> Nesterov(momentum=0.5).rule(np, p, np.array([0.5]), state, np.array([0.1]))
    >>> p.tolist()
    [0.9]
    """

    name = "nesterov"
    kernel = "update nesterov"

    def rule(self, xp: Any, p: Array, g: Array, state: dict[str, Array], hyper: Array) -> None:
        v = state["velocity"]
        v *= self.momentum
        v += g
        p -= hyper[RATE] * (g + self.momentum * v)


class RMSprop(Optimizer):
    """RMSprop: s = decay * s + (1 - decay) g**2; p -= rate * g / (sqrt(s) + epsilon) (Tieleman and Hinton 2012).

    >>> import numpy as np
    >>> p, state = np.array([1.0]), {"square": np.array([0.25])}
    >>> RMSprop().rule(np, p, np.array([0.5]), state, np.array([0.1]))
    >>> p.round(6).tolist()
    [0.9]
    """

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
    """Adagrad: s += g**2; p -= rate * g / (sqrt(s) + epsilon) (Duchi et al., JMLR 12, 2011).

    >>> import numpy as np
    >>> p, state = np.array([1.0]), {"square": np.array([0.75])}
    >>> Adagrad().rule(np, p, np.array([0.5]), state, np.array([0.1]))
    >>> p.round(6).tolist()
    [0.95]
    """

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
    """Adam: p -= rate * m_hat / (sqrt(v_hat) + epsilon), with running means of g and g**2.

    Source: Kingma and Ba, arXiv:1412.6980. The buffers hold m / (1 - beta1) and v / (1 - beta2), which saves three
    passes over the arena: m = beta1 m + g, v = beta2 v + g**2. The missing factors and the bias corrections are part
    of two scalars of the step.

    >>> import numpy as np
    >>> rule, p = Adam(0.1), np.array([1.0])
    >>> state = {slot: np.zeros(1) for slot in rule.slots}
    >>> rule.rule(np, p, np.array([0.5]), state, np.array([0.1, *rule.scalars(0.1, step=1)]))
    >>> p.round(6).tolist()
    [0.9]
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
    """Adam with decoupled weight decay, of strength 0.01 by default (Loshchilov and Hutter, arXiv:1711.05101).

    >>> AdamW().weight_decay, AdamW().decoupled
    (0.01, True)
    """

    name = "adamw"
    kernel = "update adam"
    _decoupled = True

    def __init__(self, learning_rate: float | Schedule = 1e-3, *, weight_decay: float = 1e-2, **others: Any) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay, **others)


class Lion(Optimizer):
    """Lion: p -= rate * sign(beta1 m + (1 - beta1) g); m = beta2 m + (1 - beta2) g (Chen et al., arXiv:2302.06675).

    >>> import numpy as np
    >>> p, state = np.array([1.0]), {"mean": np.zeros(1)}
    >>> Lion().rule(np, p, np.array([0.5]), state, np.array([0.1]))
    >>> p.tolist()
    [0.9]
    """

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


#: The optimizers by name.
OPTIMIZERS: dict[str, type[Optimizer]] = {
    cls.name: cls for cls in (SGD, Momentum, Nesterov, RMSprop, Adagrad, Adam, AdamW, Lion)
}


def as_optimizer(value: str | Optimizer, **arguments: Any) -> Optimizer:
    """Return the Optimizer of a name, made with `arguments`; an Optimizer is returned as it is.

    Raises
    ------
    UnknownNameError
        The name is not registered; the message lists those that are.
    ParameterError
        The value is a class, or an instance whose `__init__` did not call that of Optimizer.

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
