.DEFAULT_GOAL := help
.PHONY: help setup demo test check fix bench clean

TASK ?= detection
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
STAMP := $(VENV)/setup.stamp
export PATH := $(BIN):$(PATH)

help:  ## print this
	@echo "timmflow: keeps a vision model fresh"
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## make the environment in .venv (a few minutes, 6 GB; nothing to do: at once)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v == (3, 11) else f"error: Python 3.11 is needed, this is {v[0]}.{v[1]}: make PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || { echo "setup: virtual environment in $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "setup: installing packages pinned in constraints.txt; this takes a few minutes the first time"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[weights,rtdetr,wandb,dask,dev]'
	@touch $@
	@echo "setup: done"

demo: setup  ## run the whole pipeline on embedded data; TASK=classification or multilabel for others
	@python -m tasks.params --use examples/digits-$(TASK).yaml $(if $(FORCE),--force)
	@python -m tasks.demo_data $(TASK)
	@python -m flows.pipeline --quiet

test: setup  ## run all tests, in two processes
	@OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: setup  ## lint and types; changes nothing
	@ruff check .
	@ruff format --check --quiet .
	@mypy

fix: setup  ## mend what the linter can
	@ruff check --fix .
	@ruff format .

bench: setup  ## measure, side by side with peers (benchmarks/ has longer comparisons)
	@for script in memory mosaic speed; do echo "== $$script"; python -m benchmarks.$$script || exit 1; done

clean:  ## remove what runs wrote; raw data and the DVC cache stay
	@rm -rf data/.*.part data/tables data/facts.parquet data/prepared models reports metrics plots dvc_plots .resume wandb .pytest_cache .mypy_cache .ruff_cache
