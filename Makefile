# Every target works in a fresh clone: the first one used builds .venv. Needs Python 3.11 or newer and the network once.

PYTHON ?= $(firstword $(foreach candidate,python3 python3.14 python3.13 python3.12 python3.11,$(shell \
	$(candidate) -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $(candidate))))
BIN := .venv/bin
READY := .venv/.ready
ARGS ?=
# Many tests wait for processes and sockets: three workers keep two cores busy.
WORKERS ?= $(shell echo $$(( ($$(getconf _NPROCESSORS_ONLN) * 3 + 1) / 2 )))

.PHONY: help demo sim test test-torch engines lint types layers bench bench-quick fuzz soak clean
.DEFAULT_GOAL := help

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(READY)  ## publish, pull, verify and be refused, on this machine
	$(BIN)/python -m tests.demo $(ARGS)

test: $(READY) engines  ## run all tests; ARGS="-k name" narrows them
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

test-torch:  ## run the tests that need torch and transformers, in .venv-torch (gigabytes where pip has no CPU wheel)
	@PYTHON="$(PYTHON)" tests/loaders/torch_env.sh
	.venv-torch/bin/python -m pytest -W default -n 2 tests/loaders/torch $(ARGS)

engines: $(READY)
	@tests/engines/install.sh

lint: $(READY)  ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## check types
	$(BIN)/mypy

layers: $(READY)  ## check that imports point one way
	$(BIN)/lint-imports

bench: $(READY)  ## measure; one script at a time, so that they do not disturb each other
	@for script in tests/bench/bench_*.py; do \
		[ -e "$$script" ] || continue; \
		echo "== $$script"; $(BIN)/python "$$script" || exit 1; \
	done

fuzz: $(READY)  ## throw damaged files at the format readers and at the log's parsers
	$(BIN)/python -m tests.formats.fuzz $(ARGS)
	$(BIN)/python -m tests.core.fuzz_log $(ARGS)
	$(BIN)/python -m tests.scan.fuzz $(ARGS)

sim: $(READY)  ## simulate gossip, to 10,000 nodes; ARGS="--most 100000" or ARGS=--short
	$(BIN)/python -m tests.sim $(ARGS)

soak: $(READY)  ## kill -9 both sides of a pull, and a publisher, 200 times
	$(BIN)/python -m tests.store.soak --kills 200

bench-quick: $(READY)  ## the same measurements on small files, to see that they run
	@for script in tests/bench/bench_*.py; do echo "== $$script"; $(BIN)/python "$$script" --quick || exit 1; done

clean:  ## remove what the tools left behind; keeps .venv and .cache
	rm -rf build dist .coverage .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find modelnet cli registry tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml
	@[ -n "$(PYTHON)" ] || { echo "make: no Python 3.11 or newer found; set PYTHON=/path/to/python3" >&2; exit 1; }
	[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $@
