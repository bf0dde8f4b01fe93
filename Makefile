# make setup | check | test | demo | campaign | clean. CI calls the same targets.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
EXTRAS ?= train,dali,ray,parquet,transfer,dev
STAMP  := $(VENV)/.installed

.PHONY: setup check test acceptance demo campaign services clean

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

test: setup
	$(BIN)/python -m pytest

# The tests that are too long for every run.
acceptance: setup
	$(BIN)/python -m pytest -m acceptance

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
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis runs demo-output
