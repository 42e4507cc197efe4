# Everything runs in an environment of its own inside the checkout; each target makes what it needs.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Tests run in as many processes as there are cores; each gets one thread.
ONE_THREAD := OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: demo test check bench golden clean

demo: .venv/cli.installed  ## train on real data
	$(BIN)/xpdense train digits

test: .venv/test.installed  ## all tests
	$(ONE_THREAD) $(BIN)/python -m pytest -n auto

check: .venv/check.installed  ## types, style, structure
	$(BIN)/mypy
	$(BIN)/ruff check
	$(BIN)/python -m pytest -q tests/test_house.py

bench: .venv/bench.installed  ## speed, next to the matrix products alone
	$(BIN)/python -m pytest bench -q --benchmark-disable-gc --benchmark-columns=median,iqr,rounds $(BENCH)

golden: .venv/test.installed  ## the numbers that PyTorch gives, anew
	$(PIP) install torch==2.13.0
	$(BIN)/python tests/golden/make_golden.py

clean:
	rm -rf .venv build dist src/*.egg-info

.venv/pyvenv.cfg:
	@test -n "$(PYTHON)" || { echo "xpdense needs Python 3.11, 3.12 or 3.13; name one: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -m venv .venv 2>/dev/null || { rm -rf .venv; \
		echo "installing the system's venv module"; apt-get update -qq && apt-get install -y -qq python3-venv && $(PYTHON) -m venv .venv; }

# PyTorch is tested where pip has been pointed at a wheel of it on disk; it is never downloaded: it may be gigabytes.
.venv/%.installed: .venv/pyvenv.cfg pyproject.toml
	$(PIP) install -e '.[$*]'
	@if [ $* = test ] && $(PIP) install --dry-run --no-index --no-deps torch==2.13.0 >/dev/null 2>&1; then \
		$(PIP) install torch==2.13.0; fi
	@touch $@
