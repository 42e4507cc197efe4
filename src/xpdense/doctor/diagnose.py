"""`diagnose`: why a training fails. The procedure, top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..backend import host
from ..errors import ParameterError, ShapeError, boolean, positive_int
from ..losses import as_loss
from ..network import Network
from ..optimizers import as_optimizer
from . import candidates as suspects
from .anatomy import Anatomy, anatomy_of
from .candidates import Candidate
from .diagnosis import Diagnosis
from .findings import Finding
from .gradients import GradientReport
from .outputs import doubled_link, ends, of_labels, of_output
from .program import NetworkProgram, Subject
from .rebuild import Inside, look_inside, targets
from .recognise import recognise
from .sideways import of_rows, overfits
from .sound import Learnt, learn, nearest, standardised
from .structure import as_network, of_structure
from .task import Task, task_of
from .trial import Outcome, Params, Setting, Trials, seconds_per_step

SECONDS = 12.0  # that all trainings together may take, about
TRIALS = 18
PROBE = 64  # rows by which predictions and gradients are examined


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
        Before any work.

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
    with np.errstate(all="ignore"):
        found = _Examination(setting, positive_int("seed", seed, 0)).run()
    return replace(found, seconds=time.perf_counter() - begun)


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
    size = min(positive_int("batch_size", 32 if batch_size is None else batch_size), len(x))
    per_epoch = -(-len(x) // size)
    passes = max(5, -(-1000 // per_epoch)) if epochs is None else positive_int("epochs", epochs)
    if isinstance(program, Network):
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
        raise ParameterError(f"diagnose needs a program with {', '.join(sorted(lacking))}; it is a {type(program).__name__}")
    if x.dtype.kind != "f":
        x = x.astype(np.float64)
    return Setting(subject, x, target, size, passes, boolean("shuffle", shuffle))


class _Examination:
    """One diagnosis under way."""

    def __init__(self, setting: Setting, seed: int) -> None:
        self.given, self.setting, self.seed = setting, setting, seed
        self.proven: list[Candidate] = []
        self.notes: list[str] = []
        self.report: GradientReport | None = None
        self.inside: Inside | str = "it was not looked at"
        self.anatomy = Anatomy((), None)
        self.clipped: Candidate | None = None
        self.doubtful: list[Candidate] = []
        self.by_hand = setting.subject.network is None

    def run(self) -> Diagnosis:
        self._prove(suspects.not_finite(self.setting))
        self._look()
        if self.task.classes and len(np.unique(self.task.truth[self._usable()])) < 2 or \
                not self.task.classes and not np.ptp(self.task.truth[self._usable()]):
            self._prove(Candidate(Finding("single_class", "y", "All rows have the same target: there is nothing to "
                                          "learn.", fix="Give rows of every class.", confidence=1.0), None, True))
            return self._diagnosis(None, None, None, [])
        if "step" not in self.setting.subject.can:
            self.notes.append("The program has no step(X, y): nothing could be tried by training.")
            return self._diagnosis(None, None, None, [])
        seconds = seconds_per_step(self.setting)
        rows = len(self.setting.x)
        folds = 5 if rows < 600 else 3 if rows <= 4000 else 2
        most = int(min(5000, max(150, SECONDS / TRIALS / folds / seconds))) if math.isfinite(seconds) else 200
        self.trials = Trials(self.task, self.seed, most, folds)
        self.all_at_once = min(20000, int(SECONDS / seconds)) if math.isfinite(seconds) else most
        as_it_is = self.trials.of(self.given)
        return self._by_training(as_it_is)

    # --- without training ------------------------------------------------------------------------------------------

    def _prove(self, *found: Candidate | None) -> None:
        for one in found:
            if one is not None:
                self.proven.append(one)
                if one.cure is not None:
                    self.setting = one.cure(self.setting)

    def _usable(self) -> np.ndarray:
        usable = self.setting.usable
        return np.arange(len(self.setting.x)) if usable is None else np.flatnonzero(usable)

    def _some(self) -> tuple[np.ndarray, np.ndarray]:
        rows = np.random.default_rng([self.seed, 29]).permutation(self._usable())[:PROBE]
        return self.setting.x[rows], self.setting.y[rows]

    def _look(self) -> None:
        """What can be told from predictions, losses and gradients at drawn weights."""
        subject = self.setting.subject
        self.anatomy = anatomy_of(subject, None)
        x, y = self._some()
        self._prove(doubled_link(self.setting))
        subject = self.setting.subject
        self.ends = ends(subject, self.anatomy, x, self.seed)
        probabilities = self.ends is not None and self.ends.are_probabilities
        width = self.ends.usual[0].shape[1] if self.ends else self.anatomy.chain[-1].units if self.anatomy.chain \
            else subject.copy().predict(x[:8]).shape[1]
        self.task = task_of(self.setting.y, width, probabilities)
        self.doubtful = [one for one in of_labels(self.setting, self.task, probabilities) if not one.proven]
        self._prove(*(one for one in of_labels(self.setting, self.task, probabilities) if one.proven))
        x, y = self._some()
        if not {"params", "predict", "loss", "gradients"} <= subject.can:
            lacking = ", ".join(sorted({"loss", "gradients"} - subject.can))
            self.notes.append(f"The program has no {lacking}: its gradients were not examined.")
        elif self._is_random(x, y):
            self.notes.append("The program gives another loss or gradient at each call (dropout?): gradients were not "
                              "examined.")
        else:
            self.inside = self._inside(x, y)
            if self.ends is not None:
                self._prove(*of_output(self.setting, self.task, self.ends, self.anatomy, self.inside, x, y))
                x, y = self._some()
                self.inside = self.inside if isinstance(self.inside, Inside) else self._inside(x, y)
            if all(one.cure is not None for one in self.proven):
                self._check_gradients(x, y)
        self.anatomy = anatomy_of(self.setting.subject, self.inside)

    def _inside(self, x: np.ndarray, y: np.ndarray) -> Inside | str:
        try:
            return look_inside(self._quiet(), x, y, self.seed)
        except Exception as raised:  # the program's own: some rows or weights it does not take
            return f"it raised {type(raised).__name__}: {raised}"

    def _quiet(self) -> Subject:
        """A copy without dropout."""
        setting = self.setting
        for one in suspects.of_numbers(setting, least=0.0):
            if one.finding.cause == "dropout_too_strong" and one.cure is not None:
                setting = one.cure(setting)
        return setting.subject.copy()

    def _is_random(self, x: np.ndarray, y: np.ndarray) -> bool:
        subject = self._quiet()
        try:
            if subject.loss(x, y) == subject.loss(x, y):
                return False
            return math.isfinite(subject.loss(x, y))
        except Exception:
            return False

    def _check_gradients(self, x: np.ndarray, y: np.ndarray) -> None:
        try:
            self.report = recognise(self._quiet().program, x, y, seed=self.seed)
        except Exception as raised:  # the program's own
            self.notes.append(f"Its gradients could not be examined: {type(raised).__name__}: {raised}")
            return
        cure: Callable[[Setting], Setting] | None = None
        if isinstance(self.inside, Inside) and self.report.findings:
            inside = self.inside

            def right(params: Params, x: np.ndarray, y: np.ndarray) -> Params:
                target = targets(y, inside.chain[-1].units)
                assert target is not None
                return inside.right(params, np.asarray(x, np.float64), target)

            def cure(s: Setting) -> Setting:
                return replace(s, gradients=right)
        for finding in self.report.findings:
            if finding.cause == "probability_clipped" and cure is not None and all(
                    f.cause == finding.cause for f in self.report.findings):  # it may do no harm
                self.clipped = Candidate(finding, cure)
            else:
                self._prove(Candidate(finding, cure, True))
        if not self.report.findings:
            self._prove(self._frozen(x, y))

    def _frozen(self, x: np.ndarray, y: np.ndarray) -> Candidate | None:
        """Parameters that a step leaves as they are though they have a gradient."""
        subject = self._quiet()
        before = subject.params()
        if "step" not in subject.can or any(value.dtype.itemsize < 4 for value in before.values()):
            return None
        try:
            gradient = subject.gradients(x, y)
            subject.step(x, y)
        except Exception:  # told by the first trial
            return None
        after = subject.params()
        largest = max(float(np.abs(g).max()) for g in gradient.values())
        still = [n for n in before if n in gradient and np.abs(gradient[n]).max() > 1e-3 * largest > 0
                 and np.array_equal(before[n], after[n])]
        if not still or len(still) == len(before):
            return None
        return Candidate(Finding("parameter_frozen", ", ".join(still), "A step leaves it as it is, though it has a "
                                 "gradient.", fix="Update it in step().", confidence=0.97), None, True)

    # --- by training -----------------------------------------------------------------------------------------------

    def _by_training(self, as_it_is: Outcome) -> Diagnosis:
        trials, setting = self.trials, self.setting
        x = standardised(setting.x, setting.usable)
        self.sound = self._sound(x)
        spread = (0.4 if self.task.classes else 0.3) * (1.0 - self.sound.skill)  # on a hard task sound ones differ more
        goal = self.sound.skill - 0.03 - spread
        now = trials.of(setting) if self.proven else as_it_is
        convicted: list[Candidate] = []
        final = now
        incurable = any(one.cure is None for one in self.proven)
        ill = now.worth < goal and not self._only_slow(setting, now, goal) or overfits(trials, now, self.sound) is not None
        if ill and not incurable:
            convicted, final = self._search(setting, now, goal)
        findings = self._measured(convicted, setting, final)
        if not incurable and not convicted:
            findings += self._imbalance(setting, now)
        if not incurable:
            findings += of_rows(trials, setting, self.task, x, final, self.sound)
        if now.worth < 0.5 * self.sound.skill - 0.05 and not findings and not self.proven:
            findings.append(self._unknown(now))
        return self._diagnosis(as_it_is, self.sound, final, findings)

    def _only_slow(self, setting: Setting, now: Outcome, goal: float) -> bool:
        """Whether the whole training, of which the trials make a part, is sound."""
        whole = setting.epochs * -(-len(setting.x) // setting.batch_size)
        if whole <= self.trials.most or not now.finite:
            return False
        return self.trials.of(setting, folds=1, most=min(whole, self.all_at_once)).worth >= goal

    def _sound(self, x: np.ndarray) -> Learnt:
        """The best of a linear model, a network and the nearest neighbours."""
        usable = self.setting.usable
        learnt = [learn(self.trials, x, (), usable=usable), learn(self.trials, x, (64,), usable=usable)]
        best = max(learnt, key=lambda one: one.skill)
        self.linear = learnt[0]
        near = nearest(self.trials, x, usable)
        return best if near <= best.skill else Learnt(near, best.fit)

    def _search(self, setting: Setting, now: Outcome, goal: float) -> tuple[list[Candidate], Outcome]:
        """Causes without which the training is sound: all are cured, then each is left in."""
        trials, margin = self.trials, self.trials.margin()
        named = [*suspects.of_data(setting, self.task),
                 *suspects.of_weights(setting, self.anatomy), *suspects.of_numbers(setting),
                 *_one(suspects.of_precision(setting)), *_one(self.clipped)]
        chosen, best = self._together(setting, named, now, goal)
        if best.worth < goal:
            chosen, best = self._further(setting, chosen, best, goal)
        if best.worth < goal and len(chosen) < len(named):  # what does harm by itself may be right with another rate
            both = self._other_updates(setting, named, trials.of(_cured(setting, named)), goal)
            chosen, best = max((chosen, best), both, key=lambda pair: pair[1].worth)
        if best.worth < now.worth + max(margin, min(0.2, 0.35 * (self.sound.skill - now.worth))) or any(
                b <= a for a, b in zip(now.by_fold, best.by_fold, strict=True)):
            return [], now
        # Each is left in, the last that was found first: what does no harm is acquitted.
        for one in reversed(list(chosen)):
            others = [c for c in chosen if c is not one]
            outcome = trials.of(_cured(setting, others))
            if outcome.worth >= best.worth - 0.5 * margin:
                chosen, best = others, max(best, outcome, key=lambda o: o.worth)
        return chosen, trials.of(_cured(setting, chosen))

    def _together(self, setting: Setting, named: list[Candidate], now: Outcome,
                  goal: float) -> tuple[list[Candidate], Outcome]:
        """All that are named cured at once, but for those whose cure does harm."""
        chosen, best = named, self.trials.of(_cured(setting, named)) if named else now
        for one in named:
            if best.worth >= goal:
                break
            others = [c for c in chosen if c is not one]
            outcome = self.trials.of(_cured(setting, others)) if others else now
            if outcome.worth > best.worth + 0.5 * self.trials.margin():
                chosen, best = others, outcome
        return chosen, best

    def _further(self, setting: Setting, chosen: list[Candidate], best: Outcome,
                 goal: float) -> tuple[list[Candidate], Outcome]:
        """What only other updates, or other layers, may cure."""
        by_updates = self._other_updates(setting, chosen, best, goal)
        if by_updates[1].worth >= goal:
            return by_updates
        return max([by_updates, *self._other_layers(setting, chosen, best, goal)], key=lambda pair: pair[1].worth)

    def _other_updates(self, setting: Setting, chosen: list[Candidate], best: Outcome,
                       goal: float) -> tuple[list[Candidate], Outcome]:
        trials, margin = self.trials, self.trials.margin()
        for _ in range(2):
            options = [[*chosen, one] for one in self._updates(setting, chosen, best)]
            tried = [(option, trials.of(_cured(setting, option), folds=1).worth) for option in options]
            found = max((worth for _, worth in tried), default=0.0)
            if found < best.by_fold[0] + 0.5 * margin:
                break
            option = next(option for option, worth in tried if worth >= found - 0.02)  # of those as good the gentlest
            outcome = trials.of(_cured(setting, option))
            if outcome.worth < best.worth + max(margin, 0.3 * (self.sound.skill - best.worth)):
                break
            if option[-1].finding.cause == "learning_rate_too_high" and outcome.fit < best.fit + 0.5 * margin:
                break  # it learns less, and so fits the rows less closely: no fault of the steps
            chosen, best = option, outcome
            if best.worth >= goal:
                break
        return chosen, best

    def _other_layers(self, setting: Setting, chosen: list[Candidate], best: Outcome,
                      goal: float) -> list[tuple[list[Candidate], Outcome]]:
        """The same in a network of this package: the program itself, or one that computes as it does."""
        twin, found = self._twin(_cured(setting, chosen)), list[tuple[list[Candidate], Outcome]]()
        if twin is None:
            return found
        for one in of_structure(twin, anatomy_of(twin.subject, None)):
            for factor in (1.0, 0.1, 10.0):
                cure = one.cure if factor == 1.0 else _after(one.cure, suspects.rate(factor).cure)
                outcome = self.trials.of(_cured(twin, [replace(one, cure=cure)]))
                if self.by_hand:
                    cure = _after(lambda s: self._twin(s) or s, cure)
                found.append(([*chosen, replace(one, cure=cure)], outcome))
                if outcome.worth >= goal:
                    return found
        return found

    def _updates(self, setting: Setting, chosen: Sequence[Candidate], best: Outcome) -> list[Candidate]:
        """Other learning rates, gentlest first, and a rate that lasts."""
        have = {one.finding.cause for one in chosen}
        found = [] if have & {"learning_rate_too_high", "learning_rate_too_low"} else [
            suspects.rate(f) for f in suspects.FACTORS]
        found += [one for one in self.doubtful if one.finding.cause not in have]
        if best.subject is not None and best.finite and "plateau" not in have:
            cured = _cured(setting, chosen)
            found += _one(suspects.held_rate(cured, cured.start(), best.subject))
        if isinstance(self.inside, Inside) and self.by_hand and not best.finite:
            inside = self.inside
            found.append(Candidate(
                Finding("precision_overflow", "output", "Its predictions become NaN where logits are large: exp "
                        "overflows.", fix="Subtract the largest logit of each row before exp; take the loss of the "
                        "logits.", confidence=0.9), lambda s: as_network(s, inside) or s))
        return found

    def _twin(self, setting: Setting) -> Setting | None:
        if setting.subject.network is not None:
            return setting
        return as_network(setting, self.inside) if isinstance(self.inside, Inside) else None

    # --- what is said ------------------------------------------------------------------------------------------------

    def _measured(self, chosen: Sequence[Candidate], setting: Setting, cured: Outcome) -> list[Finding]:
        """The findings, worst first: the skill with each left in, next to that without any."""
        found = []
        for one in chosen:
            left_in = self.trials.of(_cured(setting, [c for c in chosen if c is not one]))
            cause = one.finding.cause
            if cause == "precision_underflow" and not left_in.finite:
                cause = "precision_overflow"
            found.append(replace(one.finding, cause=cause, before=left_in.skill, after=cured.skill))
        return sorted(found, key=lambda f: f.before or 0.0)

    def _imbalance(self, setting: Setting, now: Outcome) -> list[Finding]:
        """A rare class that is found more often where classes are drawn as often."""
        found = suspects.imbalance(setting, self.task)
        if found is None or found.cure is None:
            return []
        rarest = int(np.min(np.unique(self.task.truth, return_counts=True)[1]))
        several = [Trials(self.task, seed, self.trials.most, self.trials.folds.max() + 1) for seed in (101, 102)]
        uneven, even = (float(np.mean([first.skill, *(trials.of(one).skill for trials in several)])) for first, one in (
            (now, setting), (self.trials.of(found.cure(setting)), found.cure(setting))))
        if even < uneven + 0.05 + 0.25 / math.sqrt(rarest):
            return []
        return [replace(found.finding, before=uneven, after=even)]

    def _unknown(self, now: Outcome) -> Finding:
        what = f"it raised {now.error}" if now.error else "its loss became NaN or infinite" if not now.finite else \
            f"it reaches a skill of {now.skill:.2f}"
        return Finding("unknown", "training", f"{what[0].upper()}{what[1:]}; a sound learner reaches "
                       f"{self.sound.skill:.2f} on the same rows. No change that was tried cures it.", now.skill, None,
                       "See the losses and the layers; compare with a network of this package.", 0.5)

    def _diagnosis(self, as_it_is: Outcome | None, sound: Learnt | None, final: Outcome | None,
                   findings: Sequence[Finding]) -> Diagnosis:
        proven = [one.finding for one in self.proven]
        ordered = _merged([*proven, *findings])
        losses = {}
        if as_it_is is not None:
            losses["as it is"] = as_it_is.losses
        if final is not None and ordered and final is not as_it_is:
            losses["cured"] = final.losses
        layers = {name: value.ravel()[:10000] for name, value in self.given.subject.params().items()}
        return Diagnosis(tuple(ordered), tuple(self.notes), as_it_is.skill if as_it_is else None,
                         sound.skill if sound else None, final.skill if final and ordered else None, losses, layers,
                         self.report)


def _merged(findings: Sequence[Finding]) -> list[Finding]:
    """One finding of a cause, though it may lie at several places."""
    by_cause: dict[str, list[Finding]] = {}
    for finding in findings:
        by_cause.setdefault(finding.cause, []).append(finding)
    merged = []
    for several in by_cause.values():
        first = several[0]
        if len(several) > 1:
            evidence = " ".join(f"At {f.where}: {f.evidence}" for f in several)
            first = replace(first, where=", ".join(dict.fromkeys(", ".join(f.where for f in several).split(", "))),
                            evidence=evidence)
        merged.append(first)
    return merged


def _one(candidate: Candidate | None) -> list[Candidate]:
    return [] if candidate is None else [candidate]


def _after(first: Callable[[Setting], Setting] | None,
           second: Callable[[Setting], Setting] | None) -> Callable[[Setting], Setting]:
    assert first is not None
    assert second is not None
    return lambda s: second(first(s))


def _cured(setting: Setting, chosen: Sequence[Candidate]) -> Setting:
    for one in chosen:
        assert one.cure is not None
        setting = one.cure(setting)
    return setting
