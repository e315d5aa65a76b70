# `make bench` and `make test` are all that a newcomer needs; both set up what they use.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet
SOURCES := tokenstone collector workloads api dashboards cli

.PHONY: dashboards proto help bench test lint types contracts tests fast format golden docs clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.run-ready: pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (once) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --constraint constraints.txt --editable '.[all]'
	@touch $@

$(VENV)/.dev-ready: $(VENV)/.run-ready
	@$(PIP) install --constraint constraints.txt --editable '.[all,dev]'
	@# The oracle of traces declares JupyterLab, which it does not import: without its dependencies it is small.
	@$(PIP) install --constraint constraints.txt --no-deps holistictraceanalysis
	@touch $@

bench: $(VENV)/.run-ready  ## run the reference workload here and print what a token cost (ARGS="--price-per-device-hour 2")
	@$(BIN)/tokenstone bench $(ARGS)

test: lint types contracts tests  ## everything that CI runs

lint: $(VENV)/.dev-ready  ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev-ready  ## types, strictly
	$(BIN)/mypy

contracts: $(VENV)/.dev-ready  ## which package may import which
	$(BIN)/lint-imports

tests: $(VENV)/.dev-ready  ## all tests, a file at a time on each of three workers: most wait more than they compute
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile

fast: $(VENV)/.dev-ready  ## the tests that take milliseconds
	$(BIN)/python -m pytest -m "not slow"

format: $(VENV)/.dev-ready  ## bring the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

golden: $(VENV)/.dev-ready  ## accept the present output as the golden files, after looking at it
	TOKENSTONE_UPDATE_GOLDEN=1 $(BIN)/python -m pytest -k golden

docs: $(VENV)/.dev-ready  ## regenerate the pages of docs/ that follow from the code
	$(BIN)/python docs/generate.py

dashboards: $(VENV)/.dev-ready  ## write the boards of dashboards/ as the JSON that Grafana reads
	$(BIN)/python -m dashboards.generate

proto: $(VENV)/.dev-ready  ## regenerate the messages of Kubernetes' kubelet
	cd collector/sources/podresources && $(abspath $(BIN))/python -m grpc_tools.protoc -I. --python_out=. podresources.proto

clean:  ## remove what the other targets made
	rm -rf $(VENV) tokenstone-data .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
