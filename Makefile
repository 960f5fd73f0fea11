# Each target makes its own .venv: a fresh machine needs only Python >= 3.11, pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo
# Python compiles what is imported; to have pip compile everything takes a quarter of the installation.
PIP_OPTIONS := --quiet --no-compile --disable-pip-version-check
# Pyright would ask the npm registry whether a newer version of it exists.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.PHONY: demo test lint types format tpu clean

demo: $(VENV)/.installed
	$(BIN)/ssd-jax train --config=shapes --workdir=$(DEMO)
	$(BIN)/ssd-jax detect --workdir=$(DEMO) --out=$(DEMO)/images
	$(BIN)/ssd-jax eval --workdir=$(DEMO)
	@echo "The drawings are in $(DEMO)/images, the checkpoints in $(DEMO)/checkpoints."
	@echo "Next, on a folder of your own labelled images, in 12 minutes:"
	@echo "  $(BIN)/ssd-jax train IMAGES --workdir=runs/mine"

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile

# The step of a small model, compiled for TPUs that this machine need not have. The compiler is an extra.
tpu: $(VENV)/.installed
	@if $(BIN)/python -c "import libtpu" 2> /dev/null; \
	then $(BIN)/python benchmarks/compile.py --config shapes --images 4 --program step; \
	else echo "skipped: compiling for a TPU needs $(BIN)/pip install --editable '.[tpu-compile]'"; fi

lint: $(VENV)/.installed-lint types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed-lint
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.installed-lint
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python requirements.txt setup.cfg setup.py pyproject.toml
	$(BIN)/python -m pip install $(PIP_OPTIONS) --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/bin/python requirements.txt setup.cfg setup.py pyproject.toml
	$(BIN)/python -m pip install $(PIP_OPTIONS) --editable ".[test]"
	touch $(VENV)/.installed $@

$(VENV)/.installed-lint: $(VENV)/bin/python requirements.txt setup.cfg setup.py pyproject.toml
	$(BIN)/python -m pip install $(PIP_OPTIONS) --editable ".[test,lint]"
	touch $(VENV)/.installed $(VENV)/.installed-test $@

clean:
	rm -rf $(VENV) runs build *.egg-info
