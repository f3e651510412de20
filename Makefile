# Every target makes its own virtual environment, from nothing but Python 3.11 or later, make and a package registry.
#
#     make PYTHON=python3.13 VENV=.venv-3.13 test     another interpreter, beside the first
#     make test ARGS="tests/retry -x"                 arguments for pytest (without the coverage threshold)

SHELL := /bin/bash

PYTHON ?= python3
VENV ?= .venv
PYTHONS ?= 3.11 3.12 3.13
ARGS ?=
MUTANTS ?=
DEMO ?=
COVERAGE ?= 95

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
TOOLS := $(VENV)/.tools-installed
READY := $(VENV)/.package-installed
# Folders too: deleting a file changes only them.
SOURCES := $(shell find src -name __pycache__ -prune -o -print)

.DEFAULT_GOAL := help
.PHONY: help demo test suite test-all check format-check lint types types-mypy types-pyright contracts bench docs fuzz mutation gates all \
	format api constraints build clean

help: ## Say what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- for users and contributors -------------------------------------------------------------------------------

demo: $(READY) ## Watch an outage with plain retries and with the golden path (DEMO="--duration 30")
	@$(BIN)/resilience demo --output build/demo $(DEMO)

test: $(READY) ## Run the whole suite on the installed wheel; coverage must hold
ifeq ($(strip $(ARGS)),)
	@$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest --ignore=tests/stress --ignore=tests/sim
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report --fail-under=$(COVERAGE)
	@# Without the tracer: it would slow what is about time, and get into what is about interrupts and forks.
	$(BIN)/python -m pytest tests/stress tests/sim
else
	$(BIN)/python -m pytest $(ARGS)
endif

suite: $(READY)
	$(BIN)/python -m pytest $(ARGS)

test-all: ## Run the suite on every supported Python found (PYTHONS="3.11 3.12 3.13")
	@scripts/test-all $(PYTHONS)

check: format-check lint types contracts ## Format, lint, types, import rule, public API, snippets of the docs

format-check: $(READY)
	$(BIN)/ruff format --check .

lint: $(READY)
	$(BIN)/ruff check .

types: types-mypy types-pyright

types-mypy: $(READY)
	$(BIN)/mypy

types-pyright: $(READY)
	$(BIN)/pyright --pythonpath $(BIN)/python

contracts: $(READY)
	$(BIN)/python -m pytest -q tests/test_layering.py tests/test_public_api.py tests/test_repo.py tests/test_docs.py

bench: $(READY) ## Measure the cost of a guarded call, here and elsewhere, and say whether it is within its gates
	@status=0; $(BIN)/python -m benchmarks.gates $(ARGS) || status=1; $(BIN)/python -m benchmarks.peers || status=1; \
		$(BIN)/python -m pytest benchmarks --benchmark-autosave --timeout=900 -s || status=1; exit $$status

docs: $(READY) ## Renew generated pages, check links and snippets, build the site into build/site
	$(BIN)/python scripts/docs.py --write
	$(BIN)/python -m pytest -q tests/test_docs.py
	$(BIN)/mkdocs build --quiet --strict --site-dir build/site

fuzz: $(READY) ## Run property tests for long, and the hammer and fork tests
	HYPOTHESIS_PROFILE=thorough $(BIN)/python -m pytest -m "fuzz or hypothesis" --timeout=3600 $(ARGS)

mutation: $(READY) ## Change the machines' code and see whether a test notices (MUTANTS="resilience._core.*")
	@rm -rf mutants
	HYPOTHESIS_PROFILE=ci $(BIN)/mutmut run --max-children 2 $(MUTANTS)
	@$(BIN)/mutmut results | grep -v ': not checked$$' || echo "No mutant survived."

gates: $(READY) ## Simulate overloads with the defaults, for few clients and for many, and ask whether they recover (minutes)
	@status=0; $(BIN)/python -m tests.sim.gates --seeds 20 $(ARGS) || status=1; \
		$(BIN)/python -m tests.sim.gates --seeds 5 --clients 400 $(ARGS) || status=1; exit $$status

all: check test docs bench ## Everything that must hold before a change lands

# --- for maintainers ------------------------------------------------------------------------------------------

format: $(TOOLS) ## Format the code, and fix what ruff can fix safely
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

api: $(READY) ## Accept the present public API (tests/public_api.txt)
	$(BIN)/python scripts/public_api.py --write
	$(BIN)/python scripts/docs.py --write

constraints: ## Resolve the development dependencies anew (constraints.txt)
	@scripts/constraints $(PYTHON)

build: $(READY) ## Build the wheel and the source archive into dist
	@rm -rf dist
	$(BIN)/hatchling build

clean: ## Remove everything that is made here
	rm -rf .venv .venv-* build dist mutants .coverage .coverage.* .benchmarks .hypothesis .mypy_cache \
		.pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the environment ------------------------------------------------------------------------------------------

$(TOOLS): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, not " + sys.version if sys.version_info < (3, 11) else 0)'
	@echo "Preparing $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install -qq --upgrade --constraint constraints.txt pip # pip reads dependency groups from 25.1 on
	@$(PIP) install -qq --constraint constraints.txt --group dev
	@$(PIP) install -qq --constraint constraints.txt --no-build-isolation '.[all]'
	@touch $@

# The package is installed as users get it, from a wheel, and again when its sources change.
$(READY): $(TOOLS) README.md $(SOURCES)
	@$(PIP) install -qq --no-deps --no-build-isolation --force-reinstall .
	@touch $@
