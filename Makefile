# Everything a user or CI runs. Tools live in .venv, results in build/.

PYTHON ?= python3
BOARD  ?= ulx3s_85f
CONFIG ?=
BIN    := .venv/bin
# Wall-clock bound for the whole test run, in seconds; a hang is a failure, not a wait.
TEST_LIMIT ?= 4500

with_config = $(if $(CONFIG),--config $(CONFIG))

.PHONY: setup sim test synth verilog bench bench-check campaign lint docs clean

setup: .venv/.stamp

.venv/.stamp: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Kiwicha needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

sim: setup
	$(BIN)/python -m kiwicha_host.cli.demo

test: lint
	timeout --signal=INT --kill-after=60 $(TEST_LIMIT) $(BIN)/pytest -n 2 --dist worksteal tests

synth: setup
	$(BIN)/kiwicha synth --board $(BOARD) $(with_config)

verilog: setup
	$(BIN)/kiwicha verilog $(with_config)

bench: setup
	$(BIN)/python -m bench

# Fails if one of the shorter programs takes over 1 % more cycles than in bench/baseline.json.
bench-check: setup
	$(BIN)/python -m bench.check

# Every pair of formats on the compiled chip, 100,000 results each; the tests have a small version.
campaign: setup
	$(BIN)/python -m bench.campaign

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: setup
	$(BIN)/python docs/generate.py

clean:
	rm -rf build
