# `make setup demo test up check lock`; every target that needs .venv makes it first.
# PYTHON names the interpreter that .venv is made from (3.11 or newer).

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
STAMP := $(VENV)/.zsq-installed
PACKAGES := api core store worker zsq
# Files side by side, in the order in which they are found: the long integration files come in the middle.
PYTEST_ARGS ?= -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup demo test up check lock clean

help: ## What there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(STAMP) ## Make .venv and install what requirements/all.lock names, and zsq itself

# The stamp is newer than the lock file exactly when .venv holds what the lock file says.
$(STAMP): requirements/all.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "zsq needs Python 3.11 or newer with its venv module (Debian: python3-venv);" \
		"found none. Name one: make setup PYTHON=/path/to/python3" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --no-compile --no-deps --require-hashes -r requirements/all.lock
	$(PIP) install --quiet --no-deps --editable .
	@touch $@

demo: $(STAMP) ## The whole product once: train, upload, quantize, download, report (into demo-out/)
	$(BIN)/zsq demo

test: $(STAMP) ## The test suite
	$(BIN)/python -m pytest $(PYTEST_ARGS)

up: $(STAMP) ## The whole stack on http://127.0.0.1:8000 until Ctrl-C (ZSQ_PORT, ZSQ_DATA_DIR move it)
	$(BIN)/zsq up

check: $(STAMP) ## Everything that CI asks: style, types, import rules, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict $(PACKAGES)
	$(BIN)/lint-imports
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# --universal: one file for every platform and Python that pyproject.toml admits.
COMPILE = uv pip compile pyproject.toml --quiet --universal --python-version 3.11 \
	--constraints requirements/constraints.txt --generate-hashes --no-annotate --no-header --upgrade

lock: ## Resolve the lock files anew: everything, and what each container needs of it
	@set -e; tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; \
	$(PYTHON) -m venv "$$tmp"; "$$tmp/bin/python" -m pip install --quiet uv; \
	PATH="$$tmp/bin:$$PATH"; \
	$(COMPILE) --extra dev -o "$$tmp/all.lock"; \
	for extra in api worker; do \
		$(COMPILE) --extra $$extra -o "$$tmp/$$extra.lock" --constraints "$$tmp/all.lock"; done; \
	for name in all api worker; do \
		{ echo "# Made by \`make lock\`; do not edit."; cat "$$tmp/$$name.lock"; } > requirements/$$name.lock; done

clean: ## Remove what set-up and runs have made, but no data
	rm -rf $(VENV) demo-out .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
