# `make demo` and `make test` each set up everything they need. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
EXTRAS ?= dev
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-slow test-lowest coverage check docs bench peers clean

demo: $(VENV)/.installed
	$(BIN)/pgzoo train --env CartPole-v1 --seed 0 --log-folder logs/demo
	$(BIN)/pgzoo eval --env CartPole-v1 --log-folder logs/demo --n-episodes 20

test: $(VENV)/.installed
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist worksteal

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow -n 2 --dist worksteal

# The default tests with the lowest versions that pyproject.toml allows, on an interpreter for which these exist.
test-lowest:
	$(MAKE) test VENV=.venv-lowest CONSTRAINTS=constraints-lowest.txt EXTRAS=test

# The multi-process tests of studies are left out: their workers are not traced, and the tracer slows them down.
coverage: $(VENV)/.installed
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist worksteal --cov --cov-report term --ignore tests/test_tune.py

check: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	MYPYPATH=plugins:tests $(BIN)/mypy tests
	MYPYPATH=plugins:benchmarks:tests $(BIN)/mypy benchmarks
	MYPYPATH=plugins:docs $(BIN)/mypy docs

# The site is in docs/_build/html. A broken link is an error. Sphinx needs Python 3.11 or newer.
docs: $(VENV)/.installed
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -b html docs docs/_build/html

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/speed.py

# Other libraries to compare with: several gigabytes, for Python 3.11 or 3.12. Benchmarks leave out those that are absent.
peers: .venv-sbx/.installed .venv-tianshou/.installed .venv-cleanrl/.installed

.venv-cleanrl/.installed: UNCHECKED = cleanrl==1.2.0
.venv-%/.installed: benchmarks/requirements-%.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --requirement $<
	test -z "$(UNCHECKED)" || $(@D)/bin/python -m pip install --quiet --no-deps --ignore-requires-python $(UNCHECKED)
	touch $@

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[$(EXTRAS)]'
	touch $@

clean:
	rm -rf $(VENV) .venv-lowest .venv-sbx .venv-tianshou .venv-cleanrl build dist docs/_build docs/recipes *.egg-info logs
