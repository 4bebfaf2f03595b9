# Two commands do everything on a fresh machine with Python 3.10+:  make demo   and   make test
PYTHON ?= python3
VENV ?= .venv
FILE ?= demo/generator.onnx
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: check clean demo figures format help hostile install-matrix matrix soak startup test
SOAK_SECONDS ?= 3600
SOAK_LOADS ?= 500

help: ## Say what there is to make
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "ganedge needs Python 3.10 or newer: make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable '.[train,export,cpu]'
	@touch $@

$(VENV)/test.stamp: $(VENV)/demo.stamp
	$(PIP) --editable '.[train,export,cpu,openvino,rtx,sr,video,serve,report,dev]'
	@touch $@

.typecheck/ganedge:
	@mkdir -p .typecheck && ln -sfn .. .typecheck/ganedge

demo: $(VENV)/demo.stamp ## Digits → DCGAN → ONNX FP32 and FP16 → new digits → latency table
	rm -rf demo
	$(BIN)/gan-train dcgan --data digits --conditional --out demo/run --epochs 60 --max-minutes 2.5
	$(BIN)/gan-export demo/run --format onnx -o demo/generator.onnx
	$(BIN)/gan-export demo/run --format onnx --fp16 -o demo/generator-fp16.onnx
	$(BIN)/gan-run sample demo/generator.onnx -n 60 --columns 10 --seed 0 -o demo/digits.png
	$(BIN)/gan-bench demo/generator.onnx demo/generator-fp16.onnx --against demo/run --batch 1,8 --seconds 1 --json demo/latency.json
	@echo "new digits: demo/digits.png   latency: demo/latency.json"

test: check ## Checks, then every test
	$(BIN)/python -m pytest

check: $(VENV)/test.stamp .typecheck/ganedge ## Format, lint, types and layout
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --quiet tests/test_layout.py

format: $(VENV)/test.stamp ## Format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

matrix: $(VENV)/test.stamp ## Every system at its default size × FP32, FP16, INT8 through the gates; minutes
	GANEDGE_MATRIX=1 $(BIN)/python -m pytest -m matrix tests/export/test_matrix.py

startup: $(VENV)/test.stamp ## Start-up time of the API and of gan-run beside a bare onnxruntime script
	$(BIN)/python -m ganedge.benchmarks.startup $(FILE)

hostile: $(VENV)/test.stamp ## 2000 damaged files
	OMP_WAIT_POLICY=passive $(BIN)/python tests/hostile/fuzz.py --cases 2000 --report tests/hostile/results/fuzz.json
	$(BIN)/python tests/hostile/figures.py

soak: $(VENV)/test.stamp ## One hour (SOAK_SECONDS=) of FILE under load, loaded 500 times (SOAK_LOADS=)
	$(BIN)/python tests/hostile/soak.py $(FILE) --seconds $(SOAK_SECONDS) --loads $(SOAK_LOADS) --report tests/hostile/results/soak.json
	$(BIN)/python tests/hostile/figures.py

install-matrix: $(VENV)/test.stamp ## Install for a device on every Python here, oldest and newest dependencies, and sample FILE
	$(BIN)/python tests/hostile/matrix.py $(FILE) --report tests/hostile/results/matrix.json
	$(BIN)/python tests/hostile/figures.py

figures: ## The README's table of what was attacked, from the suites' reports
	python3 tests/hostile/figures.py

clean: ## Remove what these commands made
	rm -rf $(VENV) .typecheck demo build dist *.egg-info
