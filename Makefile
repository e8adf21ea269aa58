# make run   venv, install, quickstart sweep on the embedded benchmark, report
# make check venv, install with dev extras, lint, types, the quick tests: while you work
# make test  the same with all tests: what a release needs
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RESULTS := results/quickstart
# Without --no-compile, pip spends a minute on byte code of modules that nothing here imports.
INSTALL := pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt

# Python keeps the byte code of what it imports, also where the environment says otherwise (as many containers do):
# without it each process compiles torch, timm and Ray afresh, which takes three times as long as importing them.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: run check test lint clean

run: $(VENV)/.installed
	$(BIN)/tta-grid run quickstart --results $(RESULTS)
	$(BIN)/tta-grid report $(RESULTS) > /dev/null
	@echo "open     $(RESULTS)/report.html"

# Files in their own order: the launches of tests/grid, which wait more than they compute, come early.
TESTS := pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

check: lint
	$(BIN)/$(TESTS) -m 'not slow and not launch'

test: lint
	$(BIN)/$(TESTS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "tta-grid needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Give another: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/$(INSTALL) --editable '.[dev]'
	@touch $(VENV)/.installed $@
