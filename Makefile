# Every target sets up what it needs: Python >= 3.10, git and make are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two processes of one thread each: the files of tests are shared out between them.
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile
READY := $(VENV)/.ready

.PHONY: demo test slow gpu check clean

demo: $(READY)
	$(BIN)/python cli.py demo

test: $(READY)
	$(TEST)

slow: $(READY)
	$(TEST) -m slow

gpu: $(READY)
	$(BIN)/python -m pytest -m gpu

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(TEST)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build *.egg-info

$(READY): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python 3.10 or newer is needed, $(PYTHON) is older. Run: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "Installing packages into $(VENV) (once; about two minutes)"
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $(READY)
