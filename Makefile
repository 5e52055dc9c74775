# make retrain   the main job, from nothing: real data, real model, embedded servers
# make test      everything that runs without a GPU

PYTHON ?= python3.11
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: retrain test test-fast lint constraints bench bench-data ui

retrain: .venv/installed
	@$(BIN)/adaptory retrain sentiment

test: .venv/installed lint
	@$(BIN)/python -m pytest -n auto --dist loadgroup --no-loadscope-reorder

test-fast: .venv/installed
	@$(BIN)/python -m pytest -m "not slow"

lint: .venv/installed
	@$(BIN)/ruff check .
	@$(BIN)/mypy

ui: .venv/installed
	@$(BIN)/adaptory ui

bench: .venv/installed
	@$(BIN)/python -m benchmarks.line

bench-data: .venv/installed
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[bench]'
	@$(BIN)/python -m benchmarks.data

.venv/installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

# Every transitive pin of every extra. Needs uv; torch is pinned in pyproject.toml.
constraints:
	@( echo "# Every package of every extra, pinned. Made by: make constraints"; \
	   uv pip compile -q --python-version 3.11 --extra bench --extra dev --no-header --no-annotate pyproject.toml ) > constraints.txt
