# make retrain   the main job, from nothing: real data, real model, embedded servers
# make test      everything that runs without a GPU, but for the stack and the browser: make test-long
# make up        PostgreSQL, S3, MLflow, Prefect and two workers as processes on loopback; make down ends them
# make demo      the line on that stack: triggered over HTTP, promoted, pulled from the bucket
# make deploy    work pools, limits, automations and prefect.yaml, applied to the server of PREFECT_API_URL

PYTHON ?= python3.11
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: retrain test test-fast test-long test-system lint constraints bench bench-data bench-serving ui up down demo deploy

retrain: .venv/installed
	@$(BIN)/adaptory retrain sentiment

test: .venv/installed lint test-system
	@$(BIN)/python -m compileall -q adaptory flows tasks    # some 400 processes will import them
	@$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not long"

# The stack with its machines, doors and bad days, the browser, an installation from nothing, the arbiter of methods.
test-long: .venv/installed test-system
	@$(BIN)/python -m pytest -m long

test-fast: .venv/installed
	@$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

# What tests need of the system; without root they are skipped, and say so.
test-system:
	@if [ "$$(id -u)" = 0 ]; then \
	   for need in chromium:chromium postgresql:pg_isready iproute2:ip; do \
	     command -v $${need#*:} >/dev/null || missing="$$missing $${need%:*}"; done; \
	   ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || missing="$$missing postgresql"; \
	   [ -z "$$missing" ] || { echo "installing$$missing"; apt-get update -qq && \
	     DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing >/dev/null; }; fi

up: .venv/installed
	@$(BIN)/python -m infra.stack up

down:
	@$(BIN)/python -m infra.stack down

demo: up
	@$(BIN)/python -m infra.demo

deploy: .venv/installed
	@$(BIN)/python -m infra.deploy

lint: .venv/installed
	@$(BIN)/ruff check .
	@$(BIN)/mypy

ui: .venv/installed
	@$(BIN)/adaptory ui

bench: .venv/installed
	@$(BIN)/python -m benchmarks.line

bench-serving: .venv/installed
	@$(BIN)/python -m benchmarks.serving

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
	   uv pip compile -q --python-version 3.11 --extra bench --extra dev --no-header --no-annotate pyproject.toml ) > constraints.new
	@mv constraints.new constraints.txt
