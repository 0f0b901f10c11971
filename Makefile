# Two commands for a newcomer: `make demo` and `make test`. Each sets up what it needs in .venv and nothing outside it.
# PYTHON picks the interpreter (3.11 or newer); PIP_FLAGS is handed to every pip call (for example an index with CPU builds of torch).
PYTHON ?= python3
PIP_FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c src/onecard/constraints.txt
JOBS ?= 3

.PHONY: demo test test-vllm check fix docs bench clean

demo: $(VENV)/.local
	$(BIN)/onecard demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

# ONECARD_VLLM_PYTHON names an interpreter with vLLM (its CPU build is enough), ONECARD_QUANTIZE_PYTHON one with llm-compressor.
test-vllm: $(VENV)/.dev
	@test -n "$$ONECARD_VLLM_PYTHON" && test -n "$$ONECARD_QUANTIZE_PYTHON" || { sed -n 's/^# \(ONECARD_VLLM.*\)/\1/p' Makefile; exit 2; }
	$(BIN)/python -m pytest tests/vllm

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python mini/check_glossary.py
	$(BIN)/python docs/generate_help.py --check
	$(BIN)/python docs/draw_document_c.py --check
	$(BIN)/python benchmarks/planner_truth.py table --check

fix: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python docs/generate_help.py

docs: $(VENV)/.dev
	$(BIN)/python docs/generate_help.py
	$(BIN)/python docs/draw_document_c.py
	$(BIN)/python docs/draw_plan.py
	$(BIN)/python benchmarks/planner_truth.py table

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/cold_start.py
	$(BIN)/python benchmarks/planning_speed.py

clean:
	rm -rf $(VENV) onecard-demo

# torch comes first and alone: installed after anything that needs it, pip may fetch gigabytes of CUDA for a machine without a card.
$(VENV)/.local: pyproject.toml src/onecard/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "onecard needs Python 3.11 or newer: make PYTHON=python3.11 ..."; exit 1; }
	@echo "setting up $(VENV): about two minutes, once"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) torch
	@$(PIP) -e ".[local,plots]"
	@touch $@

$(VENV)/.dev: $(VENV)/.local
	@$(PIP) -e ".[local,plots,dev]"
	@touch $@
