# Every target sets up what it needs in .venv, and is quick when nothing is left to do.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
TRAIN ?= env=crafter agent=delta_iris size=tiny
# On a machine with one core a second pytest process only costs memory.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(4, os.cpu_count() or 1))')

.PHONY: train test lint format constraints

train: $(READY)
	@$(BIN)/tokendream train $(TRAIN)
	@echo "To type tokendream without a path: . $(BIN)/activate"

test: lint
	@$(BIN)/pytest -q -n $(WORKERS)

lint: $(READY)
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy --no-error-summary

format: $(READY)
	@$(BIN)/ruff check --quiet --fix
	@$(BIN)/ruff format --quiet

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "Python 3.11 to 3.13 is needed; for example: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "Setting up .venv (once; some minutes)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install -qq --disable-pip-version-check -c constraints.txt -e ".[crafter,atari,dmc,gym,dev]"
	@touch $@

# Needs uv. The packages torch brings along for CUDA differ by platform and follow torch's version.
constraints:
	@{ sed -n '/^#/p' constraints.txt; \
	   { uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-header \
	       --no-annotate --no-emit-index-url --no-emit-package torch pyproject.toml \
	     | grep -v -E '^(nvidia-|cuda-|triton)'; echo 'torch==2.13.0'; } | sort -f; } > .constraints.new
	@mv .constraints.new constraints.txt
