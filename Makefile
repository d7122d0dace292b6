# make install   the environment, in .venv
# make demo      the main job from nothing: collect, train, evaluate, plan, report
# make docs      the pages and an API reference as a site, in site/
# make test      lint, types and every test; no network once installed
# make quick     lint, types of changed files, and every test but those marked slow: at most 90 s on two CPU cores
# make clean     remove the environment, caches and the demo's run

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Without an NVIDIA GPU, PyTorch's CPU build: it is several GB smaller.
CONSTRAINTS := $(shell nvidia-smi -L >/dev/null 2>&1 || echo --constraint constraints-cpu.txt)

.PHONY: install demo docs test quick clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints-cpu.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "lewm needs Python 3.11 or later, and $(PYTHON) is not; try: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check $(CONSTRAINTS) --editable '.[all]'
	@touch $@

# OpenMP's threads spin while they wait, which starves a small machine; passive waiting does not.
demo: install
	OMP_WAIT_POLICY=passive $(BIN)/lewm demo

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest

# Python files that differ from the last commit, or are new.
CHANGED = $(shell { git diff --name-only --diff-filter=d HEAD; git ls-files --others --exclude-standard; } 2>/dev/null | grep '\.py$$')

quick: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(if $(CHANGED),$(BIN)/pyright --pythonpath $(BIN)/python $(CHANGED))
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -m "not slow and not gpu"

docs: install
	$(BIN)/python -m pip install --disable-pip-version-check $(CONSTRAINTS) --editable '.[docs]'
	$(BIN)/python docs/api_pages.py
	$(BIN)/mkdocs build

clean:
	rm -rf $(VENV) runs/demo site docs/api .pytest_cache .ruff_cache .hypothesis build src/*.egg-info
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
