"""What the records of a run amount to: figures, tables, drawings."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest

from .baselines import BASELINES
from .faults import FAULTS

Record = dict[str, Any]
OURS = "xpdense.doctor"


def said(record: Record, who: str) -> list[str]:
    """The causes that were named, worst first, each once."""
    if who == OURS:
        return list(dict.fromkeys(finding["cause"] for finding in record.get("findings", [])))
    return list(record.get("baselines", {}).get(who, []))


def share(hits: list[bool]) -> dict[str, Any]:
    """Of how many, which share, and its 95 % interval by Clopper and Pearson."""
    if not hits:
        return {"of": 0, "hits": 0, "share": None, "interval": None}
    found = binomtest(sum(hits), len(hits)).proportion_ci(0.95, "exact")
    return {"of": len(hits), "hits": int(sum(hits)), "share": round(float(np.mean(hits)), 4),
            "interval": [round(float(found.low), 4), round(float(found.high), 4)]}


def place_right(record: Record) -> bool | None:
    """Whether the first finding of a right cause names a right tensor; None where no tensor is expected or found."""
    for finding in record.get("findings", []):
        if expected := record["where"].get(finding["cause"]):
            return bool({word.strip() for word in finding["where"].split(",")} & set(expected))
    return None


def figures(records: list[Record], who: str) -> Record:
    """How one method does on the cases that count, and on healthy runs."""
    faulty = [r for r in records if r["type"] == "faulty" and r["counts"]]
    well = [r for r in records if r["type"] == "healthy"]
    two = [r for r in faulty if len(r["faults"]) > 1]
    found: Record = {
        "detected": share([bool(said(r, who)) for r in faulty]),
        "top_1": share([bool(set(said(r, who)[:1]) & set(r["causes"])) for r in faulty]),
        "top_3": share([bool(set(said(r, who)[:3]) & set(r["causes"])) for r in faulty]),
        "both_of_two": share([set(r["causes"]) <= set(said(r, who)) for r in two]),
        "false_alarms": share([bool(said(r, who)) for r in well]),
        "findings_per_faulty_run": round(float(np.mean([len(said(r, who)) for r in faulty])), 3) if faulty else None,
    }
    if who == OURS:
        seconds = [r["seconds"] for r in faulty + well]
        places = [right for r in faulty if (right := place_right(r)) is not None]
        found |= {
            "where_right": share(places), "restored": share([r["restored"] for r in faulty]),
            "seconds": dict(zip(("median", "p95", "max"), np.round(np.percentile(seconds, [50, 95, 100]), 3).tolist(),
                                strict=True)) if seconds else None,
            "errors": dict(Counter(r["diagnosis_error"] for r in faulty + well if r["diagnosis_error"])),
        }
    return found


def by_cause(records: list[Record]) -> dict[str, Record]:
    """Of cases of a single fault, by their cause."""
    found = {}
    for cause in dict.fromkeys(fault.cause for fault in FAULTS.values()):
        some = [r for r in records if r.get("causes") == [cause] and r["counts"]]
        if some:
            found[cause] = {
                "cases": len(some), "detected": sum(bool(said(r, OURS)) for r in some),
                "top_1": sum(said(r, OURS)[:1] == [cause] for r in some),
                "top_3": sum(cause in said(r, OURS)[:3] for r in some),
                "where": share([w for r in some if (w := place_right(r)) is not None])["share"],
                "restored": sum(bool(r.get("restored")) for r in some),
                "instead": dict(Counter((said(r, OURS) or ["nothing"])[0] for r in some
                                        if said(r, OURS)[:1] != [cause]).most_common(4)),
            }
    return found


def counted(records: list[Record]) -> dict[str, dict[str, int]]:
    """Of each fault alone, how many cases there are and how many count; those of two faults together in one line."""
    found: dict[str, dict[str, int]] = {}
    for r in records:
        if r["type"] == "faulty":
            line = found.setdefault(r["faults"][0] if len(r["faults"]) == 1 else "two faults",
                                    {"cases": 0, "count": 0, "raised": 0})
            line["cases"] += 1
            line["count"] += r["counts"]
            line["raised"] += bool(r["error"])
    return found


def summary(records: list[Record], diagnosis: bool) -> Record:
    names = [*([OURS] if diagnosis else []), *BASELINES]
    return {
        "cases": sum(r["type"] == "faulty" for r in records), "count": sum(
            r["type"] == "faulty" and r["counts"] for r in records),
        "healthy": sum(r["type"] == "healthy" for r in records),
        "methods": {name: figures(records, name) for name in names}, "counted": counted(records),
        "causes": by_cause(records) if diagnosis else {},
        "false_alarm_causes": dict(Counter(c for r in records if r["type"] == "healthy" for c in said(r, OURS))),
    }


# --- tables --------------------------------------------------------------------------------------------------------

def percent(value: Record | None) -> str:
    return "" if not value or value["share"] is None else f"{100 * value['share']:.1f}"


def table(title: str, first: str, columns: list[str]) -> Table:
    made = Table(title=title, box=SIMPLE_HEAD, collapse_padding=True)
    made.add_column(first, no_wrap=True)
    for column in columns:
        made.add_column(column, justify="right")
    return made


def show(found: Record, records: dict[str, list[Record]], diagnosis: bool) -> None:
    console = Console(width=150)
    made = table("Healthy references: ten runs each", "data/architecture, kind", ["mean", "sd"])
    for name, r in found["references"].items():
        made.add_row(name, f"{r['mean']:.3f}", f"{r['sd']:.3f}")
    console.print(made)
    for part, figures_of in found["parts"].items():
        made = table(f"{part}: faults, and how many of their cases count", "fault", ["cases", "count", "raised"])
        for name, line in figures_of["counted"].items():
            made.add_row(name, *map(str, line.values()))
        console.print(made)
        if diagnosis:
            made = table(f"{part}: by cause, single faults that count", "cause",
                         ["cases", "found", "top 1", "top 3", "where, %", "restored", "named instead"])
            for cause, line in figures_of["causes"].items():
                made.add_row(cause, str(line["cases"]), str(line["detected"]), str(line["top_1"]), str(line["top_3"]),
                             "" if line["where"] is None else f"{100 * line['where']:.0f}", str(line["restored"]),
                             ", ".join(f"{k} {v}" for k, v in line["instead"].items()))
            console.print(made)
        title = (f"{part}: {figures_of['count']} of {figures_of['cases']} faulty cases count, "
                 f"{figures_of['healthy']} healthy runs; in %")
        made = table(title, "method", ["detected", "top 1", "top 3", "both of two", "where", "restored",
                                       "false alarms", "95 % interval", "findings a run"])
        for name, f in figures_of["methods"].items():
            bounds = f["false_alarms"]["interval"]
            made.add_row(name, percent(f["detected"]), percent(f["top_1"]), percent(f["top_3"]),
                         percent(f["both_of_two"]), percent(f.get("where_right")), percent(f.get("restored")),
                         percent(f["false_alarms"]), "" if bounds is None else
                         f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f}", str(f["findings_per_faulty_run"]))
        console.print(made)
        if diagnosis:
            ours = figures_of["methods"][OURS]
            console.print(f"seconds of a diagnosis: {ours['seconds']}")
            console.print(f"causes of false alarms: {figures_of['false_alarm_causes']}")
            for error, times in ours["errors"].items():
                console.print(f"{times} x {error}", markup=False)
        rejected = [r["rejected"] for r in records[part] if r["type"] == "healthy"]
        if rejected:
            console.print(f"candidates for healthy runs that did not train as well: {sum(rejected)}, "
                          f"{len(rejected)} that did")


# --- drawings ------------------------------------------------------------------------------------------------------

def draw(records: dict[str, list[Record]], found: Record, stem: Path) -> list[Path]:
    """A confusion matrix and the shares by cause for each part, and all methods side by side."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    paths = []
    for part, some in records.items():
        single = [r for r in some if r["type"] == "faulty" and r["counts"] and len(r["faults"]) == 1]
        causes = [c for c in dict.fromkeys(f.cause for f in FAULTS.values()) if any(r["causes"] == [c] for r in single)]
        if not causes:
            continue
        other = [*causes, "another", "nothing"]
        matrix = np.zeros((len(causes), len(other)))
        for r in single:
            name = (said(r, OURS) or ["nothing"])[0]
            matrix[causes.index(r["causes"][0]), other.index(name if name in other else "another")] += 1
        share_of = matrix / matrix.sum(axis=1, keepdims=True)
        figure, axes = plt.subplots(figsize=(13, 11), layout="constrained")
        axes.imshow(share_of, cmap="Blues", vmin=0, vmax=1)
        for i, j in zip(*np.nonzero(matrix), strict=True):
            axes.text(j, i, f"{matrix[i, j]:.0f}", ha="center", va="center", fontsize=7,
                      color="white" if share_of[i, j] > 0.5 else "black")
        axes.set_xticks(range(len(other)), other, rotation=90, fontsize=7)
        axes.set_yticks(range(len(causes)), causes, fontsize=7)
        axes.set(xlabel="first finding", ylabel="fault", title=f"{part}: cases of a single fault")
        paths.append(save(figure, stem, f"confusion-{part}"))
    figure, axes = plt.subplots(1, len(records), figsize=(6 * len(records), 4), layout="constrained", squeeze=False)
    for ax, (part, of) in zip(axes[0], found["parts"].items(), strict=True):
        for k, key in enumerate(("detected", "top_3", "top_1", "false_alarms")):
            values = [100 * (f[key]["share"] or 0.0) for f in of["methods"].values()]
            ax.bar(np.arange(len(values)) + 0.2 * (k - 1.5), values, 0.2, label=key.replace("_", " "))
        ax.set_xticks(range(len(of["methods"])), of["methods"], rotation=20, fontsize=8)
        ax.set(title=part, ylabel="%", ylim=(0, 100))
        ax.legend(fontsize=8)
    paths.append(save(figure, stem, "methods"))
    return paths


def save(figure: Any, stem: Path, name: str) -> Path:
    import matplotlib.pyplot as plt

    path = stem.with_name(f"{stem.name}-{name}.png")
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
