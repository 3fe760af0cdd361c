# The main commands of the project. `make` without a target lists them.

COMPETITION ?= digit-recognizer
PRESET ?= default
VENV ?= .venv
# The first installed Python for which TensorFlow has packages.
IS_SUITABLE := -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null
PYTHON ?= $(or $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(shell \
	$(p) $(IS_SUITABLE) && echo $(p)))),python3)

BIN := $(VENV)/bin
DIGITS := $(BIN)/kaggle-digits --competition $(COMPETITION)
DEMO := $(BIN)/kaggle-digits --competition rehearsal

.DEFAULT_GOAL := help
# Run targets one after the other, also with `make -j`: each step needs the one before it.
.NOTPARALLEL:
.PHONY: help download train submit score report demo test test-slow test-newest-kaggle test-wheel check-pins lint bench install \
	clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  COMPETITION=$(COMPETITION) PRESET=$(PRESET), e.g. make train submit COMPETITION=rehearsal PRESET=fast"

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) $(IS_SUITABLE) || { echo "Error: kaggle-digits needs Python 3.11, 3.12 or 3.13, but $(PYTHON) is \
	$$($(PYTHON) --version 2>/dev/null || echo not installed)." >&2; \
	echo "Install one of them, or give its path: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

install: $(VENV)/.installed ## create .venv and install the package

download: $(VENV)/.installed ## download the competition's files
	$(DIGITS) download

train: $(VENV)/.installed ## train the missing folds, ensemble them, write the submission file
	$(DIGITS) train --preset $(PRESET)

submit: $(VENV)/.installed ## submit the file once and wait for its score
	$(DIGITS) submit

score: $(VENV)/.installed ## show the scores and the rank on the leaderboard
	$(DIGITS) score

report: $(VENV)/.installed ## write the validation report and print a summary
	$(DIGITS) report

demo: $(VENV)/.installed ## run the pipeline on `rehearsal`; needs no Kaggle account and no network
	$(DEMO) download
	$(DEMO) train --preset fast --set epochs=12 --set batch_size=64
	$(DEMO) submit
	$(DEMO) score
	$(DEMO) report

# Tests in the same file share trained networks, so each process starts with its own files, and takes tests from
# other processes when it has finished. One process more than cores, because many tests wait for processes that they
# have started. Some of these train: at most eight, to limit memory.
TEST_PROCESSES := $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 1)))
test: $(VENV)/.installed-dev ## run the fast tests, in parallel on all cores
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --maxprocesses 8 --dist worksteal

LONGEST_TEST := tests/test_training.py
test-slow: $(VENV)/.installed-dev ## run the slow tests, in parallel on all cores
	$(BIN)/python -m pytest -m slow -n $(TEST_PROCESSES) --maxprocesses 8 --dist worksteal $(LONGEST_TEST) \
		$(filter-out $(LONGEST_TEST),$(wildcard tests/test_*.py))

test-newest-kaggle: $(VENV)/.installed-dev ## run the tests of Kaggle's client with its newest version
	$(BIN)/python scripts/newest_kaggle.py

# An environment without pip: some Pythons install setuptools with pip, which would hide a missing pin.
PINS := build/pins
PINS_PIP := $(BIN)/python -m pip --python $(PINS) --disable-pip-version-check

test-wheel: $(VENV)/.installed-dev ## install the wheel in a fresh environment and take the first steps with it
	$(BIN)/python -m pytest -m slow tests/test_packaging.py

check-pins: $(VENV)/.installed-dev ## check that the pins in constraints.txt cover every extra
	rm -rf $(PINS)
	$(BIN)/python -m venv --without-pip $(PINS)
	$(PINS_PIP) install --quiet --no-compile --no-deps -r constraints.txt
	$(PINS_PIP) install --quiet --no-deps -e .
	$(PINS_PIP) check
	$(PINS)/bin/python -m pytest -q tests/test_packaging.py
	rm -rf $(PINS)

lint: $(VENV)/.installed-dev ## check style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy scripts

bench: $(VENV)/.installed-dev ## run the speed benchmarks
	$(BIN)/python scripts/benchmark.py

clean: ## delete .venv and caches, but no data, runs or submissions
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
