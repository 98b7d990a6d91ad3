# `make demo` shows it, `make test` proves it. Needs Python 3.11, Java 17 and Maven; brings the rest into .venv and .cache.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
UV = $(BIN)/uv
LOCK = $(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header $(UPGRADE)
# Two cores: one broker for each worker, and whole files, so that a module's broker starts once.
PYTEST ?= $(BIN)/pytest -n 2 --dist loadfile

.PHONY: setup demo up test lint fix bench chaos chaos-long chaos-planted simulate lock check-unlocked jars clean

setup: $(READY) jars

$(READY): pyproject.toml client/pyproject.toml requirements/bootstrap.txt requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=..." if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	@$(UV) pip install -q --python $(BIN)/python --require-hashes -r requirements/dev.txt
	@# The build backend is in the lock as well: an isolated build would fetch whatever is newest.
	@$(UV) pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e . -e client
	@touch $@

# Without Java or Maven the demo still runs, on a broker that keeps nothing; it says so.
jars: $(READY)
	@-$(BIN)/python -m ops.broker jars

demo: setup
	@$(BIN)/omium-recovery demo

up: setup
	@$(BIN)/omium-recovery up

test: setup lint
	@$(PYTEST)

lint: $(READY)
	@$(BIN)/ruff check -q
	@$(BIN)/ruff format -q --check
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/mypy --no-error-summary client/omium
	@said=$$($(BIN)/lint-imports 2>&1) || { echo "$$said"; exit 1; }
	@$(BIN)/python -m schemas.generate --check
	@$(BIN)/yamllint -s docker-compose.yml ops

fix: $(READY)
	@$(BIN)/ruff check -q --fix
	@$(BIN)/ruff format -q

bench: setup
	@$(BIN)/python -m ops.bench

# One node and few faults; chaos-long: three nodes, every fault, 28 minutes of load, then every planted bug.
# SEED=... draws the same faults again. Both end with a line of JSON. chaos-planted: the bugs alone; simulate: a million worlds.
chaos: setup
	@$(BIN)/python -m ops.chaos --nodes 1 --failures 2000 --rate 40 --faults 14 --planted fast $(if $(SEED),--seed $(SEED))

chaos-long: setup
	@$(BIN)/python -m ops.chaos --nodes 3 --failures 100000 --rate 55 --faults 204 --planted all \
		$(if $(SEED),--seed $(SEED))

chaos-planted: setup
	@$(BIN)/python -m ops.chaos.planted

simulate: setup
	@$(BIN)/python -m ops.chaos.simulate --seeds 1000000

# Newest versions: make lock UPGRADE=--upgrade
lock: $(READY)
	@echo uv | $(LOCK) --no-annotate - -o requirements/bootstrap.txt
	@$(LOCK) --extra embedded --group dev pyproject.toml -o requirements/dev.txt
	@# The image gets what the tests had.
	@$(LOCK) --constraints requirements/dev.txt --no-annotate pyproject.toml -o requirements/runtime.txt

# The newest versions that pyproject.toml allows, as a user without our lock gets them.
check-unlocked: $(READY)
	@rm -rf .venv-unlocked
	@$(UV) venv -q --python $(BIN)/python .venv-unlocked
	@$(UV) pip install -q --python .venv-unlocked/bin/python . ./client
	@.venv-unlocked/bin/omium-recovery --help > /dev/null
	@echo '{"tenant_id":"t","execution_id":"e","tool_response":{"tool":"x","status_code":429}}' \
		| .venv-unlocked/bin/omium-recovery classify | grep -q '"subtype":"rate_limit"'
	@.venv-unlocked/bin/python -c 'import omium'
	@rm -rf .venv-unlocked

clean:
	@rm -rf $(VENV) .venv-unlocked .cache .demo .mypy_cache .ruff_cache .hypothesis .import_linter_cache
