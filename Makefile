# Every target makes .venv by itself and installs what it needs there, pinned. Another Python: make PYTHON=python3.12 test
PYTHON ?= python3
BIN := .venv/bin
JOBS ?= $(shell nproc)
CXX_SOURCES := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

.PHONY: help demo test lint docs requirements cuda-check wheel-sm90 bench clean

help:
	@echo 'make demo         install, then distil embedded digits and test on a held-out domain (minutes on 2 cores)'
	@echo 'make test         install, then run the tests: C++ (kernels in the emulator), then Python'
	@echo 'make lint         ruff, mypy, clang-format'
	@echo 'make docs         build the documentation site into build/site; a warning, such as a link to nowhere, is an error'
	@echo 'make requirements write the requirements files anew from pyproject.toml and requirements.in'
	@echo 'make cuda-check   install, then check what nvcc made of the CUDA kernels: every architecture, no spills'
	@echo 'make wheel-sm90   build a wheel for Python 3.12 and an H100 or H200 into dist/; needs nvcc, no GPU'
	@echo 'make bench        install, then time the operators against plain PyTorch'
	@echo 'make clean        remove .venv and everything built'

demo: .venv/package
	$(BIN)/dgdd demo

test: .venv/package .venv/requirements-dev
	$(BIN)/cmake -S csrc/tests -B build/tests -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja \
		-DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python
	$(BIN)/cmake --build build/tests
	$(BIN)/ctest --test-dir build/tests --output-on-failure --parallel $(JOBS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

lint: .venv/package .venv/requirements-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CXX_SOURCES)

docs: .venv/requirements-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The newest versions for Python 3.10 and later on any system that fit pins and needs; what is pinned already stays: delete the file to
# have everything newer. The pins hold for torch's builds for the CPU and for CUDA.
UV_COMPILE = $(BIN)/python -m uv pip compile --quiet --universal --python-version 3.10 --no-annotate --custom-compile-command 'make requirements'
requirements: .venv/created
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(UV_COMPILE) --extra cli --extra report pyproject.toml requirements.in -o requirements.txt
	$(UV_COMPILE) --extra cli --extra report --extra test --extra lint -c requirements.txt pyproject.toml requirements.in -o requirements-dev.txt
	$(UV_COMPILE) --group docs -c requirements-dev.txt -o requirements-docs.txt

cuda-check: .venv/package
	$(BIN)/python csrc/tests/cuda_check.py

# For bench/gpu.sh on a machine that should not spend its time on compiling: the Python must be the one that is there,
# while any torch that the package can be built with will do.
WHEEL_BUILD := build/wheel-sm90
WHEEL_PIP = $(WHEEL_BUILD)/venv/bin/python -m pip --quiet --disable-pip-version-check
wheel-sm90: PYTHON = python3.12
wheel-sm90:
	@command -v $(PYTHON) >/dev/null || { echo 'wheel-sm90: there is no $(PYTHON); name that Python: make wheel-sm90 PYTHON=...' >&2; exit 1; }
	[ "$$($(WHEEL_BUILD)/venv/bin/python -V 2>&1)" = "$$($(PYTHON) -V)" ] || $(PYTHON) -m venv --clear $(WHEEL_BUILD)/venv
	$(WHEEL_PIP) install -r requirements.txt
	rm -rf $(WHEEL_BUILD)/wheel
	DGDD_CUDA=ON $(WHEEL_PIP) wheel --no-deps --no-build-isolation --config-settings=build-dir=$(WHEEL_BUILD)/cmake \
	  --config-settings=cmake.define.CMAKE_CUDA_ARCHITECTURES=90-real --wheel-dir $(WHEEL_BUILD)/wheel .
	$(WHEEL_PIP) install --no-deps --force-reinstall $(WHEEL_BUILD)/wheel/*.whl
	cd $(WHEEL_BUILD) && venv/bin/python -c 'from dgdd_fast import _C; print(_C.build_info())'
	mkdir -p dist && cp $(WHEEL_BUILD)/wheel/*.whl dist && ls -l dist

bench: .venv/package
	$(BIN)/python bench/bench_spectral.py

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

.venv/created:
	@$(PYTHON) -c "import sys; sys.version_info >= (3, 10) or sys.exit('dgdd-fast needs Python 3.10 or newer, this is ' + sys.version.split()[0] + '; choose one with make PYTHON=...')"
	$(PYTHON) -m venv --clear .venv
	touch $@

.venv/requirements: requirements.txt .venv/created
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

.venv/requirements-dev: requirements-dev.txt .venv/requirements
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

.venv/requirements-docs: requirements-docs.txt .venv/created
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

.venv/package: pyproject.toml CMakeLists.txt $(wildcard cmake/*.cmake) csrc/ptxas_log.py $(CXX_SOURCES) .venv/requirements
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@
