# Everything runs in a virtual environment of its own, made and filled at first use.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: study test test-ray test-rest check docs clean

# A finished or interrupted quickstart is taken up where it stands, so `make study` can be typed again.
study: $(VENV)/.installed
	@if [ -e results/quickstart/optuna.journal ]; \
	then $(BIN)/python -m study.run --resume results/quickstart; \
	else $(BIN)/python -m study.run --space quickstart; fi

test: check
	$(MAKE) --jobs 2 test-ray test-rest

test-ray test-rest: $(VENV)/.installed-dev

test-ray:
	$(BIN)/python -m pytest -m "ray and not slow"

test-rest:
	$(BIN)/python -m pytest -m "not ray and not slow"

check: docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, in build/docs. Whatever Sphinx warns of is an error: a link between pages that leads nowhere, say.
docs: $(VENV)/.installed-dev
	$(BIN)/sphinx-build -W --keep-going -q -b html docs build/docs

clean:
	rm -rf $(VENV) build docs/reports *.egg-info .mypy_cache .ruff_cache .pytest_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/.installed
