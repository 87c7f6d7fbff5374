# make demo and make test are the two commands; each sets up what it needs first.
PY := .venv/bin/python
OUT ?= demo
export RAY_USAGE_STATS_ENABLED = 0

.PHONY: setup setup-browser demo test test-slow lint format bench weights interop docs

setup:
	@bash tools/setup.sh

setup-browser:
	@bash tools/setup_browser.sh

demo: setup
	@$(PY) -m manifests.cli demo --out $(OUT)

test: setup
	@$(PY) -m pytest -n 2 --dist loadfile -m "not slow"

test-slow: setup
	@$(PY) -m pytest -m slow

lint: setup
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

format: setup
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

bench: setup
	@missed=0; for script in benchmarks/bench_*.py; do \
	  echo "== $$script"; $(PY) $$script --json; code=$$?; \
	  if [ $$code = 2 ]; then echo "$$script needs arguments: see --help"; \
	  elif [ $$code != 0 ]; then missed=1; fi; done; exit $$missed

# Films, curates and trains what `--model small` is: about an hour and a half on two cores; may be stopped at any time.
weights: setup
	@$(PY) tools/make_weights.py --ship

# lerobot's pins clash with ours: it gets an environment of its own (about 6 GB).
interop: setup
	@test -x .venv-interop/bin/lerobot-info || (python3 -m venv .venv-interop && .venv-interop/bin/pip install -q "lerobot==0.4.4")
	@$(PY) interop/round_trip.py --python .venv-interop/bin/python --report interop/results.json

docs: setup
	@$(PY) docs/generate.py
