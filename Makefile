# One environment for everything: made once, remade only when the pinned dependencies change.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
ACCEPTANCE := training_bits evaluation_rows kills golden paper_curve protocols

.PHONY: demo test test-slow acceptance format install

demo: $(INSTALLED)
	$(BIN)/featdenoise demo --out runs/demo

test: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest

test-slow: $(INSTALLED)
	$(BIN)/pytest -m "slow and not gpu and not network"

acceptance: $(INSTALLED)
	for script in $(ACCEPTANCE); do echo "== $$script"; $(BIN)/python acceptance/$$script.py || exit 1; done

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[peers,dev]"
	touch $(INSTALLED)
