# Everything goes through these targets; `make` alone lists them.

COMPETITION ?= digit-recognizer
PRESET ?= default
VENV ?= .venv
# The first Python here that TensorFlow has packages for.
PYTHON ?= $(or $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(shell \
	$(p) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo $(p)))),python3.11)

BIN := $(VENV)/bin
DIGITS := $(BIN)/kaggle-digits --competition $(COMPETITION)
DEMO := $(BIN)/kaggle-digits --competition rehearsal

.DEFAULT_GOAL := help
# Each step needs the one before it, with `make -j` too.
.NOTPARALLEL:
.PHONY: help download train submit score report demo test test-slow test-newest-kaggle check-pins lint bench install \
	clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  COMPETITION=$(COMPETITION) PRESET=$(PRESET), e.g. make train submit COMPETITION=rehearsal PRESET=fast"

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

install: $(VENV)/.installed ## set up .venv

download: $(VENV)/.installed ## get the competition's files
	$(DIGITS) download

train: $(VENV)/.installed ## train what is missing, ensemble, write the submission
	$(DIGITS) train --preset $(PRESET)

submit: $(VENV)/.installed ## submit once, and wait for the score
	$(DIGITS) submit

score: $(VENV)/.installed ## show scores and the place on the leaderboard
	$(DIGITS) score

report: $(VENV)/.installed ## write and show the validation report
	$(DIGITS) report

demo: $(VENV)/.installed ## all of it on `rehearsal`: no account, no network
	$(DEMO) download
	$(DEMO) train --preset fast --folds 4 --set epochs=12 --set batch_size=32
	$(DEMO) submit
	$(DEMO) score
	$(DEMO) report

# The tests of a file share trained networks, so a process begins with files of its own, and helps the others when
# it is done. Some tests train in processes of their own: more than eight at a time take more memory than time.
test: $(VENV)/.installed-dev ## run the tests, on all cores
	$(BIN)/python -m pytest -n logical --maxprocesses 8 --dist worksteal

test-slow: $(VENV)/.installed-dev ## run the long tests
	$(BIN)/python -m pytest -m slow

test-newest-kaggle: $(VENV)/.installed-dev ## run the tests of Kaggle's client with the newest one allowed
	$(BIN)/python scripts/newest_kaggle.py

# Without pip, which in some Pythons comes with setuptools and so hides a missing pin.
PINS := build/pins
PINS_PIP := $(BIN)/python -m pip --python $(PINS) --disable-pip-version-check

check-pins: $(VENV)/.installed-dev ## check that what constraints.txt pins is enough for every extra
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

bench: $(VENV)/.installed-dev ## measure speed, side by side
	$(BIN)/python scripts/benchmark.py

clean: ## remove .venv and caches; data, runs and submissions stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
