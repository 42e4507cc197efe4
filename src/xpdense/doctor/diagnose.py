"""`diagnose`: find out why a training fails. The procedure, from top to bottom."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from ..backend import host
from ..errors import ParameterError, ShapeError, boolean, positive_int
from ..losses import as_loss
from ..network import Network
from ..optimizers import as_optimizer
from .diagnosis import Diagnosis
from .evidence import examine
from .findings import Finding, merged
from .program import NetworkProgram, Subject
from .rows import RowChecks
from .search import Search
from .sound import best_learnt, standardised
from .task import Task
from .trial import Outcome, Setting, Trials, seconds_per_step

SECONDS = 12.0  # for all trials together, approximately
TRIALS = 18  # the approximate number of trials


def diagnose(program: Any, X: Any, y: Any, *, loss: Any = None, optimizer: Any = None, batch_size: int | None = None,
             epochs: int | None = None, shuffle: bool = True, seed: int = 0) -> Diagnosis:
    """Find out why a training fails, by experiments on copies of it.

    Signals suggest causes. For each cause a copy is trained, from the same weights on the same batches, with this one
    thing changed, and the cause is reported only if the change improves the training. The arguments are not changed.

    Parameters
    ----------
    program : object, Network or estimator
        Before training. A program that is not from this package has `params` (a dict of its live arrays), `predict(X)`,
        `loss(X, y)`, `gradients(X, y)` and `step(X, y)`, one update on one batch; with fewer of them less can be found.
        Its numeric attributes named like dropout or weight_decay are experimented with.
    X : array (n, features)
    y : array
        As the program takes it.
    loss, optimizer : as in `fit`
        For a network; default: the loss of its last training, and adam.
    batch_size : int
        Rows per step, default 32.
    epochs : int
        Of the training; default: enough for 1,000 steps, at least 5.
    shuffle : bool
        Whether the training shuffles the rows in each epoch.
    seed : int
        Of held-out rows and random numbers.

    Returns
    -------
    Diagnosis

    Raises
    ------
    ParameterError, ShapeError
        Before any work; also if the program cannot be copied or does not predict.

    Examples
    --------
    >>> import xpdense as xd
    >>> X = np.random.default_rng(0).standard_normal((300, 4)); y = (X @ [[1.0], [1.0], [1.0], [1.0]] > 0).astype(float)
    >>> net = xd.DenseNetwork([xd.Dense(16, "tanh"), xd.Dense(1)], inputs=4)
    >>> found = diagnose(net, X, y, loss="binary_cross_entropy", optimizer=xd.SGD(1e-5), batch_size=32, epochs=20)
    >>> found.findings[0].cause
    'learning_rate_too_low'
    """
    begun = time.perf_counter()
    given = _setting(program, X, y, loss, optimizer, batch_size, epochs, shuffle)
    seed = positive_int("seed", seed, 0)
    with np.errstate(all="ignore"):
        evidence = examine(given, seed)
        setting, task = evidence.setting, evidence.task
        findings = [one.finding for one in evidence.proven]
        layers = {name: value.ravel()[:10000] for name, value in given.subject.params().items()}
        if any(finding.cause == "single_class" for finding in findings) or "step" not in given.subject.can:
            missing = () if "step" in given.subject.can else ("The program has no step(X, y) for experiments.",)
            return Diagnosis(merged(findings), (*evidence.notes, *missing), layers=layers, gradients=evidence.report,
                             seconds=time.perf_counter() - begun)

        trials, affordable = _trials(setting, task, seed)
        as_it_is = trials.run(given)
        now = final = trials.run(setting) if evidence.proven else as_it_is
        x = standardised(setting.x, setting.usable)
        reference = best_learnt(trials, x, setting.usable)
        if evidence.curable:
            search = Search(evidence, trials, reference)
            found = [] if now.error else search.imbalance(now)
            if not now.error and search.falls_short(now, affordable):
                chosen, final = search.causes(now)
                found = search.measured(chosen, final) or found
            findings += found
            if not final.error:
                findings += RowChecks(trials, x, setting.mask(), reference).findings(final)
        if (now.error or np.median(now.by_fold) < 0.5 * reference.skill - 0.05) and not findings:
            findings.append(_unknown(now, reference.skill))
        losses = {"as it is": as_it_is.losses} | ({"cured": final.losses} if final is not as_it_is else {})
        return Diagnosis(merged(findings), evidence.notes, as_it_is.skill, reference.skill,
                         final.skill if findings else None, losses, layers, evidence.report,
                         time.perf_counter() - begun)


def _check_program(subject: Subject, x: np.ndarray) -> None:
    """Check that the program can be copied, and predicts."""
    try:
        copy = subject.copy()
    except Exception as raised:
        raise ParameterError(f"diagnose works on copies, and copy.deepcopy(program) raised {type(raised).__name__}: "
                             f"{raised}. Give the program a __deepcopy__") from raised
    try:
        with np.errstate(all="ignore"):
            copy.predict(x[:8])
    except Exception as raised:
        raise ParameterError(f"the program's predict(X) of 8 rows of {x.shape[1]} features raised "
                             f"{type(raised).__name__}: {raised}") from raised


def _trials(setting: Setting, task: Task, seed: int) -> tuple[Trials, int]:
    """Return trials that fit into the time limit, and the number of steps that a single one may have."""
    rows, seconds = len(setting.x), seconds_per_step(setting)
    folds = 5 if rows < 600 else 3 if rows <= 4000 else 2
    max_steps, affordable = 200, 200
    if math.isfinite(seconds):
        max_steps = int(min(5000, max(150, SECONDS / TRIALS / folds / seconds)))
        affordable = int(min(20000, max(max_steps, SECONDS / seconds)))
    return Trials(task, seed, max_steps, folds), affordable


def _unknown(now: Outcome, reference: float) -> Finding:
    what = f"The program raised {now.error}" if now.error else \
        f"The skill is {now.skill:.2f}" if now.finite else "The loss became NaN or infinite"
    return Finding("unknown", "training", f"{what}; a reference model reaches {reference:.2f} on the same rows. No "
                   "change that was tried improves it.", now.skill, None,
                   "Look at the losses and the layers; compare with a network of this package.", 0.5)


def _setting(program: Any, X: Any, y: Any, loss: Any, optimizer: Any, batch_size: int | None, epochs: int | None,
             shuffle: bool) -> Setting:
    """Check the arguments of `diagnose`, and return them as experiments take them."""
    if hasattr(program, "training_of"):  # an estimator
        made = program.training_of(X, y)
        return _setting(made.network, made.x, made.y, made.loss, made.optimizer, batch_size or made.batch_size,
                        epochs or made.epochs, made.shuffle and shuffle)
    x, target = np.asarray(host(X)), np.asarray(host(y))
    if x.ndim != 2 or x.dtype.kind not in "fiub":
        raise ShapeError(f"X must be numbers of shape (n, features), got {x.dtype} of shape {x.shape}")
    if len(x) != len(target) or target.dtype.kind not in "fiub":
        raise ShapeError(f"y must be numbers, one for each of the {len(x)} rows, got {target.dtype} of shape "
                         f"{target.shape}")
    if len(x) < 8:
        raise ShapeError(f"diagnose needs 8 rows at least, got {len(x)}")
    by_hand = not isinstance(program, Network)
    size = min(positive_int("batch_size", 32 if batch_size is None else batch_size), len(x))
    per_epoch = -(-len(x) // size)
    passes = max(5, -(-1000 // per_epoch)) if epochs is None else positive_int("epochs", epochs)
    if not by_hand:
        if x.shape[1] != program.inputs:
            raise ShapeError(f"the network takes {program.inputs} features, got {x.shape[1]}")
        chosen = loss if loss is not None else getattr(program, "loss", None)
        if chosen is None:
            raise ParameterError("diagnose needs loss= for a network that has not been trained")
        program = NetworkProgram(program, as_loss(chosen), as_optimizer("adam" if optimizer is None else optimizer),
                                 passes * per_epoch)
    elif loss is not None or optimizer is not None:
        raise ParameterError("loss= and optimizer= are for a network of this package: a program brings its own")
    subject = Subject(program)
    lacking = {"params", "predict"} - subject.can
    if lacking:
        raise ParameterError(f"diagnose needs a program with {', '.join(sorted(lacking))}, got a "
                             f"{type(program).__name__}")
    if x.dtype.kind != "f":
        x = x.astype(np.float64)
    if by_hand:
        _check_program(subject, x)
    return Setting(subject, x, target, size, passes, boolean("shuffle", shuffle))
