# Two commands do all: `make quickstart` (environment, install, the main job) and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
RESULTS ?= results

.PHONY: quickstart test lint bench gpu docs figures browser clean

quickstart: $(VENV)/.installed
	$(BIN)/python -m harness run --matrix grids/quickstart.yaml --set results=$(RESULTS)

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

# ratios of times against the stored ones; not part of CI: a busy machine scatters
bench: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/guard.py

# whatever is to be known on a GPU, in ten minutes; see docs/speed.md for a machine without a network
gpu: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/gpu.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "built: site/index.html"

figures: $(VENV)/.installed
	$(BIN)/python docs/figures/draw.py

# Chromium, for the tests that open a report in it; without one they are skipped. The system's, or
# Debian's for root, or Playwright's own.
browser: $(VENV)/.installed-dev
	command -v chromium || command -v chromium-browser || command -v google-chrome \
	|| (test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -qq --no-install-recommends chromium) \
	|| $(BIN)/python -m playwright install chromium

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) build site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
