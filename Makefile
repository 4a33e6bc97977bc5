# Everything a person types. `make setup` once, then the rest.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo demo-train test test-slow check lock

setup: .venv/.ready  ## a virtual environment with the pinned, hashed packages, for development too

.venv/.ready: requirements-dev.lock pyproject.toml
	@command -v uv >/dev/null || $(PYTHON) -m pip install --quiet --user uv || $(PYTHON) -m pip install --quiet uv
	@PATH="$$PATH:$$($(PYTHON) -m site --user-base)/bin"; \
	  uv venv --quiet --allow-existing --python ">=3.11" .venv && \
	  uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r requirements-dev.lock && \
	  uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

demo: setup  ## a small archive of known videos, labelled and queried; offline, about a minute
	$(BIN)/python jobs/demo.py

demo-train: setup  ## train a network on drawn videos with two workers, label others with it; about four minutes
	$(BIN)/python -m vidproc.train.demo

test: setup  ## in one process a core what needs neither Ray nor the S3 server; then the rest, one after another
	$(BIN)/python -m pytest -m "not slow and not alone" -n logical --durations 15 --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest -m "not slow and alone" --durations 60 --durations-min 5

test-slow: setup  ## kill storms, poison, whole archives: minutes to an hour
	-@PATH="$$PATH:$$($(PYTHON) -m site --user-base)/bin"; uv pip install --quiet --python $(BIN)/python --group clocks
	$(BIN)/python -m pytest -m slow --timeout 3000

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .

COMPILE = PATH="$$PATH:$$($(PYTHON) -m site --user-base)/bin" uv pip compile pyproject.toml --all-extras --generate-hashes \
	  --no-emit-index-url --no-annotate --no-header --python-version 3.11 --universal --quiet

lock:  ## after a change of dependencies in pyproject.toml: what runs, and with it what develops
	$(COMPILE) -o requirements.lock
	$(COMPILE) --group dev -c requirements.lock -o requirements-dev.lock
