# make demo, make test: each makes .venv, installs what it needs, and runs; nothing but python3, pip, venv, make and gcc is assumed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
DEMO := unveil-demo

.PHONY: help demo test test-all check format bench clean

help:
	@echo "make demo    separate a duet of real notes, and write $(DEMO)/report.html"
	@echo "make test    run the tests"
	@echo "make test-all  run the slow tests too"
	@echo "make check   lint, formatting and types"
	@echo "make format  format the code"
	@echo "make bench   compare speed and memory with other libraries"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# $(call install,EXTRA): a stamp for each set of optional dependencies
$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) install -c constraints.txt -e .
	touch $@

$(VENV)/.installed-%: $(VENV)/.installed pyproject.toml constraints.txt
	$(PIP) install -c constraints.txt -e ".[$*]"
	touch $@

demo: $(VENV)/.installed
	$(BIN)/unveil demo --out $(DEMO)

# one process for each core, each on that core alone: threads of several processes would wait for each other
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

test: $(VENV)/.installed-test
	$(TEST)

test-all: $(VENV)/.installed-test
	$(TEST) -m "not gpu"

check: $(VENV)/.installed-test $(VENV)/.installed-check
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

format: $(VENV)/.installed-check
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) $(DEMO) .pytest_cache .ruff_cache
