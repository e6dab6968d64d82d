# `make demo` and `make test` need python3 (3.10-3.13) and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := $(VENV)/.peers
DOCS := $(VENV)/.docs

.PHONY: setup demo test lint validate bench docs gpu clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 10) <= v[:2] <= (3, 13) else "sdesig needs python 3.10-3.13, found " + sys.version.split()[0] + "; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,images]'
	touch $@

$(PEERS): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[peers]'
	touch $@

$(DOCS): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

demo: setup
	$(BIN)/sdesig demo

test: setup
	$(BIN)/python -m pytest -n 2

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

validate: setup
	$(BIN)/python -m validation

bench: $(PEERS)
	$(BIN)/python -m experiments.benchmarks
	$(BIN)/python -m experiments.work_precision

# the site, in site/; it tests and executes the notebooks, which takes some minutes. What an earlier build distilled must
# go, since `distill` returns at once from a folder that is complete. The variable silences mkdocs-material's word on
# mkdocs 2
docs: $(DOCS)
	$(BIN)/python -m pytest -m notebooks tests/docs
	rm -rf docs/examples/runs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# in the environment whose python runs: its torch must be built for CUDA. GPU="--data cifar10_train.tar.xz" and the like
gpu:
	$(PYTHON) -m experiments.gpu $(GPU)

clean:
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
