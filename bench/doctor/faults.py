"""The faults: what each does to the rows, the setting, the labels or the initial weights, and what it is called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .setups import TASKS, Array, Pair, Rows, Spec

Random = np.random.Generator
BOTH = ("hand", "ours")
CLASSES = ("binary", "multi")
EVERY = ("binary", "multi", "regression")


@dataclass(frozen=True)
class Fault:
    """One way in which a training is spoilt.

    Attributes
    ----------
    name : str
    cause : str
        The code that is right.
    group : str
        Two faults at once are of different groups.
    data : callable, optional
        What happens to the rows.
    labels : callable, optional
        (y, classes) as the program is given them -> what it is given instead.
    spec : callable, optional
        What happens to the setting.
    weights : callable, optional
        (weights, biases) of an untrained network, changed in place; each a list of arrays, the last layer's last.
    where : str
        "weights", "biases", "hidden", "first", "last", "all": the tensors of which one must be named; "" where no
        tensor is at fault.
    sets : tuple of str
        The data sets for which it makes sense; empty for all of its tasks.
    """

    name: str
    cause: str
    group: str
    kinds: tuple[str, ...] = BOTH
    tasks: tuple[str, ...] = EVERY
    data: Callable[[Rows, Random], Rows] | None = None
    labels: Callable[[Array, int], Array] | None = None
    spec: Callable[[Spec], Spec] | None = None
    weights: Callable[[list[Array], list[Array], Random], None] | None = None
    where: str = ""
    sets: tuple[str, ...] = ()

    def fits(self, pair: Pair, kind: str) -> bool:
        return kind in self.kinds and TASKS[pair.data] in self.tasks and (not self.sets or pair.data in self.sets)


def changed(**values: Any) -> Callable[[Spec], Spec]:
    return lambda s: replace(s, **values)


def times_rate(factor: float) -> Callable[[Spec], Spec]:
    return lambda s: replace(s, rate=s.rate * factor)


RATES = {"sigmoid": 5.0}  #: of an activation, next to relu's: see setups.rate_of


def activated(activation: str) -> Callable[[Spec], Spec]:
    """Another activation, and the optimizer and learning rate that go with it."""
    def apply(spec: Spec) -> Spec:
        rate = spec.rate * RATES.get(activation, 1.0) / RATES.get(spec.activation, 1.0)
        if activation == "sigmoid" and spec.optimizer == "sgd":
            return replace(spec, activation=activation, optimizer="momentum", rate=rate / 5)
        return replace(spec, activation=activation, rate=rate)
    return apply


def mistake(name: str, **values: Any) -> Callable[[Spec], Spec]:
    return lambda s: replace(s, mistakes=(*s.mistakes, name), **values)


# --- rows --------------------------------------------------------------------------------------------------------

def affine(factor: float, shift: float, columns: slice = slice(None)) -> Callable[[Rows, Random], Rows]:
    def apply(rows: Rows, rng: Random) -> Rows:
        x, x_test = rows.x.copy(), rows.x_test.copy()
        for values in (x, x_test):
            values[:, columns] = values[:, columns] * factor + shift
        return replace(rows, x=x, x_test=x_test)
    return apply


def target_scaled(factor: float, shift: float) -> Callable[[Rows, Random], Rows]:
    return lambda rows, rng: replace(rows, y=rows.y * factor + shift, y_test=rows.y_test * factor + shift)


def not_finite(value: float) -> Callable[[Rows, Random], Rows]:
    def apply(rows: Rows, rng: Random) -> Rows:
        x = rows.x.copy()
        x[rng.choice(len(x), 4, replace=False), rng.integers(0, x.shape[1], 4)] = value
        return replace(rows, x=x)
    return apply


def with_column(rows: Rows, train: Array, test: Array) -> Rows:
    return replace(rows, x=np.column_stack([rows.x, train]), x_test=np.column_stack([rows.x_test, test]))


def constant_column(value: float) -> Callable[[Rows, Random], Rows]:
    return lambda rows, rng: with_column(rows, np.full(len(rows.x), value), np.full(len(rows.x_test), value))


def single_class(rows: Rows, rng: Random) -> Rows:
    return rows.taking(rows.y == rng.integers(rows.classes))


def imbalanced(share: float) -> Callable[[Rows, Random], Rows]:
    """Of one class, in no training row more than this share of the others."""
    def apply(rows: Rows, rng: Random) -> Rows:
        rare = rng.integers(rows.classes)
        others = np.flatnonzero(rows.y != rare)
        few = np.flatnonzero(rows.y == rare)
        few = rng.choice(few, min(len(few), max(2, round(share * len(others)))), replace=False)
        return rows.taking(rng.permutation(np.concatenate([others, few])))
    return apply


def shuffled_labels(share: float) -> Callable[[Rows, Random], Rows]:
    def apply(rows: Rows, rng: Random) -> Rows:
        y = rows.y.copy()
        some = rng.choice(len(y), round(share * len(y)), replace=False)
        y[some] = y[rng.permutation(some)]
        return replace(rows, y=y)
    return apply


def conflicting(rows: Rows, rng: Random) -> Rows:
    """Every row again with another label: once of two classes, else twice."""
    copies = 1 if rows.classes == 2 else 2
    wrong = (rows.y + 1) % rows.classes if rows.classes else rng.permutation(rows.y)
    order = rng.permutation(len(rows.x) * (copies + 1))
    return replace(rows, x=np.concatenate([rows.x] * (copies + 1))[order],
                   y=np.concatenate([rows.y] + [wrong] * copies)[order])


def leak(size: float) -> Callable[[Rows, Random], Rows]:
    """The label is among the features; where the network is used it is not known, and is another row's."""
    def apply(rows: Rows, rng: Random) -> Rows:
        mean, std = rows.y.mean(), rows.y.std()
        return with_column(rows, (rows.y - mean) / std * size, rng.permutation((rows.y_test - mean) / std) * size)
    return apply


def few_rows(each: int) -> Callable[[Rows, Random], Rows]:
    def apply(rows: Rows, rng: Random) -> Rows:
        if not rows.classes:
            return rows.taking(rng.choice(len(rows.x), 2 * each, replace=False))
        chosen = [rng.choice(np.flatnonzero(rows.y == c), each, replace=False) for c in range(rows.classes)]
        return rows.taking(rng.permutation(np.concatenate(chosen)))
    return apply


def in_order(rows: Rows, rng: Random) -> Rows:
    return rows.taking(np.argsort(rows.y, kind="stable"))


def noisy_few(rows: Rows, rng: Random) -> Rows:
    """Fewer rows, a quarter of them with another's label."""
    each = 40 if rows.classes == 2 else 12
    few = few_rows(40 if not rows.classes else each)(rows, rng)
    return shuffled_labels(0.35)(few, rng)


# --- labels as the program gets them -----------------------------------------------------------------------------

def one_cold(y: Array, classes: int) -> Array:
    return 1.0 - np.eye(classes)[y]


def shifted_one_hot(y: Array, classes: int) -> Array:
    """One-hot rows made of numbers from 1: the last class comes out as the first."""
    return np.eye(classes)[(y + 1) % classes]


# --- initial weights ---------------------------------------------------------------------------------------------

def scaled_weights(factor: float) -> Callable[[list[Array], list[Array], Random], None]:
    def apply(weights: list[Array], biases: list[Array], rng: Random) -> None:
        for w in weights:
            w *= w.dtype.type(factor)
    return apply


def same_weights(value: float) -> Callable[[list[Array], list[Array], Random], None]:
    def apply(weights: list[Array], biases: list[Array], rng: Random) -> None:
        for w in weights:
            w[...] = value
    return apply


def biases_at(value: float, both: bool = False) -> Callable[[list[Array], list[Array], Random], None]:
    def apply(weights: list[Array], biases: list[Array], rng: Random) -> None:
        for b in biases[:-1]:
            b[...] = value * (rng.choice([-1.0, 1.0], b.shape) if both else 1.0)
    return apply


def exploding(spec: Spec) -> Spec:
    return replace(activated("relu")(spec), hidden=(24,) * 8)


FAULTS = {fault.name: fault for fault in (
    # data
    Fault("features_one_column_x1000", "features_unscaled", "data", data=affine(1000.0, 0.0, slice(0, 1))),
    Fault("features_x100_shifted", "features_unscaled", "data", data=affine(100.0, 300.0)),
    Fault("features_tiny", "features_unscaled", "data", data=affine(0.001, 0.0)),
    Fault("target_x1000_shifted", "target_unscaled", "data", tasks=("regression",), data=target_scaled(1000.0, 5000.0)),
    Fault("target_x20_shifted", "target_unscaled", "data", tasks=("regression",), data=target_scaled(20.0, 150.0)),
    Fault("input_nan", "nonfinite_input", "data", data=not_finite(np.nan)),
    Fault("input_inf", "nonfinite_input", "data", data=not_finite(np.inf)),
    Fault("column_constant_1000", "constant_feature", "data", data=constant_column(1000.0)),
    Fault("column_constant_100", "constant_feature", "data", data=constant_column(100.0)),
    Fault("labels_from_one", "labels_out_of_range", "labels", tasks=CLASSES, labels=lambda y, classes: y + 1),
    Fault("labels_from_minus_one", "labels_out_of_range", "labels", tasks=("multi",), labels=lambda y, classes: y - 1),
    Fault("labels_plus_minus_one", "labels_mis_encoded", "labels", tasks=("binary",), labels=lambda y, c: 2 * y - 1),
    Fault("labels_one_cold", "labels_mis_encoded", "labels", tasks=("multi",), labels=one_cold),
    Fault("single_class", "single_class", "labels", tasks=CLASSES, data=single_class),
    Fault("imbalance_3_percent", "class_imbalance", "labels", tasks=CLASSES, data=imbalanced(0.03)),
    Fault("imbalance_1_percent", "class_imbalance", "labels", tasks=CLASSES, data=imbalanced(0.01)),
    Fault("labels_shuffled", "labels_shuffled", "labels", data=shuffled_labels(1.0)),
    Fault("labels_mostly_shuffled", "labels_shuffled", "labels", data=shuffled_labels(0.9)),
    Fault("duplicates_conflict", "conflicting_duplicates", "labels", data=conflicting),
    Fault("label_leaks", "leakage", "data", data=leak(1.0)),
    Fault("label_leaks_strongly", "leakage", "data", data=leak(3.0)),
    Fault("four_rows_a_class", "too_few_samples", "rows", data=few_rows(4)),
    Fault("sorted_rows", "not_shuffled", "rows", data=in_order, spec=changed(shuffle=False)),
    # output and loss
    Fault("relu_output", "activation_loss_mismatch", "output", tasks=("regression",), spec=mistake("ReluOutput")),
    Fault("sigmoid_output", "activation_loss_mismatch", "output", tasks=("regression",), spec=mistake("SigmoidOutput")),
    Fault("tanh_output", "activation_loss_mismatch", "output", ("hand",), CLASSES, spec=mistake("TanhOutput")),
    Fault("double_softmax", "double_softmax", "output", tasks=("multi",),
          spec=lambda s: mistake("DoubleSoftmax", rate=0.3 * s.rate)(s)),
    Fault("double_sigmoid", "double_softmax", "output", tasks=("binary",), spec=mistake("DoubleSigmoid")),
    Fault("softmax_over_rows", "softmax_wrong_axis", "output", tasks=("multi",), spec=mistake("SoftmaxOverRows")),
    Fault("softmax_of_one", "softmax_on_one_unit", "output", tasks=("binary",), spec=mistake("SoftmaxOfOne")),
    Fault("probability_clipped", "probability_clipped", "output", tasks=CLASSES, spec=mistake("Clipped")),
    Fault("target_broadcast", "target_shape_broadcast", "output", tasks=("binary", "regression"),
          spec=mistake("Broadcast")),
    # initial weights
    Fault("weights_x10", "init_too_large", "init", weights=scaled_weights(10.0), where="weights"),
    Fault("weights_x50", "init_too_large", "init", weights=scaled_weights(50.0), where="weights"),
    Fault("weights_x0.01", "init_too_small", "init", weights=scaled_weights(0.01), where="weights"),
    Fault("weights_x0.00001", "init_too_small", "init", weights=scaled_weights(1e-5), where="weights"),
    Fault("weights_all_0", "init_symmetric", "init", weights=same_weights(0.0), where="weights"),
    Fault("weights_all_0.1", "init_symmetric", "init", weights=same_weights(0.1), where="weights"),
    # gradient
    Fault("gradient_transposed", "gradient_wrong", "gradient", spec=mistake("Transposed"), where="weights"),
    Fault("gradient_of_means", "gradient_wrong", "gradient", spec=mistake("MeanTooEarly"), where="weights"),
    Fault("loss_derivative", "gradient_wrong", "gradient", spec=mistake("LossDerivative"), where="last"),
    Fault("gradient_sign", "gradient_sign", "gradient", spec=mistake("WrongSign"), where="all"),
    Fault("gradient_sign_of_last", "gradient_sign", "gradient", spec=mistake("WrongSignOfOne"), where="last"),
    Fault("gradient_sum", "gradient_scale", "gradient", spec=mistake("SumForMean"), where="all"),
    Fault("gradient_divided_twice", "gradient_scale", "gradient", spec=mistake("DividedTwice"), where="all"),
    Fault("derivative_missing", "activation_derivative_missing", "gradient", spec=mistake("DerivativeMissing"),
          where="hidden"),
    Fault("derivative_of_gradient", "activation_derivative_of_wrong_tensor", "gradient",
          spec=mistake("DerivativeOfGradient"), where="hidden"),
    Fault("bias_gradient_of_values", "bias_gradient_wrong", "gradient", spec=mistake("BiasOfValues"), where="biases"),
    Fault("bias_gradient_of_outputs", "bias_gradient_wrong", "gradient", spec=mistake("BiasOfOutputs"),
          where="biases"),
    Fault("gradient_accumulated", "gradient_accumulated", "gradient", spec=mistake("Accumulated"), where="all"),
    Fault("eight_sigmoid_layers", "gradient_vanishing", "depth",
          spec=lambda s: replace(activated("sigmoid")(s), hidden=(24,) * 8)),
    Fault("gain_3_in_nine_layers", "gradient_exploding", "depth", spec=exploding, weights=scaled_weights(3.0)),
    Fault("first_layer_frozen", "parameter_frozen", "gradient", spec=mistake("Frozen"), where="first"),
    Fault("weights_frozen", "parameter_frozen", "gradient", spec=mistake("FrozenWeights"), where="weights"),
    # dynamics
    Fault("rate_x30", "learning_rate_too_high", "dynamics", spec=times_rate(30.0)),
    Fault("rate_x300", "learning_rate_too_high", "dynamics", spec=times_rate(300.0)),
    Fault("adam_rate_1", "learning_rate_too_high", "dynamics", ("ours",), spec=changed(optimizer="adam", rate=1.0)),
    Fault("rate_x0.01", "learning_rate_too_low", "dynamics", spec=times_rate(0.01)),
    Fault("rate_x0.0001", "learning_rate_too_low", "dynamics", spec=times_rate(0.0001)),
    Fault("adam_rate_0.000001", "learning_rate_too_low", "dynamics", ("ours",),
          spec=changed(optimizer="adam", rate=1e-6)),
    Fault("relu_biases_-10", "dead_relu", "init", spec=activated("relu"), weights=biases_at(-10.0),
          where="hidden"),
    Fault("relu_biases_-30", "dead_relu", "init", spec=activated("relu"), weights=biases_at(-30.0),
          where="hidden"),
    Fault("tanh_biases_8", "saturated_units", "init", spec=activated("tanh"), weights=biases_at(8.0, True),
          where="hidden"),
    Fault("sigmoid_biases_15", "saturated_units", "init", spec=activated("sigmoid"),
          weights=biases_at(15.0, True), where="hidden"),
    Fault("batch_of_1", "batch_too_small", "dynamics", spec=changed(batch_size=1)),
    Fault("decay_1", "weight_decay_too_strong", "penalty", spec=changed(weight_decay=1.0)),
    Fault("decay_0.2", "weight_decay_too_strong", "penalty", spec=changed(weight_decay=0.2)),
    Fault("dropout_0.98", "dropout_too_strong", "penalty", spec=changed(dropout=0.98)),
    Fault("dropout_0.9", "dropout_too_strong", "penalty", spec=changed(dropout=0.9)),
    Fault("identity_activations", "no_nonlinearity", "capacity", sets=("banana", "ring"),
          spec=activated("identity")),
    Fault("one_unit", "capacity_too_small", "capacity", spec=lambda s: replace(s, hidden=(1,) * len(s.hidden)),
          sets=("banana", "vehicle", "ring", "digits")),
    Fault("wide_on_noisy_few", "overfit", "rows", data=noisy_few,
          spec=lambda s: replace(s, hidden=(256,) * len(s.hidden))),
    Fault("half_precision_exp", "precision_overflow", "precision", ("hand",), CLASSES,
          spec=lambda s: mistake("NaiveExp", dtype="float16", epochs=5 * s.epochs)(s)),
    Fault("half_precision_small_loss", "precision_underflow", "precision", ("hand",),
          spec=lambda s: mistake("TinyUnits", dtype="float16", rate=s.rate * 1e8)(s)),
    Fault("rate_decays_at_once", "plateau", "dynamics", spec=mistake("Decaying")),
)}
