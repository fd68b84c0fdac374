# `make demo` and `make test` do all their own set-up: they need Python 3.11 or later, git and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: test test-slow lint demo clean

test: lint
	$(BIN)/pytest

test-slow: $(VENV)/ready
	$(BIN)/pytest -m slow

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict svt_zoo

demo: $(VENV)/ready
	$(BIN)/python tools/demo.py $(if $(VIDEOS),--videos "$(VIDEOS)")

# Made anew when the list of dependencies changes; otherwise what is there is used.
$(VENV)/ready: pyproject.toml setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) runs build *.egg-info .mypy_cache .ruff_cache .pytest_cache
