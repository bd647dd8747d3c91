# make demo | lab | test | test-full | docs | format | clean

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
NOTEBOOKS := $(wildcard notebooks/*.ipynb)

# Models this small are faster on one thread than on several that wait for each other.
THREADS ?= 1

# Two workers with one thread each are faster than one worker with two.
FAST   := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q
UNIT   := not slow and not browser and not benchmark and not distributed and not full

.DEFAULT_GOAL := help
.PHONY: help demo lab test test-full lint docs notebooks format clean

help:  ## show what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 to 3.13 is needed, $(PYTHON) is $$($(PYTHON) -V); try: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	@echo "== setting up $(VENV) (once; a few minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -q -c constraints.txt torch
	@$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	@touch $(READY)

demo: $(READY)  ## train the quickstart headless into runs/
	@OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m jepa.cli batch notebooks/00_quickstart.ipynb

lab: $(READY)  ## open JupyterLab on the quickstart
	@OMP_NUM_THREADS=$(THREADS) $(BIN)/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks/00_quickstart.ipynb

lint: $(READY)
	@echo "== lint, format, types, layers"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check -q .
	@$(BIN)/pyright --warnings
	@$(BIN)/lint-imports --no-cache > .import-lint.log || { cat .import-lint.log; exit 1; }

docs: $(READY)  ## build the documentation
	@echo "== documentation"
	@OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

notebooks: $(READY)
	@echo "== notebooks"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -p tests.notebook_rules --nbval-lax --nbval-cell-timeout=180 -p no:warnings $(NOTEBOOKS)

test: $(READY)  ## everything that is checked, in under 25 minutes
	@$(MAKE) --no-print-directory -j 2 -O lint docs notebooks
	@echo "== unit tests and doctests"
	@$(FAST) -n 2 --dist loadfile -m "$(UNIT)" tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -p no:cacheprovider --doctest-modules jepa
	@echo "== several processes, long runs, browsers"
	@$(FAST) -n 2 --dist loadfile -m "(slow or distributed or browser) and not (benchmark or full)" tests
	@echo "== benchmarks: alone"
	@$(FAST) -m "benchmark and not full" tests

test-full: test  ## also the long matrices; writes the tables under docs/
	@JEPA_WRITE_TABLES=1 $(FAST) -m "full or benchmark" tests

format: $(READY)  ## format the code
	@$(BIN)/ruff check --fix -q . ; $(BIN)/ruff format -q .

clean:  ## remove what was built (not runs/)
	rm -rf $(VENV) docs/_build dist .pytest_cache .ruff_cache .hypothesis .import-lint.log
