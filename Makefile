# Set up, check and try raysmith. `make test` and `make demo` set themselves up on a fresh machine.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

TORCH := torch==2.13.0+cpu
TORCH_INDEX := https://download.pytorch.org/whl/cpu
UV := uv==0.13.9

SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))
# A version manager leaves commands on the path that can't start, so each candidate is tried.
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3,$(if \
	$(shell $(p) -c '$(SUPPORTED)' 2>&1 || echo no),,$(p))))

UNIT := tests/unit tests/architecture tests/contract tests/golden
INTEGRATION := tests/contract tests/integration tests/invariant
BENCHES := $(wildcard tests/bench/*.py)
SCHEMAS := job profile

# The wheel index of the resolver that `make lock` uses for the CPU build of torch; a machine
# that has the wheel on disk names its folder in PIP_FIND_LINKS instead.
LOCK_TORCH := $(if $(PIP_FIND_LINKS),--find-links $(PIP_FIND_LINKS),--torch-backend cpu)

.DEFAULT_GOAL := help
.PHONY: help setup demo test soak unit lint bench scale lock clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | \
		sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

setup: $(READY)  ## make .venv with everything in requirements.lock

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" && $(PYTHON) -c '$(SUPPORTED)' || { \
		echo "error: raysmith needs Python 3.11 or 3.12, and '$(PYTHON)' is neither." >&2; \
		echo "  Install one, or name it: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "error: $(PYTHON) can't make virtual environments." >&2; \
		echo "  On Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@# The local version makes pip refuse the CUDA build that it would otherwise take from the
	@# registry. Where the index can't be reached, a wheel on disk does, after one short retry.
	$(BIN)/pip install --no-deps --retries 1 --extra-index-url $(TORCH_INDEX) $(TORCH) || { \
		echo "error: the CPU build $(TORCH) is neither at $(TORCH_INDEX)" >&2; \
		echo "  nor in a folder named by PIP_FIND_LINKS. Make one of them reachable and" >&2; \
		echo "  run make setup again." >&2; exit 1; }
	$(BIN)/pip install --no-deps -r requirements.lock
	$(BIN)/pip install --no-deps --no-build-isolation -e .
	@touch $@

demo: export HF_HUB_OFFLINE ?= 1
demo: $(READY)  ## fine-tune the bundled model on this machine and ask it who it is
	$(BIN)/python -m jobs.demo

test: export HF_HUB_OFFLINE ?= 1
test: lint unit  ## lint, then the tests of a change: what CI runs
	$(BIN)/pytest -q -m "integration and not soak" $(INTEGRATION)

soak: export HF_HUB_OFFLINE ?= 1
soak: $(READY)  ## the tests that take long, and a hundred kills: for each release, two hours
	$(BIN)/pytest -q -m soak $(INTEGRATION)
	$(BIN)/python -m tests.chaos.kill_matrix

unit: export HF_HUB_OFFLINE ?= 1
unit: $(READY)  ## the fast tests alone: no sockets, under a minute
	$(BIN)/pytest -q -n auto -m "not integration" $(UNIT)

lint: $(READY)  ## style, types, layers, and drift of the generated schema
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	@set -e; for kind in $(SCHEMAS); do \
		$(BIN)/raysmith schema $$kind --check jobs/schema/$$kind.schema.json; done

bench: $(READY)  ## run every benchmark of tests/bench
	@set -e; for bench in $(BENCHES); do echo "== $$bench"; $(BIN)/python $$bench; done

scale: $(READY)  ## what coordination costs at 10, 100 and 1,000 simulated engines
	$(BIN)/python tests/scale/run.py

lock: $(READY)  ## resolve requirements.in into requirements.lock, newest versions
	$(BIN)/python -m venv .venv-lock
	.venv-lock/bin/pip install --quiet $(UV)
	grep '^#' requirements.lock > requirements.lock.new
	.venv-lock/bin/uv pip compile requirements.in --override requirements.overrides \
		$(LOCK_TORCH) --python-version 3.11 --no-header --no-annotate --quiet \
		--no-emit-package torch --no-emit-package pip >> requirements.lock.new
	mv requirements.lock.new requirements.lock

clean:  ## remove caches and builds; .venv and runs stay
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .venv-lock
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
