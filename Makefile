# make demo and make test are the two commands; each sets up what it needs first.
PY := .venv/bin/python
OUT ?= demo
export RAY_USAGE_STATS_ENABLED = 0

.PHONY: setup demo test lint format bench docs

setup:
	@bash tools/setup.sh

demo: setup
	@$(PY) -m manifests.cli demo --out $(OUT)

test: setup
	@$(PY) -m pytest

lint: setup
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

format: setup
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

bench: setup
	@for script in benchmarks/bench_*.py; do echo "== $$script"; $(PY) $$script --json || exit 1; done

docs: setup
	@$(PY) docs/generate.py
