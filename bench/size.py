"""Lines of code in src/, without blanks, comments and docstrings: `make size`, or `make size BASE=v0.1.0` to compare.

A line counts where a token of code starts or ends on it; of an expression over several lines, each line counts.
"""

from __future__ import annotations

import ast
import io
import os
import subprocess
import tarfile
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAYOUT = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
          tokenize.ENCODING)


def code_lines(source: str) -> int:
    """The number of lines that hold code.

    >>> code_lines('"A docstring."\\n\\n# a comment\\nx = [1,\\n     2]  # two lines\\n')
    2
    """
    lines = {line for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type not in LAYOUT
             for line in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(ast.parse(source)):
        documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        if documented and ast.get_docstring(node, clean=False) is not None:
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def sizes(base: str) -> dict[str, int]:
    """Lines of code by module: of the working tree, or of the revision `base`."""
    if not base:
        return {str(path.relative_to(ROOT)): code_lines(path.read_text()) for path in (ROOT / "src").rglob("*.py")}
    archive = subprocess.run(["git", "archive", base, "src"], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        names = [name for name in tar.getnames() if name.endswith(".py")]
        return {name: code_lines(tar.extractfile(name).read().decode()) for name in names}


if __name__ == "__main__":
    now, base = sizes(""), os.environ.get("BASE", "")
    before = sizes(base) if base else now
    for name in sorted(now.keys() | before.keys()):
        change = now.get(name, 0) - before.get(name, 0)
        if change or not base:
            print(f"{now.get(name, 0):7,} {change:+6,} {name}" if base else f"{now[name]:7,} {name}")
    change = sum(now.values()) - sum(before.values())
    print(f"{sum(now.values()):7,} {f'{change:+6,} ' if base else ''}in all")
