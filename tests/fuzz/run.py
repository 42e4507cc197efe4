"""Fuzz the loaders of files from strangers, led by coverage; exit 1 where anything but a named error came out.

    make fuzz
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
NAMES = ("model", "checkpoint", "npz", "csv", "parquet")
WORDS = ('"layers"', '"type"', '"Dense"', '"units"', '"inputs"', '"Residual"', '"dtype"', '"F32"', '"shape"',
         '"data_offsets"', "null", "true", "NaN", "1e999", "[[", "{}", '"tensor"', '"version"', '"reads"', "PAR1",
         "descr", "fortran_order", "|O", "<f8", "PK\x03\x04")


def fuzz(name: str) -> None:
    """Become libFuzzer, on one target; does not come back."""
    import atheris

    sys.path.insert(0, str(HERE.parent))
    with atheris.instrument_imports(include=["xpdense"]):
        from fuzz import targets

        targets.seeds(name)  # imports what is imported late

    def one(data: bytes) -> None:
        targets.holds(name, data)

    atheris.Setup([sys.argv[0], *sys.argv[3:]], one)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=600, help="in all")
    parser.add_argument("--target", choices=NAMES)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    wanted = [options.target] if options.target else list(NAMES)
    found, failed = {}, False
    sys.path.insert(0, str(HERE.parent))
    from fuzz import targets

    for name in wanted:
        place = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
        (place / "corpus").mkdir()
        for i, seed in enumerate(targets.seeds(name)):
            (place / "corpus" / f"seed{i}").write_bytes(seed)
        (place / "words").write_text("".join(map(_entry, WORDS)))
        begun = time.monotonic()
        command = [sys.executable, __file__, "--fuzz", name, str(place / "corpus"),
                   f"-max_total_time={options.seconds // len(wanted)}", "-timeout=10", "-rss_limit_mb=2048",
                   "-max_len=20000", f"-artifact_prefix={place}/", f"-dict={place / 'words'}", "-print_final_stats=1",
                   "-verbosity=0"]
        result = subprocess.run(command, capture_output=True, text=True)
        log = result.stdout + result.stderr
        crashes = sorted(str(path) for path in place.iterdir() if path.name.startswith(("crash", "timeout", "oom")))
        counted = [line.split()[-1] for line in log.splitlines() if "number_of_executed_units" in line]
        found[name] = {"executions": int(counted[-1]) if counted else 0, "seconds": round(time.monotonic() - begun),
                       "corpus": len(list((place / "corpus").iterdir())), "failures": crashes}
        print(f"{name}: {found[name]}")
        if result.returncode or crashes or not counted:
            failed = True
            print("\n".join(line for line in log.splitlines() if not line.startswith("INFO"))[-4000:])
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(1 if failed else 0)


def _entry(word: str) -> str:
    """A line of libFuzzer's dictionary."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in word.encode()) + '"\n'


if __name__ == "__main__":
    if sys.argv[1:2] == ["--fuzz"]:
        fuzz(sys.argv[2])
    main()
