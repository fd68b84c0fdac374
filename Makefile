# `make demo` and `make test` do all their own set-up: they need Python 3.11 or later, git and nothing else.
# Each interpreter has an environment of its own: .venv for python3, .venv-3.13 for PYTHON=python3.13.
PYTHON ?= python3
VENV := .venv$(patsubst python%,-%,$(filter-out python3,$(notdir $(PYTHON))))
BIN := $(VENV)/bin

.PHONY: test test-slow test-lowest test-processors lint demo docs gpu gpu-wheels clean

# One process per core, of one thread each.
PARALLEL = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(1) -n auto --dist worksteal
test: lint
	$(call PARALLEL,$(BIN)/pytest)

# The recorded numbers hold without AVX, with AVX2 alone, and as the processor is.
ORACLES = $(shell find tests -name "test_*oracles*.py") tests/inference/test_extract.py
test-processors: $(VENV)/ready
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2 $(BIN)/pytest $(ORACLES)
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 $(BIN)/pytest $(ORACLES)
	$(BIN)/pytest $(ORACLES)

# The lowest version of each dependency that pyproject.toml allows; for the oldest Python, 3.11.
test-lowest: .venv-lowest/ready
	$(call PARALLEL,.venv-lowest/bin/python -m pytest)

.venv-lowest/ready: pyproject.toml setup.py
	$(PYTHON) -m venv --clear .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct --editable ".[dev]"
	touch $@

test-slow: $(VENV)/ready
	$(BIN)/pytest -m slow

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict svt_zoo

demo: $(VENV)/ready
	$(BIN)/svt-zoo demo $(if $(VIDEOS),--videos "$(VIDEOS)")

# Needs no environment of ours: a machine with a GPU and without network brings torch; the wheels travel with the checkout.
gpu:
	$(or $(wildcard $(BIN)/python),$(PYTHON)) benchmarks/gpu.py --output benchmarks/results

gpu-wheels:
	$(PYTHON) -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
	  --platform manylinux_2_28_x86_64 --dest build/wheels av
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir build/wheels \
	  fvcore iopath pytorchvideo yacs portalocker tabulate parameterized termcolor

# The reference of every module, from its docstrings: build/docs/index.html.
# A package that lists names in __all__ does not show its modules by itself.
MODULES = svt_zoo svt_zoo.cli svt_zoo.data svt_zoo.demo svt_zoo.evaluation svt_zoo.hub svt_zoo.inference svt_zoo.training $(subst /,.,$(patsubst %.py,%,\
  $(patsubst %/__init__.py,%,$(wildcard svt_zoo/[a-z]*.py $(foreach part,methods models video,svt_zoo/$(part)/*.py))))) \
  '!svt_zoo.inference.hf_' # copied into folders for transformers, which they import
# Ignored: generics that exist only in type stubs, and names that a module loads on first use.
QUIET = -W error::UserWarning -W "ignore:Error parsing type annotation" -W "ignore:Found '"
docs: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[docs]"
	$(BIN)/python $(QUIET) -m pdoc --docformat google --output-directory build/docs $(MODULES)

# Made anew when the list of dependencies changes; otherwise what is there is used.
$(VENV)/ready: pyproject.toml setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv* runs build *.egg-info .mypy_cache .ruff_cache .pytest_cache
