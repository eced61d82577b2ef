# Everything a person types. `make` alone lists the targets.

PYTHON ?= python3
SWEEP ?= ablation_sample
RUNS ?= runs
ARGS ?=
CLUSTER ?= tests/cluster
MINUTES ?= 10
HASHES ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
TOOLS := $(VENV)/tools
HASHED := requirements-linux-x86_64.txt
INSTALL := pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help ablation test test-cluster fuzz audit hashes lint types figures ui docs clean

help:  ## list the targets
	@echo "make TARGET, where TARGET is one of"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo "Variables: PYTHON=$(PYTHON) SWEEP=$(SWEEP) RUNS=$(RUNS) ARGS=\"...\" (passed on to the pipeline)"
	@echo "           CLUSTER=$(CLUSTER) (which of them, for test-cluster) MINUTES=$(MINUTES) (of fuzz)"
	@echo "           HASHES=$(HASHES) (1: install only files whose hashes are in $(HASHED), on Linux x86-64)"

ablation: $(READY)  ## run the ablation of all six frames on the embedded sample, to the finished table
	@$(BIN)/python pipelines/ablate_frames.py sweeps/$(SWEEP).yaml --runs $(RUNS) $(ARGS)

test: $(READY) lint types  ## lint, check types, run the tests
	@echo "tests"
	@$(BIN)/python -m pytest -q -n 2 --dist worksteal

test-cluster: $(READY)  ## clusters on hosts made of namespaces: needs root, sshd, rsync, iproute2; half an hour or more
	@$(BIN)/python -m $(INSTALL) -c constraints.txt -e '.[cluster-test]'
	@$(BIN)/python -m pytest -q -m cluster $(CLUSTER)

fuzz: $(READY)  ## damage files of every kind at random for MINUTES; what fails is kept in tests/fuzz/corpus
	@$(BIN)/python -m tests.fuzz --minutes $(MINUTES)

audit: $(TOOLS)  ## compare constraints.txt with the known advisories, package by package; needs the network
	@$(TOOLS)/bin/pip-audit --strict --disable-pip --no-deps -r constraints.txt

hashes: $(TOOLS)  ## write requirements-linux-x86_64.txt anew after a change of constraints.txt; needs the network
	@$(TOOLS)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
		--no-annotate -c constraints.txt --extra dev pyproject.toml -o $(TOOLS)/$(HASHED)
	@sed -i '/^[^#]/,$$d' $(HASHED)
	@sed -E 's/^([^ ]+) ;.* \\$$/\1 \\/' $(TOOLS)/$(HASHED) >> $(HASHED)

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
ifeq ($(HASHES),)
	@$(BIN)/python -m $(INSTALL) -c constraints.txt -e '.[dev]'
else
	@$(BIN)/python -m $(INSTALL) --require-hashes -r $(HASHED)
	@$(BIN)/python -m $(INSTALL) --no-deps --no-build-isolation -e .
endif
	@touch $@

# Programs that look after the dependencies, apart from them.
$(TOOLS):
	@$(PYTHON) -m venv $@
	@$@/bin/python -m $(INSTALL) pip-audit uv
