"""The network doctor on seeded faults in real trainings, and on healthy ones: what it finds, where, and what cures.

Run with `make bench-doctor`. A faulty case counts where its training raises, or its test score is significantly worse
than ten healthy ones of the same data, architecture and kind. What is done is kept case by case, so that a run that was
broken off goes on; a change of the doctor's rules, or of the benchmark, begins anew.
"""

from __future__ import annotations

import ast
import hashlib
import json
import multiprocessing
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import track

import xpdense.doctor
from xpdense.doctor.diagnose import diagnose

from ..results import FOLDER, ROOT, SMOKE, environment, write
from . import cure, healthy, report
from .baselines import verdicts
from .cases import Built, Case, Reference, build, faulty, reference_runs, train
from .faults import FAULTS
from .setups import KINDS, Pair, pairs

PARTS = ("development", "test")
HEALTHY = {"development": 150, "test": 300}
LIMIT = 60.0  #: seconds of a diagnosis
HERE = Path(__file__).parent
PROGRESS = ROOT / "build" / "doctor"
REFERENCES: dict[tuple[Pair, str], Reference] = {}


class TooLong(BaseException):
    """A diagnosis took more than LIMIT; no Exception, so that nothing on the way takes it for its own."""


NO_RULES = ("__init__.py", "diagnosis.py", "rate.py", "report.py", "watch.py")  # they show, or ask, and decide nothing


def source_hash(folder: Path) -> str:
    """Of the Python files of a folder: names and what they do, not how they are laid out or described."""
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*.py") if path.name not in NO_RULES):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
        found.update(path.relative_to(folder).as_posix().encode() + b"\0" + ast.dump(tree).encode() + b"\0")
    return found.hexdigest()


def rules_hash() -> str:
    return source_hash(Path(xpdense.doctor.__file__).parent)


# --- one case ------------------------------------------------------------------------------------------------------

def diagnosed(built: Built) -> dict[str, Any]:
    """The findings and their seconds; an error is recorded, and is a wrong answer."""
    def stop(*_: Any) -> None:
        raise TooLong

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    start, found, error = perf_counter(), [], ""
    try:
        with np.errstate(all="ignore"):
            said = diagnose(built.program, built.x, built.y, **built.options())
        found = [finding.to_dict() for finding in said.findings]
    except TooLong:
        error = f"more than {LIMIT:.0f} s"
    except Exception as caught:
        place = traceback.extract_tb(caught.__traceback__)[-1]
        error = f"{type(caught).__name__}: {caught} ({Path(place.filename).name}:{place.lineno})"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
    return {"findings": found, "seconds": perf_counter() - start, "diagnosis_error": error}


def one(job: tuple[str, Any, bool]) -> dict[str, Any]:
    """The record of one case: a faulty one, a healthy one, or a run for reference."""
    kind, case, diagnosis = job
    warnings.simplefilter("ignore")
    if kind == "reference":
        reached, error = train(build(case))
        return {"name": case.name, "type": kind, "pair": [case.pair.data, case.pair.architecture], "kind": case.kind,
                "score": reached, "error": error}
    if kind == "healthy":
        part, number = case
        case, reached, rejected = healthy.run(part, number, lambda c: REFERENCES[c.pair, c.kind])
        found: dict[str, Any] = {"rejected": rejected, "spec": repr(case.spec), "rows": case.rows}
        name, counts, error = f"healthy {part} {number}", True, ""
    else:
        reached, error = train(build(case))
        found, name = {"faults": list(case.faults), "causes": list(case.causes)}, case.name
        counts = REFERENCES[case.pair, case.kind].counts(reached, error)
    found |= {"name": name, "type": kind, "part": case.part, "pair": str(case.pair), "kind": case.kind,
              "score": reached, "error": error, "counts": counts}
    if not counts:
        return found
    built = build(case)
    if kind == "faulty":
        found["where"] = {FAULTS[f].cause: sorted(built.where(FAULTS[f])) for f in case.faults}
    if diagnosis:
        found |= diagnosed(built)
        if kind == "faulty":
            found |= restored(case, found["findings"])
    found["baselines"] = verdicts(build(case))
    return found


def restored(case: Case, findings: list[dict[str, Any]]) -> dict[str, Any]:
    """What a training reaches after the first finding's cure; after all of them, where there are two faults."""
    if not findings:
        return {"restored": False, "cured_score": None, "cure_error": ""}
    try:
        built = cure.cured(case, findings if len(case.faults) > 1 else findings[:1])
        reached, error = train(built) if built is not None else (None, "the cure is in the source, and not there")
    except Exception as caught:
        reached, error = None, f"{type(caught).__name__}: {caught}"
    fine = reached is not None and not error and REFERENCES[case.pair, case.kind].restores(reached)
    return {"restored": fine, "cured_score": reached, "cure_error": error}


# --- all of them ---------------------------------------------------------------------------------------------------

def read(path: Path) -> dict[str, dict[str, Any]]:
    """The records of a run that was broken off, by name; a last line that is not whole is let be."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[record["name"]] = record
    return found


def name_of(job: tuple[str, Any, bool]) -> str:
    kind, case, _ = job
    return f"healthy {case[0]} {case[1]}" if kind == "healthy" else case.name


def work(jobs: list[tuple[str, Any, bool]], path: Path, processes: int, what: str) -> list[dict[str, Any]]:
    """The records of all jobs, in their order; what is in the file is not done again, what is new is added to it."""
    done = read(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    left = [job for job in jobs if name_of(job) not in done]
    with path.open("a") as file, multiprocessing.get_context("fork").Pool(processes) as pool:
        records: Iterable[dict[str, Any]] = pool.imap_unordered(one, left)
        for record in track(records, what, total=len(left), transient=True):
            file.write(json.dumps(record) + "\n")
            file.flush()
            done[record["name"]] = record
    return [done[name_of(job)] for job in jobs]


def references(path: Path, processes: int, needed: set[tuple[Pair, str]]) -> None:
    """Fill REFERENCES by ten healthy runs of each pair and kind that is needed."""
    jobs = [("reference", case, False) for part in PARTS for pair in pairs(part) for kind in KINDS
            if (pair, kind) in needed for case in reference_runs(pair, kind)]
    scores: dict[tuple[Pair, str], list[float]] = {}
    for record in work(jobs, path, processes, "healthy references"):
        scores.setdefault((Pair(*record["pair"]), record["kind"]), []).append(record["score"])
    for key, values in scores.items():
        REFERENCES[key] = Reference(float(np.mean(values)), float(np.std(values, ddof=1)))


def jobs_of(part: str, limit: int, only: str, diagnosis: bool) -> list[tuple[str, Any, bool]]:
    some: Callable[[Case], bool] = (lambda case: only in case.causes or only in case.faults) if only else (
        lambda case: True)
    chosen = [("faulty", case, diagnosis) for case in faulty(part) if some(case)][::limit]
    well = [] if only and only != "healthy" else [("healthy", (part, n), diagnosis) for n in range(HEALTHY[part])]
    return chosen + well[::limit]


def pair_of(job: tuple[str, Any, bool]) -> tuple[Pair, str]:
    """The pair and kind with whose reference a job is compared."""
    kind, case, _ = job
    return healthy.turn(*case) if kind == "healthy" else (case.pair, case.kind)


def main(
    part: Annotated[str, typer.Option(help="development, test or all.")] = "all",
    limit: Annotated[int, typer.Option(min=1, help="Take one case of so many.")] = 1,
    only: Annotated[str, typer.Option(help="The cases of this cause, or fault; or healthy.")] = "",
    jobs: Annotated[int, typer.Option(min=1, help="Processes, of one thread each.")] = 2,
    diagnosis: Annotated[bool, typer.Option(help="Without: whether cases are built, trained, and count.")] = True,
    out: Annotated[Path | None, typer.Option(
        help="The file of results [default: bench/results/doctor.json of a whole run; a part is not written]")] = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="One case, to see that it runs.")] = False,
) -> None:
    """Diagnose faulty and healthy trainings."""
    parts = PARTS if part == "all" else (part,)
    if not set(parts) <= set(PARTS):
        raise typer.BadParameter(f"there is no {part}; development, test or all", param_hint="--part")
    rules, bench, progress = rules_hash(), source_hash(HERE), PROGRESS
    chosen = {p: jobs_of(p, limit, only, diagnosis) for p in parts}
    if smoke:
        parts, out, progress = PARTS[:1], SMOKE / "doctor.json", SMOKE / "doctor"
        chosen = {parts[0]: chosen[parts[0]][:1]}
        shutil.rmtree(progress, ignore_errors=True)
    references(progress / f"references-{bench[:12]}.jsonl", jobs, {pair_of(job) for p in parts for job in chosen[p]})
    path = progress / (f"progress-{bench[:12]}-{rules[:12]}.jsonl" if diagnosis else f"built-{bench[:12]}.jsonl")
    records = {p: work(chosen[p], path, jobs, p) for p in parts}
    summary = environment() | {
        "command": " ".join(["python -m bench.doctor.run", *sys.argv[1:]]),
        "rules": rules, "benchmark": bench,
        "references": {f"{pair} {kind}": {"mean": round(r.mean, 4), "sd": round(r.sd, 4)}
                       for (pair, kind), r in REFERENCES.items()},
        "parts": {p: report.summary(found, diagnosis) for p, found in records.items()},
    }
    report.show(summary, records, diagnosis)
    whole = part == "all" and limit == 1 and not only and diagnosis
    out = out or (FOLDER / "doctor.json" if whole else None)
    if out is None:
        print(f"not written to a file: a part of the benchmark; its cases are in {path.relative_to(Path.cwd())}"
              if path.is_relative_to(Path.cwd()) else f"cases are in {path}")
        return
    write(out, summary)
    drawn = report.draw(records, summary, out.with_suffix("")) if diagnosis else []
    print("wrote", ", ".join(map(str, [out, *drawn])))


if __name__ == "__main__":
    typer.run(main)
