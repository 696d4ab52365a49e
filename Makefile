# Every target does its own set-up. Needed: Python >= 3.11 with pip, make, git. Nothing outside this folder is changed,
# but for uv's and pip's download caches and, by `serve`, the user's own data, config and cache folders.

# Images of containers often forbid Python to keep what it has compiled: each start would compile 1,000 files again.
export PYTHONDONTWRITEBYTECODE =
PYTHON ?= python3
BIN := .venv/bin
# uv from the PATH where there is one, else the one that pip put into .venv.
UV = VIRTUAL_ENV=$(CURDIR)/.venv $(shell uv --version >/dev/null 2>&1 && echo uv || echo $(BIN)/uv)
# Locks name versions and hashes, not places to download from.
COMPILE = $(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	--no-annotate --no-header --no-emit-index-url --no-emit-find-links

.PHONY: serve install test test-all check bench lock clean

serve: .venv/.serve  ## fetch the model, start engine and gateway; CONFIG=FILE for your own settings
	@exec $(BIN)/fareclass serve $(if $(CONFIG),--config $(CONFIG))

install: .venv/.serve  ## the set-up of `serve` alone

# Files go out in the order of their names, which has the long ones (e2e, engine) first.
test: .venv/.test  ## everything but what is marked slow; ARGS="-k name"
	$(BIN)/pytest -n 4 --dist loadfile --no-loadscope-reorder -m "not slow" $(ARGS)

test-all: .venv/.test  ## everything: also twelve times as many schedules, every client's every aspect, every page of the console, kills over and over, and limits of minutes
	$(BIN)/pytest -n 4 --dist loadfile --no-loadscope-reorder $(ARGS)

check: .venv/.check  ## style, types, import directions
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.bench  ## list the benches; NAME=overhead runs one, ARGS="…" goes to it
	$(BIN)/python -m bench $(NAME) $(ARGS)

lock: .venv/pyvenv.cfg  ## resolve pyproject.toml anew; the other locks are parts of the one for `check`
	$(COMPILE) --extra build --extra test --extra bench --extra check --output-file requirements/check.txt pyproject.toml
	$(COMPILE) --extra build --constraint requirements/check.txt --output-file requirements/serve.txt pyproject.toml
	$(COMPILE) --extra build --extra test --constraint requirements/check.txt --output-file requirements/test.txt pyproject.toml
	$(COMPILE) --extra build --extra test --extra bench --constraint requirements/check.txt --output-file requirements/bench.txt pyproject.toml
	echo uv | $(COMPILE) --output-file requirements/uv.txt -

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests bench -name __pycache__ -prune -exec rm -rf {} +

.venv/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv --without-pip .venv
	@uv --version >/dev/null 2>&1 || $(PYTHON) -m pip --python $(BIN)/python install --quiet --require-hashes -r requirements/uv.txt

# Else each of the tests' workers would compile all that they import.
.venv/.test .venv/.check: COMPILED = --compile-bytecode

.venv/.%: requirements/%.txt pyproject.toml | .venv/pyvenv.cfg
	$(UV) pip install --quiet $(COMPILED) --require-hashes -r $<
	$(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
