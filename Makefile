# Everything is set up in .venv by the first target that needs it.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test test-all check format clean

quickstart: .venv/ready
	$(BIN)/hptransfer quickstart

test: check
	$(BIN)/pytest -q -n 2

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# One pip command, torch pinned in constraints.txt: mup on its own replaces torch by a CUDA build of several GB.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch mup --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv
