# `make demo` and `make test` each set up everything they need, from Python 3.11 to 3.13, pip and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-slow check clean

demo: $(READY)  ## the five tricks, each alone, against the baseline: five seeds on the digits
	$(BIN)/python -m runner experiment=demo

test: $(READY)  ## the default tests, under five minutes on two cores
	$(BIN)/python -m pytest -q --numprocesses=auto --maxprocesses=4

test-slow: $(READY)  ## all tests, also those that take longer
	$(BIN)/python -m pytest -q -m "slow or not slow" --numprocesses=auto --maxprocesses=4

check: $(READY)  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 14) or sys.exit("Python must be 3.11 to 3.13, got " + sys.version.split()[0] + ". Name one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:  ## remove what the set-up made; outputs/ stays
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
