"""The modules of this folder are found by name; they are no tests, and need CuPy, so they are not collected."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

collect_ignore = ["building.py", "elementwise.py", "emulator.py", "raw_kernels.py"]
