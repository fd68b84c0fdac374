# `make demo` and `make test` do all their own set-up: they need Python 3.11 or later, git and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: test test-slow lint demo docs clean

test: lint
	$(BIN)/pytest

test-slow: $(VENV)/ready
	$(BIN)/pytest -m slow

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict svt_zoo

demo: $(VENV)/ready
	$(BIN)/svt-zoo demo $(if $(VIDEOS),--videos "$(VIDEOS)")

# The reference of every module, from its docstrings: build/docs/index.html.
# A package that lists names in __all__ does not show its modules by itself.
MODULES = svt_zoo svt_zoo.cli svt_zoo.data svt_zoo.demo svt_zoo.evaluation svt_zoo.inference svt_zoo.training $(subst /,.,$(patsubst %.py,%,\
  $(patsubst %/__init__.py,%,$(wildcard svt_zoo/[a-z]*.py $(foreach part,config hub methods models,svt_zoo/$(part)/*.py)))))
QUIET = -W error::UserWarning -W "ignore:Error parsing type annotation" # of generics that exist only in type stubs
docs: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[docs]"
	$(BIN)/python $(QUIET) -m pdoc --docformat google --output-directory build/docs $(MODULES)

# Made anew when the list of dependencies changes; otherwise what is there is used.
$(VENV)/ready: pyproject.toml setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) runs build *.egg-info .mypy_cache .ruff_cache .pytest_cache
