"""The modules of this folder are no tests, and need CuPy, so they are not collected."""

from __future__ import annotations

collect_ignore = ["building.py", "elementwise.py", "emulator.py", "raw_kernels.py"]
