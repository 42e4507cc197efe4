"""Benchmarks, run from the root of a checkout: `python -m pytest bench`, `python -m bench.flights` and so on.

Importing this package unsets what pins kernels of OpenBLAS; each program and each of its processes imports it before
NumPy. The pins are made for one build of OpenBLAS, and can halve the speed of another.
"""

import os

for _name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(_name, None)
