# Each target makes its own .venv: a fresh machine needs only Python >= 3.11, pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo
# Python compiles what is imported; to have pip compile everything takes a quarter of the installation.
PIP_OPTIONS := --quiet --no-compile --disable-pip-version-check
# Pyright would ask the npm registry whether a newer version of it exists.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.PHONY: demo test lint types format clean

demo: $(VENV)/.installed
	$(BIN)/python train.py --config=configs/shapes.py --workdir=$(DEMO)
	$(BIN)/python detect.py --workdir=$(DEMO) --out=$(DEMO)/images
	$(BIN)/python eval.py --workdir=$(DEMO)
	@echo "The drawings are in $(DEMO)/images, the checkpoints in $(DEMO)/checkpoints."
	@echo "Next, on your own images in PASCAL VOC's layout:"
	@echo "  $(BIN)/python train.py --config=configs/voc_folder.py --workdir=runs/mine --config.data.root=DIR"

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile

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

$(VENV)/.installed: $(VENV)/bin/python requirements.txt setup.cfg pyproject.toml
	$(BIN)/python -m pip install $(PIP_OPTIONS) --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/bin/python requirements.txt setup.cfg pyproject.toml
	$(BIN)/python -m pip install $(PIP_OPTIONS) --editable ".[test]"
	touch $(VENV)/.installed $@

$(VENV)/.installed-lint: $(VENV)/bin/python requirements.txt setup.cfg pyproject.toml
	$(BIN)/python -m pip install $(PIP_OPTIONS) --editable ".[test,lint]"
	touch $(VENV)/.installed $(VENV)/.installed-test $@

clean:
	rm -rf $(VENV) runs build *.egg-info
