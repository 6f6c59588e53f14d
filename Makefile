# README names `make demo` and `make test`; both first create the virtual environment and compile the operators.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := configs/demo/shapes.yaml
# Tests of several processes wait for each other much of the time: three workers keep two cores busy.
TEST_WORKERS ?= $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) * 3 / 2 )))
# Each worker takes a file at a time, in the order of tests/conftest.py.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: install demo test test-slow lint cuda-kernels clean

install: $(VENV)/.installed

$(VENV)/.packages: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.installed: $(VENV)/.packages pyproject.toml setup.py $(wildcard csrc/*)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	touch $@

# Make skips a step of the demo if the result of the step exists.
demo: demo/shapes/pictures
	@echo "Pictures of detections and the loss curve are in demo/shapes/pictures."

demo/data/instances_val.json: | install
	$(BIN)/python tools/make_shapes_dataset.py demo/data

demo/shapes/model_final.pth: demo/data/instances_val.json
	$(BIN)/python tools/train_net.py --config-file $(DEMO) --skip-test

demo/shapes/inference/shapes_val/coco_results.json: demo/shapes/model_final.pth
	$(BIN)/python tools/test_net.py --config-file $(DEMO) MODEL.WEIGHT $<

demo/shapes/pictures: demo/shapes/inference/shapes_val/coco_results.json
	$(BIN)/python tools/draw_detections.py --config-file $(DEMO)

test: install lint
	$(PYTEST) -m "not slow"

test-slow: install
	$(PYTEST) -m slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy

# Compile the CUDA operators on a machine without a GPU. On a machine with a GPU, `make install` compiles them.
cuda-kernels: install
	FORCE_CUDA=1 $(BIN)/python setup.py build_ext --build-temp build/cuda --build-lib build/cuda

clean:
	rm -rf $(VENV) build demo *.egg-info fcos_core/_C*.so
