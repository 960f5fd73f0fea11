# Each target makes its own .venv: a fresh machine needs only Python >= 3.11, pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo
# Python compiles what is imported; to have pip compile everything takes a quarter of the installation.
PIP_OPTIONS := --quiet --no-compile --disable-pip-version-check

.PHONY: demo test lint format clean

demo: $(VENV)/.installed
	$(BIN)/python train.py --config=configs/shapes.py --workdir=$(DEMO)
	$(BIN)/python detect.py --workdir=$(DEMO) --out=$(DEMO)/images
	$(BIN)/python eval.py --workdir=$(DEMO)
	@echo "Look at the drawings in $(DEMO)/images; the checkpoint is in $(DEMO)/checkpoints."
	@echo "Next, on images of your own in PASCAL VOC's layout:"
	@echo "  $(BIN)/python train.py --config=configs/voc_folder.py --workdir=runs/mine --config.data.root=DIR"

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(VENV)/.installed-test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python requirements.txt setup.cfg pyproject.toml
	$(BIN)/python -m pip install $(PIP_OPTIONS) --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/bin/python requirements.txt setup.cfg pyproject.toml
	$(BIN)/python -m pip install $(PIP_OPTIONS) --editable ".[test,lint]"
	touch $(VENV)/.installed $@

clean:
	rm -rf $(VENV) runs build *.egg-info
