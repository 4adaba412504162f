# VENV=path   build the environment there                         (default: .venv)
# PYTHON=path build it with this Python, 3.11 or newer            (default: the first one found)
# BIN=path    use the environment whose programs lie there, as it is, and install nothing
# ARGS="..."  arguments handed on to the command behind the target
VENV := .venv
PYTHON = $(firstword $(foreach name,python3.11 python3.12 python3.13 python3.14 python3 python,$(call usable,$(name))))
ARGS :=
WORKERS := 2

usable = $(shell $(1) -c 'import sys, ensurepip; sys.version_info >= (3, 11) and print("$(1)")' 2>/dev/null)
NO_PYTHON = make: $(or $(PYTHON),no python found) is no Python >= 3.11 with its venv module. \
  Install one (on Debian and Ubuntu: python3-venv too), or name it: make PYTHON=/path/to/python3.11

# The environment counts as built while its stamp is newer than what it was built from.
BIN := $(VENV)/bin
STAMP := $(BIN)/.installed
ifeq ($(origin BIN),command line)
STAMP :=
endif

.DEFAULT_GOAL := help
.PHONY: help fit test coverage endurance lint format docs nano pin audit clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

fit: $(STAMP)  ## build the environment and train the default; ARGS="--model.x=1" changes it
	$(BIN)/python -m realgen.fit --config configs/diffusion.yaml $(ARGS)

test: lint  ## lint, then run every test; ARGS="-k name" selects
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile $(ARGS)

# Apart from test, because following every line takes two thirds more time.
coverage: $(STAMP)  ## run every test and tell which lines none runs; fails below 90 %
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --cov --cov-report term --cov-fail-under 90 $(ARGS)

# Apart from test, because it takes half an hour.
endurance: $(STAMP)  ## kill runs, fill disks, misspell names; write the table of docs/endurance.md
	$(BIN)/python -m experiments.endurance --markdown docs/endurance.md $(ARGS)

lint: $(STAMP)  ## ruff, mypy, import-linter, codespell
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/codespell .

format: $(STAMP)  ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)  ## build the documentation as a site in site/, strictly and offline
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet $(ARGS)

nano: $(STAMP)  ## retrain the small models of data/nano from scratch
	$(BIN)/python -m experiments.nano.build $(ARGS)

pin: $(STAMP)  ## write the installed versions with hashes to constraints.txt, their licences to docs/licences.md
	$(BIN)/python -m venv .pin
	.pin/bin/python -m pip install --quiet uv
	$(BIN)/python -m pip freeze --all --exclude pip --exclude-editable | sed -E 's/^[^=]+/\L&/; :a; s/^([^=]*)[_.]/\1-/; ta' | LC_ALL=C sort > .pin/pins.txt
	.pin/bin/uv pip compile --quiet --no-deps --universal --python-version 3.11.9 --format pylock.toml --output-file .pin/pylock.toml .pin/pins.txt
	{ sed -n '/^#/p' constraints.txt; $(BIN)/python .ci/pin.py .pin/pylock.toml; } > .pin/constraints.txt
	mv .pin/constraints.txt constraints.txt
	rm -rf .pin
	$(BIN)/python docs/licences.py > docs/licences.md

audit: $(STAMP)  ## look the pins up in a database of known vulnerabilities, where one can be reached
	$(BIN)/python .ci/audit.py

clean:  ## remove .venv, the site and the caches; never what runs wrote
	rm -rf .venv site *.egg-info .coverage .coverage.* .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find realgen tests experiments -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/.installed: constraints.txt pyproject.toml
	@test -n "$(call usable,$(PYTHON))" || { echo '$(NO_PYTHON)' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
ifeq ($(shell uname -sm),Linux x86_64)
	$(VENV)/bin/python -m pip install --require-hashes --requirement constraints.txt
	$(VENV)/bin/python -m pip install --no-deps --no-build-isolation --editable .
else  # the same versions, without hashes
	sed -E '/--hash=/d; s/\[[^]]*\]| \\$$//g' constraints.txt > $(VENV)/pins.txt
	$(VENV)/bin/python -m pip install --constraint $(VENV)/pins.txt --editable '.[dev]'
endif
	touch $@
