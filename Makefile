# README names `make demo` and `make test`; both first create the virtual environment and compile the operators.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := configs/demo/shapes.yaml
# Tests of several processes wait for each other much of the time: three workers keep two cores busy.
TEST_WORKERS ?= $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) * 3 / 2 )))
# Each worker takes a file at a time, in the order of tests/conftest.py.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder
NOTEBOOK := --nbmake --nbmake-timeout=600 docs/tour.ipynb

.PHONY: install demo notebook docs wheel test test-slow test-all lint cuda-kernels clean

install: $(VENV)/.installed

$(VENV)/.packages: requirements.txt
	$(PYTHON) -m venv $(VENV)
	# --no-compile: most of the 300 MB of Python source is never imported, and pip would compile it for a minute.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.txt
	touch $@

$(VENV)/.installed: $(VENV)/.packages pyproject.toml setup.py $(wildcard csrc/*)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	touch $@

# Make skips a step of the demo if the result of the step exists.
demo: demo/shapes/pictures demo/shapes/model_final.onnx
	@echo "Look at demo/shapes/inference/shapes_val/report.html, and at the detections in demo/shapes/pictures."
	@echo "demo/shapes/model_final.onnx is the detector as an ONNX file; ONNX Runtime gave the same detections."

demo/data/instances_val.json: | install
	$(BIN)/python tools/make_shapes_dataset.py demo/data

demo/shapes/model_final.pth: demo/data/instances_val.json
	$(BIN)/python tools/train_net.py --config-file $(DEMO) --skip-test

demo/shapes/inference/shapes_val/coco_results.json: demo/shapes/model_final.pth
	$(BIN)/python tools/test_net.py --config-file $(DEMO) MODEL.WEIGHT $<

demo/shapes/pictures: demo/shapes/inference/shapes_val/coco_results.json
	$(BIN)/python tools/draw_detections.py --config-file $(DEMO)

# Written, then run in ONNX Runtime on images of the dataset, and kept if it detects what PyTorch detects.
demo/shapes/model_final.onnx: demo/shapes/model_final.pth
	$(BIN)/python tools/export.py --config-file $(DEMO) --weights $< --format onnx --output $@

# Run docs/tour.ipynb from top to bottom; the file stays as it is.
notebook: install
	$(BIN)/python -m pytest $(NOTEBOOK)

# Build the site of the documentation in build/site; open build/site/index.html.
docs: install
	$(BIN)/mkdocs build --strict

# Build a wheel in dist/, which has configs and compiled operators and needs no repository.
wheel: install
	rm -rf build/lib.* build/bdist.*
	$(BIN)/python -m build --no-isolation --wheel

test: install lint
	$(PYTEST) -m "not slow"

test-slow: install
	$(PYTEST) -m slow $(NOTEBOOK) tests

# Both in one run, which leaves no processor without work between them.
test-all: install lint
	$(PYTEST) $(NOTEBOOK) tests

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy
	if test -x $(BIN)/hadolint; then $(BIN)/hadolint --ignore DL3008 Dockerfile; fi # not there on every platform

# Compile the CUDA operators on a machine without a GPU. On a machine with a GPU, `make install` compiles them.
cuda-kernels: install
	FORCE_CUDA=1 $(BIN)/python setup.py build_ext --build-temp build/cuda --build-lib build/cuda

clean:
	rm -rf $(VENV) build demo *.egg-info fcos_core/_C*.so
