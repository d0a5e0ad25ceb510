# The commands of MAI's developers and of whoever tries it. Needs Python 3.11 or later, and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test test-rounding lint check-shared bench lock clean
.DEFAULT_GOAL := help

help: ## Show these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/ready ## The whole way on simulated images: make, train, evaluate, predict
	$(BIN)/mai demo

test: .venv/ready ## Run the tests
	$(BIN)/python -m pytest -m "not shared" -n 2 --dist worksteal

# Other instructions round otherwise: what compares losses or learns little must not depend on this processor's.
test-rounding: .venv/ready ## Run the tests that rounding could change, without the processor's vector instructions
	ATEN_CPU_CAPABILITY=default $(BIN)/python -m pytest -q -n 2 --dist worksteal \
		tests/training/test_distributed.py "tests/training/test_loop.py::test_it_learns_and_says_how_well"

lint: .venv/ready ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check-shared: .venv/ready ## Run the tests that need the development images beside the checkout
	$(BIN)/python -m pytest -m shared -n 2 --dist worksteal

bench: .venv/ready ## Measure speed and memory: ratios with their limits, about an hour; DATA=photos measures with those
	$(BIN)/python -m benchmarks $(if $(DATA),--data $(DATA))

lock: ## Write requirements.lock anew from pyproject.toml (needs uv)
	uv pip compile --universal --python-version 3.11 pyproject.toml --extra serve --extra provenance \
		--extra export --extra twins --extra dev --no-annotate --no-header --upgrade --quiet --output-file requirements.lock

clean: ## Remove the environment and what the demo made
	rm -rf .venv demo

# One file says that the environment is whole: an interrupted installation starts over.
.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "MAI needs Python 3.11 or later; name one: make PYTHON=python3.12"; exit 1; }
	@echo "setting up .venv: some minutes, for torch is large"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@
