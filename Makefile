# make setup | check | test | test-base | mutants | demo | campaign | clean. CI calls the same targets.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
EXTRAS ?= train,dali,ray,parquet,transfer,dev
STAMP  := $(VENV)/.installed

.PHONY: setup check test test-base acceptance mutants demo campaign services clean

setup: $(STAMP)

# Rebuilt only when the declared dependencies change.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_architecture.py

# On all cores, a file at a time on one of them; in the order of the folders, where the long files of tests/integration
# come first. Then what measures wall-clock time, by itself. CI adds coverage.
COVERAGE := $(if $(CI),--cov --cov-append --cov-report=)

test: setup
	rm -f .coverage
	$(BIN)/python -m pytest -m 'not acceptance and not alone' --numprocesses auto --dist loadfile \
	  --no-loadscope-reorder $(COVERAGE)
	$(BIN)/python -m pytest -m 'alone and not acceptance' $(COVERAGE)
	$(if $(CI),$(BIN)/coverage report)

# The shard builder on the newest Python, in the base install, which has no torch.
PYTHON_313 := $(firstword $(foreach python,python3.13 $(wildcard $(HOME)/.pyenv/versions/3.13*/bin/python),\
  $(if $(shell $(python) --version 2>/dev/null),$(python))))
BASE_TESTS := tests/unit/shard_builder tests/unit/pipeline/format tests/unit/pipeline/order tests/unit/pipeline/store

test-base: .venv-base/.installed
	.venv-base/bin/python -m pytest --numprocesses auto --dist loadfile $(BASE_TESTS)

.venv-base/.installed: pyproject.toml constraints.txt
	test -n "$(PYTHON_313)" || { echo "there is no Python 3.13 here"; exit 1; }
	test -x .venv-base/bin/python || $(PYTHON_313) -m venv .venv-base
	.venv-base/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[parquet,ray,test,transfer]'
	touch $@

# The tests that are too long for every run.
acceptance: setup
	$(BIN)/python -m pytest -m acceptance

# Does a test turn red when the product is wrong? Option: SAMPLE=30 for so many of the mutants.
mutants: setup
	PYTHONPATH=tests $(BIN)/python -m mutants $(if $(SAMPLE),--sample $(SAMPLE))

# Beside our own packages the tests want Prometheus, and the schemas of SkyPilot (whose pins clash with ours) and
# Grafana. Without them a developer's run skips some tests of tests/integration; CI fails.
SERVICES := $(VENV)/services
SUDO     := $(if $(filter-out 0,$(shell id -u)),sudo)

services: $(SERVICES)/.installed

$(SERVICES)/.installed: Makefile
	for package in prometheus npm; do command -v $$package >/dev/null || missing="$$missing $$package"; done; \
	test -z "$$missing" || { $(SUDO) apt-get update -qq && \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; }
	test -x $(SERVICES)/sky/bin/python || $(PYTHON) -m venv $(SERVICES)/sky
	$(SERVICES)/sky/bin/python -m pip install --quiet skypilot==0.14.1
	npm install --prefix $(SERVICES) --silent --no-audit --no-fund @grafana/schema@13.2.3 typescript@7.0.2
	touch $@

# Options: DATA=/path/to/imagefolder STORE=s3://bucket/prefix SEED=1
demo: setup
	$(BIN)/python -m tools.demo --data "$(DATA)" --store "$(STORE)" --seed $(or $(SEED),0)

# Faults of an object store, 50,000 samples; writes the table of docs/reliability.md.
campaign: setup
	ESVIT_CAMPAIGN_SAMPLES=50000 $(BIN)/python -m pytest -q tests/integration/test_fault_campaign.py

clean:
	rm -rf $(VENV) .venv-base build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis runs demo-output
