# Every target sets up what it needs: a virtual environment in .venv with the locked packages.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SERVER ?= $(BIN)/codex-exec-server

.PHONY: help setup generate check breaking record lint format types test test-unit test-mutants test-peers coverage conformance conformance-pinned peers conformance-peers matrix mutants screenshots screens bench bench-client bench-library soak fuzz lock docs wheel test-wheels clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 20

DISTRIBUTIONS := generated runtime conformance codegen

$(STAMP): requirements/dev.txt $(DISTRIBUTIONS:=/pyproject.toml)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes --requirement requirements/dev.txt
	$(BIN)/pip install --quiet --no-deps --no-build-isolation $(DISTRIBUTIONS:%=--editable ./%)
	$(BIN)/python -m compileall -q codegen conformance generated runtime
	@touch $@

setup: $(STAMP) ## create .venv with the locked packages and the project

generate: $(STAMP) ## write generated/, docs/reference/ and docs/compatibility.md from schema/
	$(BIN)/exec-server-codegen generate
	$(BIN)/python -m exec_server_codegen.client_files

check: $(STAMP) ## fail if what is generated is not what its sources say
	$(BIN)/exec-server-codegen lint
	$(BIN)/exec-server-codegen check
	$(BIN)/python -m exec_server_codegen.client_files --check

breaking: $(STAMP) ## fail if schema/ breaks what a released revision promises
	$(BIN)/exec-server-codegen breaking

record: $(STAMP) ## add to schema/released/ what was added to released revisions
	$(BIN)/exec-server-codegen record

lint: $(STAMP) ## ruff, rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## mypy, strict
	$(BIN)/mypy

format: $(STAMP) ## apply ruff's fixes and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

MUTANTS := tests/conformance/runner/test_mutants.py

test: $(STAMP) ## the tests, without those of real codex binaries and of broken servers
	$(BIN)/pytest -n 4 --dist worksteal --ignore tests/peers --ignore tests/packaging --ignore $(MUTANTS)

test-unit: $(STAMP) ## of these, the unit tests: schema, code generator, models, engine
	$(BIN)/pytest -n 4 --dist worksteal tests/schema tests/codegen tests/generated tests/engine

test-mutants: $(STAMP) ## prove that the sessions notice faults: break our server in many ways
	$(BIN)/pytest -n 12 --dist worksteal $(MUTANTS)

# Instrumented programs are slower and larger: tests of time, memory and imports are left out.
COVERAGE_TESTS ?= --ignore tests/peers --ignore tests/packaging --ignore $(MUTANTS) -m "not measures"

coverage: $(STAMP) ## branch coverage of the tests, in all processes that they start; fails below the gate
	rm -rf dist/coverage
	mkdir -p dist/coverage
	$(BIN)/coverage run -m pytest -n 4 --dist worksteal $(COVERAGE_TESTS)
	find dist/coverage -empty -delete # of processes that were killed at once
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

VERSIONS ?= 0.130.0 0.139.0 0.143.0 0.171.0

test-peers: $(STAMP) ## drive real codex clients (VERSIONS="X.Y.Z ...", or all) against our server
	PEER_VERSIONS="$(VERSIONS)" $(BIN)/pytest -n auto tests/peers

bench-client: $(STAMP) ## time real codex clients on our server and on codex's own, in one run
	$(BIN)/python -m tests.peers.timing

conformance: $(STAMP) ## replay every session against our server, over both transports
	$(BIN)/exec-server-conformance check
	$(BIN)/exec-server-conformance --cmd "$(SERVER)"

PINNED ?= */strict/*

conformance-pinned: $(STAMP) ## replay what shows one revision alone, each on a server that speaks no other
	@set -e; for revision in v0 v1 v2; do \
	  echo "$$revision alone:"; \
	  $(BIN)/exec-server-conformance --cmd "$(SERVER) --protocol $$revision" --select "$(PINNED)"; \
	done

PEERS ?= 0.121.0 0.130.0 0.139.0 0.143.0 0.155.0 0.169.0 0.171.0

conformance-peers: $(STAMP) ## replay every session against real codex binaries
	$(BIN)/python -m exec_server_conformance.codex_binaries fetch $(PEERS)
	@set -e; for version in $(PEERS); do \
	  echo "codex $$version:"; \
	  transport=both; [ "$$version" != 0.121.0 ] || transport=ws; \
	  $(BIN)/exec-server-conformance --cmd "$$($(BIN)/python -m exec_server_conformance.codex_binaries command $$version)" \
	    --transport $$transport --server-version $$version \
	    --known-deviations conformance/exec_server_conformance/deviations/codex-$$version.toml; \
	done

matrix: $(STAMP) ## put our server and every fetched codex release side by side in dist/matrix.html
	$(BIN)/exec-server-conformance matrix conformance/targets.toml --html dist/matrix.html

mutants: $(STAMP) ## list the sessions that notice none of the faults (takes minutes)
	$(BIN)/python -m tests.support.mutants.survey

screenshots: $(STAMP) ## photograph the HTML reports for docs/, with chromium
	$(BIN)/python -m tests.support.screenshots docs/images

screens: $(STAMP) ## take the screens of docs/guides/terminal.md, with tmux, vim, less and htop
	$(BIN)/python -m tests.support.screens docs/guides/terminal.md

bench: $(STAMP) ## measure the server beside codex binaries, in one run
	$(BIN)/python -m exec_server_conformance.codex_binaries fetch 0.130.0 0.169.0
	$(BIN)/python -m exec_server_conformance.bench

bench-library: $(STAMP) ## measure the client library: imports, echo, output, processes
	$(BIN)/python -m tests.bench.measure_client

SOAK_SECONDS ?= 600
SOAK_KILLS ?= 1000

soak: $(STAMP) ## load and faults for SOAK_SECONDS, then SOAK_KILLS killed servers; reports what was lost or left
	$(BIN)/python -m tests.soak --seconds $(SOAK_SECONDS)
	$(BIN)/python -m tests.soak.kills --kills $(SOAK_KILLS)

FUZZ ?= --messages 1000000
STALLS ?= --seconds 3600

fuzz: $(STAMP) ## random messages and bytes, messages that grow, and the cost of files and patterns (FUZZ="--seconds N --seed N", STALLS too)
	$(BIN)/python -m tests.fuzz $(FUZZ)
	$(BIN)/python -m tests.fuzz.stalls $(STALLS)

peers: $(STAMP) ## fetch the codex binaries that the suite is proven on
	$(BIN)/python -m exec_server_conformance.codex_binaries fetch

lock: $(STAMP) ## write requirements/dev.txt anew from the pyproject.toml files
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-emit-index-url \
	  --no-emit-package exec-server-protocol --python-version 3.11 --group dev \
	  $(DISTRIBUTIONS:=/pyproject.toml) --output-file requirements/dev.txt

docs: $(STAMP) ## build the documentation site into dist/docs; broken links are errors
	$(BIN)/sphinx-build --quiet --fresh-env --fail-on-warning --keep-going --builder html docs dist/docs

wheel: $(STAMP) ## build the wheels of the four distributions into dist/
	$(BIN)/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist $(DISTRIBUTIONS:%=./%)

test-wheels: $(STAMP) ## install each wheel alone, on every Python from 3.11 that is found
	$(BIN)/pytest -n 2 tests/packaging

clean: ## remove everything that a target made
	rm -rf $(VENV) .peers dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
