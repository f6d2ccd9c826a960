# Everything runs in a virtual environment of its own, made and filled at first use.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
LOWEST := .venv-lowest

.PHONY: study test test-ray test-criteria test-cuts test-analysis test-rest test-slow test-lowest mutate check docs clean

# A finished or interrupted quickstart is taken up where it stands, so `make study` can be typed again.
study: $(VENV)/.installed
	@if [ -e results/quickstart/optuna.journal ]; \
	then $(BIN)/python -m study.run --resume results/quickstart; \
	else $(BIN)/python -m study.run --space quickstart; fi

# Three at a time on two cores: Ray's tests wait half of their time. Nothing else may run what another of these runs. The
# longest begin, and the rest is dealt out so that all end at about the same time.
# Compiled first: where Python writes no bytecode by itself, every process of every study would compile all modules.
test: $(VENV)/.installed-dev
	$(BIN)/python -m compileall -q study pruning models analysis search_spaces
	$(MAKE) --jobs 3 test-ray test-rest test-analysis test-cuts test-criteria check

test-ray test-criteria test-cuts test-analysis test-rest: $(VENV)/.installed-dev

test-ray:
	$(BIN)/python -m pytest -m "ray and not slow" tests/study tests/benchmarks

test-analysis:
	$(BIN)/python -m pytest -m "not ray and not slow" tests/analysis

test-criteria:
	$(BIN)/python -m pytest -m "not ray and not slow" tests/pruning/criteria tests/models tests/benchmarks

test-cuts:
	$(BIN)/python -m pytest -m "not ray and not slow" tests/pruning --ignore tests/pruning/criteria

test-rest:
	$(BIN)/python -m pytest -m "not ray and not slow" --ignore tests/analysis --ignore tests/benchmarks \
		--ignore tests/pruning --ignore tests/models

# What takes a minute or more each: nightly, and before a release.
test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow

# Breaks the study's protocol, one rule at a time; prints the rules that no test holds.
mutate: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.mutate

# The same tests with the oldest versions that pyproject.toml admits, in an environment of their own (several GB: it has
# another torch). Those versions are for Python 3.11, so that is the PYTHON to give: make test-lowest PYTHON=python3.11
test-lowest: $(LOWEST)/.installed
	$(LOWEST)/bin/python -m pytest -m "not ray and not slow"
	$(LOWEST)/bin/python -m pytest -m "ray and not slow"

check: docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, in build/docs. Whatever Sphinx warns of is an error: a link between pages that leads nowhere, say.
docs: $(VENV)/.installed-dev
	$(BIN)/sphinx-build -W --keep-going -q -b html docs build/docs

clean:
	rm -rf $(VENV) $(LOWEST) build docs/reports *.egg-info .mypy_cache .ruff_cache .pytest_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/.installed

# Made anew whenever pyproject.toml changes: what is installed already would count as low enough. pip takes the highest
# versions only, so uv resolves; what dependencies need themselves is as new as it can be. Unlike pip, uv compiles only if
# told to: where Python writes no bytecode either, Ray's dashboard compiles for longer than Ray waits for it.
$(LOWEST)/.installed: pyproject.toml
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet uv
	$(LOWEST)/bin/uv pip install --quiet --compile-bytecode --python $(LOWEST)/bin/python --resolution lowest-direct --editable '.[dev]'
	touch $@
