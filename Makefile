# `make run` and `make test` need Python 3.11+ and pip, and nothing else.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test lint bench simulate campaign hosts clean

# A search on scikit-learn's digits, no download: 200 draws, then the ranking. The database is netsieve.db.
run: .venv/installed
	$(BIN)/netsieve run first --dataset digits --candidates 200

# Two files at a time: most of the tests that take long wait for processes.
test: .venv/installed lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Every benchmark but those of the database, one after the other, into bench.md: about an hour, two thirds of it for end_to_end, on
# a machine that rests. tests/benchmarks/README.md shows what they found, and has the commands of the others.
BENCHMARKS := space training costs orchestration startup scale end_to_end

bench: .venv/bench
	rm -f bench.md
	for name in $(BENCHMARKS); do $(BIN)/python -m tests.benchmarks.$$name >>bench.md || exit; echo >>bench.md; done

# A hundred thousand simulated searches with faults, a quarter of an hour; and real processes under 250 signals, eight minutes.
simulate: .venv/installed
	$(BIN)/python -m tests.simulator

campaign: .venv/installed
	$(BIN)/python -m tests.campaign

# A search on several hosts, which are namespaces of this machine: six to ten minutes, as root, on Linux with iproute2.
hosts: .venv/installed
	$(BIN)/python -m tests.hosts

# Pinned: the versions that the tests ran with. Installed again when a pin or the project changes.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "netsieve needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[dev]'
	touch $@

# Ray Tune and Optuna, which nothing but the comparison needs.
.venv/bench: .venv/installed
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[dev,bench]'
	touch $@

clean:
	rm -rf .venv
