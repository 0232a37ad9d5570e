# make demo: the whole pipeline on real retail data.  make test: all tests.  make lint: style, types, direction of imports.
# make check: style, types and the fast tests, in a minute and a half.  make docs: the documentation site, in build/site.
# Each sets up what it needs in .venv, with the versions that constraints.txt pins.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test check lint docs bench bench-quick clean

demo: $(VENV)/demo.ready
	$(BIN)/heedful demo --out demo

# Two processes of one thread each: threads of several processes would wait for each other.
test: $(VENV)/dev.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m fast

# Nothing is fetched while it is built. Pages of reference are made from the commands, the server and the docstrings.
docs: $(VENV)/docs.ready
	$(BIN)/python docs/build.py build/docs
	$(BIN)/zensical build --strict

lint: $(VENV)/dev.ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/dev.ready
	$(BIN)/python benchmarks/run.py --out build/bench

bench-quick: $(VENV)/dev.ready
	$(BIN)/python benchmarks/run.py --out build/bench --quick

clean:
	rm -rf $(VENV) demo build

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.ready: $(BIN)/python pyproject.toml constraints.txt
	$(PIP_INSTALL) --editable '.[demo,serve]'
	touch $@

$(VENV)/dev.ready: $(BIN)/python pyproject.toml constraints.txt
	$(PIP_INSTALL) --editable '.[bench,cluster,demo,lint,serve,test,tune]'
	$(PIP_INSTALL) --no-deps rectools
	touch $@

$(VENV)/docs.ready: $(BIN)/python pyproject.toml constraints.txt
	$(PIP_INSTALL) --editable '.[docs,serve]'
	touch $@
