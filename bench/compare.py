"""Speed of the working tree next to that of another revision: the four networks of `make bench`, in turns.

    make bench-compare BASE=<revision>
    make bench-compare BASE=<revision> BENCH="--networks 64-64-10 --seconds 30"

BASE is exported to build/compare/<its hash>. There, and in the working tree, the compiled library is built by the
revision's own setup.py where it is older than its sources; where those of both are the same, it is copied. `fit` trains
float32 with Adam on NumPy, each revision in a process of its own, which waits idle while the other's trains. A pair is
some epochs of each in turns, about half a second in all of each. A ratio is the seconds of the working tree by those of
BASE in the same pair: both meet the same machine. Processes are started anew several times for each network, since
where memory lies is decided at a start.

The verdict is "within noise" where the quartiles of the ratios have 1 between them, else "slower" or "faster". A
comparison of a revision with itself, BASE=HEAD in an unchanged tree, shows the noise of the machine. Leave the sources
as they are until it ends: a process imports them when it starts.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from shutil import copy
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table

from .contenders import NETWORKS, Case
from .results import FOLDER, SMOKE, environment, spread, verdict, write
from .worker import ROOT, Worker, cores

LIBRARY = Path("src", "xpdense", "_native" + sysconfig.get_config_var("EXT_SUFFIX"))
BLOCK = 0.5  #: seconds that each trains in a pair, or one epoch where that takes longer
STARTS = 4


def git(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    """A command of git in the checkout, whoever owns it."""
    return subprocess.run(["git", "-c", f"safe.directory={ROOT}", *arguments], cwd=ROOT, check=check,
                          stdout=subprocess.PIPE)


def export(revision: str) -> Path:
    """The files of a revision, in a folder of its own; with the working tree's library if its sources are the same."""
    folder = ROOT / "build" / "compare" / revision
    if not folder.exists():
        folder.mkdir(parents=True)
        subprocess.run(["tar", "-x", "-C", folder], input=git("archive", revision).stdout, check=True)
    same = git("diff", "--quiet", revision, "--", "kernels", "setup.py", check=False).returncode == 0
    if same and not (folder / LIBRARY).exists():
        copy(ROOT / LIBRARY, folder / LIBRARY)
    return folder


def build(folder: Path) -> Path:
    """The folder of a checkout from which xpdense is imported, its compiled library up to date."""
    library = folder / LIBRARY
    made_of = [folder / "setup.py", *folder.glob("kernels/*.h"), *folder.glob("kernels/cpu/*")]
    if not library.exists() or library.stat().st_mtime < max(path.stat().st_mtime for path in made_of):
        print(f"compiling the library of {folder}")
        library.unlink(missing_ok=True)
        subprocess.run([sys.executable, "setup.py", "--quiet", "build_ext", "--inplace", "--force"], cwd=folder,
                       check=True)
    if not library.exists():
        sys.exit(f"{folder}: the library was not compiled; without it NumPy would be timed")
    return folder / "src"


def compare(case: Case, base: Path, head: Path, seconds: float, starts: int = STARTS) -> dict[str, Any]:
    """Figures of one network, with xpdense of two folders: pairs in about so many seconds, and two for each start."""
    times: dict[str, list[float]] = {"base": [], "head": []}
    for _ in range(starts):
        with Worker("revision", case, base) as first, Worker("revision", case, head) as second:
            workers = {"base": first, "head": second}
            if out := {name: worker.out for name, worker in workers.items() if worker.out}:
                raise RuntimeError(f"{case.network}: {out}")
            epochs = max(1, round(BLOCK / first.epoch()))
            end, pair = time.monotonic() + seconds / starts, 0
            while pair < 2 or time.monotonic() < end:
                spent = dict.fromkeys(workers, 0.0)
                for turn in range(epochs):
                    for name in list(workers)[:: 1 if (pair + turn) % 2 else -1]:
                        spent[name] += workers[name].epoch()
                for name, each in spent.items():
                    times[name].append(each / epochs)
                pair += 1
            loaded = second.blas()
    quartiles = (25, 50, 75)
    ratio = spread(np.array(times["head"]) / times["base"], quartiles)
    return {
        "network": case.network, "batch": case.batch, "dtype": case.dtype, "optimizer": case.optimizer,
        "steps": case.steps, "epochs": epochs, "pairs": len(times["base"]),
        "ms_per_step": {name: spread(np.array(each) / case.steps * 1e3, quartiles) for name, each in times.items()},
        "rows_per_second": {name: spread(case.steps * case.batch / np.array(each), quartiles)
                            for name, each in times.items()},
        "ratio": ratio, "verdict": verdict(ratio), "blas": loaded,
    }


def show(cases: list[dict[str, Any]], base: str, head: str) -> None:
    """One row for each network."""
    table = Table(box=SIMPLE_HEAD, title=f"{head} next to {base}, {cores()} threads: median (quartiles)")
    table.add_column("network", no_wrap=True)
    for name in ("batch", "pairs", f"{base}, ms/step", f"{head}, ms/step", "rows/s", "ratio of seconds", "verdict"):
        table.add_column(name, justify="right", no_wrap=True)

    def words(figures: dict[str, float]) -> str:
        return "{p50:.4g} ({p25:.4g} to {p75:.4g})".format(**figures)

    for case in cases:
        table.add_row(case["network"], str(case["batch"]), str(case["pairs"]),
                      *(words(case["ms_per_step"][name]) for name in ("base", "head")),
                      f"{case['rows_per_second']['head']['p50']:,.0f}", words(case["ratio"]), case["verdict"])
    Console(width=160).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", help="a revision")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="some of them, with commas between")
    parser.add_argument("--seconds", type=float, default=70, help="of each network")
    parser.add_argument("--out", type=Path, help="the file of results [default: in bench/results, by both revisions]")
    parser.add_argument("--smoke", action="store_true", help="one network, shortly, to see that it runs")
    options = parser.parse_args()
    names = options.networks.split(",")
    if unknown := set(names) - NETWORKS.keys():
        parser.error(f"there is no {', '.join(sorted(unknown))}; some of {','.join(NETWORKS)}")
    base, head = (git("rev-parse", "--short", "--verify", f"{revision}^{{commit}}").stdout.decode().strip()
                  for revision in (options.base, "HEAD"))
    head += "-changed" if git("status", "--porcelain").stdout else ""
    out = options.out or FOLDER / f"compare-{base}-{head}.json"
    if options.smoke:
        names, options.seconds, out = list(NETWORKS)[:1], 1.0, SMOKE / "compare.json"
    sources = build(ROOT), build(export(base))
    cases = [compare(Case(name, "float32", "adam", "numpy"), sources[1], sources[0], options.seconds,
                     1 if options.smoke else STARTS) for name in track(names, "comparing", transient=True)]
    show(cases, base, head)
    loaded = [case.pop("blas") for case in cases][-1]
    write(out, environment(loaded=loaded) | {"base": base, "head": head, "threads": cores(), "cases": cases})
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
