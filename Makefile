# `make demo` and `make test` each set up everything they need, from Python 3.11 to 3.13, pip and make.

# what is compiled is kept: the tests start hundreds of processes
export PYTHONDONTWRITEBYTECODE =

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
HYDRA14 := hydra-core==1.4.0rc3 omegaconf==2.4.1rc1 hydra-joblib-launcher==1.4.0rc3

.PHONY: demo test test-slow test-cluster test-hydra14 bench check clean

demo: $(READY)  ## the five tricks, each alone, against the baseline: five to eight seeds on the digits
	$(BIN)/python -m runner experiment=demo

test: $(READY)  ## the default tests, some five minutes on two cores
	$(BIN)/python -m pytest -q --numprocesses=auto --maxprocesses=4

test-slow: $(READY)  ## all tests, also those that take longer
	$(BIN)/python -m pytest -q -m "not cluster" --numprocesses=auto --maxprocesses=4

test-cluster: $(READY)  ## sweeps over a real Slurm of one node, and a Ray of several; as root on Debian, where Slurm is installed if need be
	command -v slurmctld munged >/dev/null || { apt-get update -q && apt-get install -y -q slurm-wlm munge; }
	command -v fusermount3 >/dev/null || apt-get install -y -q fuse3
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[ray]' mfusepy
	$(BIN)/python -m pytest -q -m cluster -rs

test-hydra14: .venv-hydra14/.ready  ## the default tests with the release candidate of Hydra 1.4
	.venv-hydra14/bin/python -m pytest -q --numprocesses=auto --maxprocesses=4

bench: $(READY)  ## what it takes, beside its goals: under fifteen minutes on two quiet cores
	$(BIN)/python -m benchmarks

check: $(READY)  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 14) or sys.exit("Python must be 3.11 to 3.13, got " + sys.version.split()[0] + ". Name one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

.venv-hydra14/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-hydra14
	grep -v -e hydra-core -e omegaconf constraints.txt > .venv-hydra14/constraints.txt
	.venv-hydra14/bin/python -m pip install --quiet --constraint .venv-hydra14/constraints.txt --editable '.[dev]' $(HYDRA14)
	touch $@

clean:  ## remove what the set-up made; outputs/ stays
	rm -rf $(VENV) .venv-hydra14 .mypy_cache .pytest_cache .ruff_cache
