# Everything a person types. `make` alone lists the targets.

PYTHON ?= python3
SWEEP ?= ablation_sample
RUNS ?= runs
ARGS ?=
CLUSTER ?= tests/cluster
MINUTES ?= 10

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help ablation test test-cluster fuzz lint types figures ui docs clean

help:  ## list the targets
	@echo "make TARGET, where TARGET is one of"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo "Variables: PYTHON=$(PYTHON) SWEEP=$(SWEEP) RUNS=$(RUNS) ARGS=\"...\" (passed on to the pipeline)"
	@echo "           CLUSTER=$(CLUSTER) (which of them, for test-cluster) MINUTES=$(MINUTES) (of fuzz)"

ablation: $(READY)  ## run the ablation of all six frames on the embedded sample, to the finished table
	@$(BIN)/python pipelines/ablate_frames.py sweeps/$(SWEEP).yaml --runs $(RUNS) $(ARGS)

test: $(READY) lint types  ## lint, check types, run the tests
	@echo "tests"
	@$(BIN)/python -m pytest -q -n 2

test-cluster: $(READY)  ## clusters on hosts made of namespaces: needs root, sshd, rsync, iproute2; half an hour or more
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cluster-test]'
	@$(BIN)/python -m pytest -q -m cluster $(CLUSTER)

fuzz: $(READY)  ## damage structure files at random for MINUTES; what fails is kept in tests/fuzz/corpus
	@$(BIN)/python -m tests.fuzz.structures --minutes $(MINUTES)

lint: $(READY)  ## ruff: rules and format
	@echo "ruff"
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --diff .

types: $(READY)  ## mypy
	@echo "mypy"
	@$(BIN)/mypy

figures: $(READY)  ## every table and figure of SWEEP on one page, from the results in RUNS
	@$(BIN)/python analysis/make_all.py --sweep $(SWEEP) --runs $(RUNS)

ui: $(READY)  ## show the runs in a browser (MLflow)
	@$(BIN)/crystalframer ui --runs $(RUNS)

docs: $(READY)  ## the documentation as a site, in site/; links are checked
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "written: site/index.html"

clean:  ## remove the environment and caches; results in RUNS stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment is made once, and again when what it is made of has changed.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info[:2] <= (3, 13) else "needs Python 3.11, 3.12 or 3.13, but $(PYTHON) is " + sys.version.split()[0] + ": name another one, e.g. make PYTHON=python3.12")'
	@echo "setting up $(VENV) (once, takes a few minutes) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
