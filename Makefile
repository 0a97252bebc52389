# Every target sets itself up in .venv on a machine that has Python ≥ 3.11 and nothing else.
PYTHON ?= python3
BIN := .venv/bin
# The variable, not the flag: it holds for what packages are built with too.
INSTALL := PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test slow check format bench accuracy docs clean

demo: .venv/.demo ## minimise, measure and explain cross-entropy on real data
	$(BIN)/xent demo demo-output

# Processes share the cores: threads that wait for each other busily would take them from each other.
test: .venv/.dev ## the tests, with the doctests of modules, README and docs
	OPENBLAS_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE \
		$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

slow: .venv/.dev ## the tests that take more than a minute each: mutants of the kernels
	$(BIN)/python -m pytest -m slow
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -m slow tests/test_triton_linear.py

check: .venv/.dev ## format, lint, types, import contracts, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/typos

format: .venv/.dev ## put the format right, and what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/.dev ## time, memory and error beside the peers that are installed
	$(BIN)/python -m benchmarks losses
	$(BIN)/python -m benchmarks rows --json
	$(BIN)/python -m benchmarks linear --json
	$(BIN)/python -m benchmarks fit --json
	$(BIN)/python -m benchmarks coding --json

accuracy: .venv/.dev ## measure the worst errors again and rewrite docs/accuracy.md
	$(BIN)/python -m benchmarks accuracy

docs: .venv/.docs ## the documentation with its figures, in site/
	$(BIN)/python -m tools.figures
	$(BIN)/python -m zensical build --clean --strict

clean:
	rm -rf .venv site demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis benchmark-figures

.venv/.made: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "xent needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(INSTALL) --upgrade pip
	touch $@

.venv/.demo: .venv/.made pyproject.toml
	$(INSTALL) --editable '.[demo]'
	touch $@

.venv/.dev: .venv/.made pyproject.toml
	$(INSTALL) --editable '.[dev]'
	touch .venv/.demo $@

.venv/.docs: .venv/.made pyproject.toml
	$(INSTALL) --editable '.[docs]'
	touch $@
