# Everything here works on a machine that has Python 3.11 or newer and reaches a package index.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  NAME is one of: $(patsubst experiments/%.yaml,%,$(wildcard experiments/*.yaml))"

# pip would compile every file of all packages, on one core; a quarter of that is ever imported.
PIP := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable '.[dev]'
	@touch $@

.PHONY: setup
setup: $(STAMP) ## make the virtual environment from pinned versions

.PHONY: demo
demo: $(STAMP) ## quantize SmolLM2-135M, evaluate it, print the table
	$(BIN)/python run.py

NAME ?= critical_ratio
.PHONY: experiment
experiment: $(STAMP) ## NAME=critical_ratio: run the sweep of experiments/NAME.yaml, print its table
	$(BIN)/python run.py +experiments=$(NAME)

.PHONY: report
report: $(STAMP) ## one HTML page of all records, opened in a browser
	$(BIN)/crvq report --open

.PHONY: notebooks
notebooks: $(STAMP) ## run the notebooks on the shipped records and store their pictures (needs Chrome)
	$(BIN)/python -m crvq.report.notebook notebooks/*.ipynb

# The GPU kernels are tested in Triton's interpreter; on Linux with CUDA, torch brings Triton itself.
$(VENV)/.triton: $(STAMP)
	-$(PIP) triton
	@touch $@

# One process of tests per core; the tests of a file share what they make, so they stay together.
WORKERS ?= --numprocesses logical --maxprocesses 4 --dist loadfile
.PHONY: test
test: $(STAMP) $(VENV)/.triton ## the tests, linter and types that CI runs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest $(WORKERS)

.PHONY: test-slow
test-slow: $(STAMP) ## tests on the real SmolLM2-135M (downloads it once; minutes)
	$(BIN)/python -m pytest -m slow

.PHONY: faults
faults: $(STAMP) ## kill, stop, damage and starve tiny runs, 500 times; prints what was survived
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m tests.faults

.PHONY: slurm
slurm: $(STAMP) ## a sweep on a real Slurm on this machine (apt-get install slurm-wlm munge, as root)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slurm tests/slurm

.PHONY: format
format: $(STAMP) ## let ruff rewrite the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: clean
clean: ## remove the virtual environment and caches (never results/)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
