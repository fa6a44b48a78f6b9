# `make demo` and `make test` need Python >= 3.11 and make, nothing else: they make .venv themselves.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
EXTRAS ?= dev
# vLLM pins what it is built with, so its tests run in an environment of their own.
VLLM_VENV ?= .venv-vllm
VLLM_READY := $(VLLM_VENV)/.ready
# A script that puts a CPU build of vLLM into the environment it is given; by default the index has vLLM.
CCA_VLLM_INSTALLER ?=

.PHONY: demo test check bench unit integration test-vllm clean

demo: $(READY)
	$(BIN)/cca demo

test: check unit integration

check: $(READY)
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/pyright --pythonpath $(BIN)/python

# Small models gain nothing from a second thread, so tests take one process a core instead.
unit: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n logical --maxprocesses 8 --dist worksteal -m "not integration and not slow and not vllm" --durations=10

integration: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n logical --maxprocesses 4 --dist loadfile -m "integration and not slow" --durations=10

test-vllm: $(VLLM_READY)
	$(VLLM_VENV)/bin/pytest -m vllm tests/engines/test_vllm.py tests/engines/test_vllm_run.py --durations=10

fuzz: $(READY)
	CCA_FUZZ=800 $(BIN)/pytest tests/fuzz --durations=5

bench: $(READY)
	$(BIN)/python -m benchmarks

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[$(EXTRAS)]"
	touch $(READY)

$(VLLM_READY): pyproject.toml
	test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --upgrade pip
	if test -n "$(CCA_VLLM_INSTALLER)"; then bash "$(CCA_VLLM_INSTALLER)" $(VLLM_VENV); else $(VLLM_VENV)/bin/python -m pip install --quiet -e ".[vllm]"; fi
	$(VLLM_VENV)/bin/python -m pip install --quiet -e ".[math]" pytest pytest-timeout hypothesis
	touch $(VLLM_READY)

clean:
	rm -rf $(VENV) $(VLLM_VENV) build dist
