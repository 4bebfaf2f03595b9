# Two commands do everything on a fresh machine with Python 3.10+:  make demo   and   make test
PYTHON ?= python3
VENV ?= .venv
FILE ?= demo/generator.onnx
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: aarch64 auto-choice check clean demo demo-check docs figures format gpu help honesty hostile install-matrix layout links matrix mutants options results soak startup stations test userland web-matrix
SOAK_SECONDS ?= 3600
SOAK_LOADS ?= 500

help: ## Say what there is to make
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "ganedge needs Python 3.10 or newer: make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable '.[train,export,cpu,openvino]'
	@touch $@

$(VENV)/test.stamp: $(VENV)/demo.stamp
	$(PIP) --editable '.[train,export,judge,cpu,openvino,rtx,sr,video,serve,report,browser,docs,ncnn,pnnx,ray,dev]'
	@touch $@

links: # of the folders alone: a link to the whole repository makes mkdocs walk .venv too, again at each level
	@if [ -L .typecheck/ganedge ]; then rm .typecheck/ganedge; fi
	@mkdir -p .typecheck/ganedge
	@ln -sfn $(addprefix ../../,models train export runtime benchmarks) .typecheck/ganedge

demo: $(VENV)/demo.stamp ## Digits → DCGAN → ONNX in FP32 and INT8 → new digits → latency table
	@rm -rf demo
	$(BIN)/gan-train dcgan --data digits --conditional --r1 1 --ema 0.99 \
		--epochs 1000 --max-minutes 2 --out demo/run
	$(BIN)/gan-export demo/run -o demo/generator.onnx
	$(BIN)/gan-export demo/run --int8 -o demo/generator-int8.onnx
	$(BIN)/gan-run sample demo/generator.onnx -n 60 --columns 10 --seed 0 -o demo/digits.png
	$(BIN)/gan-bench demo/generator.onnx demo/generator-int8.onnx --against demo/run \
		--batch 1 --seconds 0.5 --processes 1 --json demo/latency.json
	@echo "new digits: demo/digits.png"

demo-check: demo/generator.onnx ## Are the demo's digits legible and varied? Run make demo first
	$(BIN)/python -m ganedge.benchmarks.studies.demo_quality demo/generator.onnx demo/generator-int8.onnx

WORKERS ?= auto
test: check ## Checks, then every test, in a process for each core (WORKERS=1: in one), four at most
	@$(BIN)/python tests/onnxruntime_web.py
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --maxprocesses 4 --dist worksteal

check: $(VENV)/test.stamp links ## Format, lint, types and layout
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --quiet tests/test_layout.py

layout: ## Write the file tree of docs/layout.md
	python3 tests/layout_tree.py

docs: $(VENV)/test.stamp links ## Build the documents and the API reference into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

options: $(VENV)/test.stamp ## Write the option tables of docs/commands.md
	$(BIN)/python tests/option_tables.py

format: $(VENV)/test.stamp layout ## Format, and fix what can be fixed automatically
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

matrix: $(VENV)/test.stamp ## Every system at its default size × FP32, FP16, INT8 through the gates; minutes
	GANEDGE_MATRIX=1 $(BIN)/python -m pytest -m matrix tests/export/test_matrix.py tests/export/test_to_ncnn.py

web-matrix: $(VENV)/test.stamp ## Every system × FP32, FP16, INT8 through Chromium in WASM and WebGPU; writes benchmarks/results/web.md
	@$(BIN)/python tests/onnxruntime_web.py
	$(BIN)/python tests/web_matrix.py

aarch64: $(VENV)/test.stamp ## Nine presets of seven GANs as 64-bit ARM code in QEMU: ONNX Runtime and ncnn; writes benchmarks/results/aarch64.md
	$(BIN)/python tests/aarch64.py

userland: $(VENV)/test.stamp ## Debian's arm64 Python and the aarch64 wheels, for the tests as ARM code
	@$(BIN)/python tests/aarch64.py --userland

startup: $(VENV)/test.stamp ## Start-up time of the API and of gan-run beside a bare onnxruntime script
	$(BIN)/python -m ganedge.benchmarks.studies.startup $(FILE)

AUTO_SECONDS ?= 0.5
auto-choice: $(VENV)/test.stamp ## Does load() without arguments take the fastest engine? Nine systems × FP32, FP16, INT8; minutes (MACHINE=name)
	$(BIN)/python -m ganedge.benchmarks.studies.auto_choice --seconds $(AUTO_SECONDS) --out $(RESULTS)/auto_choice/$(MACHINE).json

hostile: $(VENV)/test.stamp ## 2000 damaged files, 3000 damaged requests, 66 kills (half an hour on two quiet cores)
	OMP_WAIT_POLICY=passive $(BIN)/python tests/hostile/fuzz.py --cases 2000 --report tests/hostile/results/fuzz.json
	$(BIN)/python tests/hostile/asked.py --cases 3000 --report tests/hostile/results/asked.json
	OMP_WAIT_POLICY=passive $(BIN)/python tests/hostile/kill.py --kills 66 --report tests/hostile/results/kill.json
	$(BIN)/python tests/hostile/figures.py

stations: $(BIN)/python ## The tests of each station with its own extras alone, in fresh environments (STATIONS="runtime export")
	$(BIN)/python tests/stations.py $(STATIONS)

GROUP ?=
SAMPLE ?= 0
mutants: $(VENV)/test.stamp ## Plant faults that tests must notice, SAMPLE= for each file of GROUP= (SAMPLE=40: hours; every fault: days)
	$(BIN)/python tests/hostile/mutants.py $(GROUP) --sample $(SAMPLE)

soak: $(VENV)/test.stamp ## One hour (SOAK_SECONDS=) of FILE under load, loaded 500 times (SOAK_LOADS=)
	$(BIN)/python tests/hostile/soak.py $(FILE) --seconds $(SOAK_SECONDS) --loads $(SOAK_LOADS) --report tests/hostile/results/soak.json
	$(BIN)/python tests/hostile/figures.py

install-matrix: $(VENV)/test.stamp ## Install for a device on every Python here, oldest and newest dependencies, and sample FILE
	$(BIN)/python tests/hostile/matrix.py $(FILE) --report tests/hostile/results/matrix.json
	$(BIN)/python tests/hostile/figures.py

figures: ## Write the table of attacks in docs/results.md from the suites' reports
	python3 tests/hostile/figures.py

RESULTS := benchmarks/results
MACHINE ?= $(shell uname -n)
RUNS ?= 20

results: $(VENV)/test.stamp ## Measure a DCGAN-64 and a CycleGAN in every precision and engine here, and write docs/results.md (MACHINE=name)
	rm -rf build/results
	$(BIN)/gan-train dcgan --data digits --size 64 --width 64 --channels 3 --steps 100 --out build/results/run
	$(BIN)/gan-export build/results/run -o build/results/dcgan64-fp32.onnx
	$(BIN)/gan-export build/results/run --fp16 -o build/results/dcgan64-fp16.onnx
	$(BIN)/gan-export build/results/run --int8 --for ort -o build/results/dcgan64-int8-ort.onnx
	$(BIN)/gan-export build/results/run --int8 --for openvino -o build/results/dcgan64-int8-openvino.onnx
	-$(BIN)/gan-bench build/results/dcgan64-*.onnx --against build/results/run --torch eager,channels-last --batch 1,16 \
		--json $(RESULTS)/$(MACHINE).json --html build/results/page.html
	$(BIN)/python -m ganedge.benchmarks.studies.results pictures build/results/pictures
	$(BIN)/gan-train cyclegan --data build/results/pictures --steps 2 --out build/results/cyclegan
	$(BIN)/gan-export build/results/cyclegan -o build/results/cyclegan256-fp32.onnx
	$(BIN)/gan-export build/results/cyclegan --fp16 -o build/results/cyclegan256-fp16.onnx
	@echo "INT8 that does not pass its gate is left out of the table"
	-$(BIN)/gan-export build/results/cyclegan --int8 --for ort --calibrate 8 -o build/results/cyclegan256-int8-ort.onnx
	-$(BIN)/gan-export build/results/cyclegan --int8 --for openvino --calibrate 8 -o build/results/cyclegan256-int8-openvino.onnx
	-$(BIN)/gan-bench build/results/cyclegan256-*.onnx --against build/results/cyclegan --batch 1 \
		--json $(RESULTS)/$(MACHINE)-cyclegan256.json --html build/results/cyclegan.html
	mkdir -p $(RESULTS)/training
	$(BIN)/gan-bench train --json $(RESULTS)/training/$(MACHINE).json
	$(BIN)/python -m ganedge.benchmarks.studies.results

honesty: $(VENV)/test.stamp ## Is gan-bench right where the answer is known? 20 runs (RUNS=) on a quiet machine, two to three minutes each
	$(BIN)/python -m ganedge.benchmarks.studies.honesty --runs $(RUNS) --json $(RESULTS)/honesty/$(MACHINE).json

# What this machine lacks is named and left out: a line with a minus may fail, where there is no compiler or TensorRT, or
# where one misses its gate, and what comes after it is measured all the same.
GPU := PYTHONPATH=.typecheck $(PYTHON) -m
QUICK := --seconds 2 --processes 1
gpu: links ## Every test marked gpu and the benchmarks on CUDA, with PYTHON as it is: installs nothing
	mkdir -p $(RESULTS)/training build && rm -rf build/gpu
	-$(GPU) ganedge.benchmarks train --device cuda --seconds 10 --json $(RESULTS)/training/$(MACHINE)-cuda.json
	$(GPU) ganedge.train dcgan --data digits --size 64 --width 64 --channels 3 --steps 200 --device cuda --out build/gpu/run
	$(GPU) ganedge.export build/gpu/run -o build/gpu/dcgan64-fp32.onnx
	$(GPU) ganedge.export build/gpu/run --fp16 -o build/gpu/dcgan64-fp16.onnx
	-$(GPU) ganedge.export build/gpu/dcgan64-fp16.onnx --format trt -o build/gpu/dcgan64-trt.engine
	-$(GPU) ganedge.benchmarks build/gpu/dcgan64-*.onnx $$(ls build/gpu/dcgan64-*.engine 2>/dev/null) --against build/gpu/run \
		--device cuda --torch all --batch 1,16 $(QUICK) --json $(RESULTS)/$(MACHINE)-cuda.json
	$(GPU) ganedge.benchmarks.studies.results pictures build/gpu/pictures
	$(GPU) ganedge.train cyclegan --data build/gpu/pictures --steps 2 --device cuda --out build/gpu/cyclegan
	$(GPU) ganedge.export build/gpu/cyclegan -o build/gpu/cyclegan256-fp32.onnx
	$(GPU) ganedge.export build/gpu/cyclegan --fp16 -o build/gpu/cyclegan256-fp16.onnx
	-$(GPU) ganedge.export build/gpu/cyclegan256-fp16.onnx --format trt -o build/gpu/cyclegan256-trt.engine
	-$(GPU) ganedge.benchmarks build/gpu/cyclegan256-*.onnx $$(ls build/gpu/cyclegan256-*.engine 2>/dev/null) --against build/gpu/cyclegan \
		--device cuda --torch eager,fp16,cuda-graph --batch 1 $(QUICK) --json $(RESULTS)/$(MACHINE)-cuda-cyclegan256.json
	-$(GPU) ganedge.benchmarks train --device cuda --seconds 10 --compile --json $(RESULTS)/training/$(MACHINE)-cuda-compiled.json
	$(GPU) pytest -W default -m gpu tests/test_gpu.py

clean: ## Remove what these commands made
	rm -rf $(VENV) .typecheck demo build dist *.egg-info
