"""`diagnose`: why a training fails. The procedure, top to bottom."""

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
from .findings import Finding
from .look import Look, merged
from .program import NetworkProgram, Subject
from .rows import of_rows
from .search import Search
from .sound import best_learnt, standardised
from .trial import Outcome, Setting, Trials, seconds_per_step

SECONDS = 12.0  # that all trials together may take, about
TRIALS = 18  # how many there are, about


def diagnose(program: Any, X: Any, y: Any, *, loss: Any = None, optimizer: Any = None, batch_size: int | None = None,
             epochs: int | None = None, shuffle: bool = True, seed: int = 0) -> Diagnosis:
    """Say why a training fails, by experiments on copies of it.

    Signals nominate causes; for each a copy is trained from the same weights on the same batches with that one thing
    changed, and a cause is reported only where the change cures. What is given is not changed.

    Parameters
    ----------
    program : object, Network or estimator
        As it is before training. A program written by hand has `params` (a dict of its live arrays), `predict(X)`,
        `loss(X, y)`, `gradients(X, y)` and `step(X, y)`, one update on one batch; what it lacks narrows what can be
        found. Numbers among its attributes that are called dropout, weight_decay or the like are experimented with.
    X : array (n, features)
    y : array
        As the program takes it.
    loss, optimizer : as in `fit`
        Of a network; default: that of its last training, and adam.
    batch_size : int
        Rows of a step, default 32.
    epochs : int
        Of the training; default: as many as make 1,000 steps, at least 5.
    shuffle : bool
        Whether the training draws the order of the rows anew in each epoch.
    seed : int
        Of what is held out and drawn.

    Returns
    -------
    Diagnosis

    Raises
    ------
    ParameterError, ShapeError
        Before any work: also where the program cannot be copied, or does not predict.

    Examples
    --------
    >>> import xpdense as xd
    >>> X = np.random.default_rng(0).standard_normal((300, 4)); y = (X[:, :1] * X[:, 1:2] > 0).astype(float)
    >>> net = xd.DenseNetwork([xd.Dense(16, "tanh"), xd.Dense(1)], inputs=4)
    >>> found = diagnose(net, X, y, loss="binary_cross_entropy", optimizer=xd.SGD(1e-5), batch_size=32, epochs=60)
    >>> [finding.cause for finding in found.findings]
    ['learning_rate_too_low']
    """
    begun = time.perf_counter()
    setting = _setting(program, X, y, loss, optimizer, batch_size, epochs, shuffle)
    seed = positive_int("seed", seed, 0)
    with np.errstate(all="ignore"):
        look = Look(setting, seed)
        findings = [one.finding for one in look.proven]
        layers = {name: value.ravel()[:10000] for name, value in setting.subject.params().items()}
        if any(finding.cause == "single_class" for finding in findings) or "step" not in setting.subject.can:
            if "step" not in setting.subject.can:
                look.notes.append("The program has no step(X, y): nothing could be tried by training.")
            return Diagnosis(tuple(merged(findings)), tuple(look.notes), layers=layers, gradients=look.report,
                             seconds=time.perf_counter() - begun)

        trials, affordable = _trials(look, seed)
        as_it_is = trials.of(setting)
        now = final = trials.of(look.setting) if look.proven else as_it_is
        x = standardised(look.setting.x, look.setting.usable)
        sound = best_learnt(trials, x, look.setting.usable)
        if look.curable:
            search = Search(look, trials, sound)
            convicted = [] if now.error else search.imbalance(now)
            if not now.error and search.is_ill(now, affordable):
                chosen, final = search.causes(now)
                convicted = search.measured(chosen, final) or convicted
            findings += convicted
            if not final.error:
                findings += of_rows(trials, look.setting, look.task, x, final, sound)
        if (now.error or np.median(now.by_fold) < 0.5 * sound.skill - 0.05) and not findings:
            findings.append(_unknown(now, sound.skill))
        losses = {"as it is": as_it_is.losses} | ({"cured": final.losses} if final is not as_it_is else {})
        return Diagnosis(tuple(merged(findings)), tuple(look.notes), as_it_is.skill, sound.skill,
                         final.skill if findings else None, losses, layers, look.report, time.perf_counter() - begun)


def _check_program(subject: Subject, x: np.ndarray) -> None:
    """It can be copied, and predicts."""
    try:
        copy = subject.copy()
    except Exception as raised:
        raise ParameterError(f"experiments are done to copies, and copy.deepcopy(program) raised "
                             f"{type(raised).__name__}: {raised}. Give the program a __deepcopy__") from raised
    try:
        with np.errstate(all="ignore"):
            copy.predict(x[:8])
    except Exception as raised:
        raise ParameterError(f"the program's predict(X) of 8 rows of {x.shape[1]} features raised "
                             f"{type(raised).__name__}: {raised}") from raised


def _trials(look: Look, seed: int) -> tuple[Trials, int]:
    """Trials as long as there is time for, and how many steps a single one may have."""
    rows, seconds = len(look.setting.x), seconds_per_step(look.setting)
    folds = 5 if rows < 600 else 3 if rows <= 4000 else 2
    most, affordable = 200, 200
    if math.isfinite(seconds):
        most = int(min(5000, max(150, SECONDS / TRIALS / folds / seconds)))
        affordable = int(min(20000, max(most, SECONDS / seconds)))
    return Trials(look.task, seed, most, folds), affordable


def _unknown(now: Outcome, reachable: float) -> Finding:
    what = f"It raised {now.error}" if now.error else "Its loss became NaN or infinite" if not now.finite else \
        f"It reaches a skill of {now.skill:.2f}"
    return Finding("unknown", "training", f"{what}; a sound learner reaches {reachable:.2f} on the same rows. No "
                   "change that was tried cures it.", now.skill, None,
                   "See the losses and the layers; compare with a network of this package.", 0.5)


def _setting(program: Any, X: Any, y: Any, loss: Any, optimizer: Any, batch_size: int | None, epochs: int | None,
             shuffle: bool) -> Setting:
    """What is given, checked, as the experiments take it."""
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
        raise ParameterError(f"diagnose needs a program with {', '.join(sorted(lacking))}; it is a "
                             f"{type(program).__name__}")
    if x.dtype.kind != "f":
        x = x.astype(np.float64)
    if by_hand:
        _check_program(subject, x)
    return Setting(subject, x, target, size, passes, boolean("shuffle", shuffle))
