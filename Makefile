# Two commands for a new user:
#   make demo              detect objects in a short simulated drive; picture and report in demo/
#   make demo KITTI=DIR    the same on a KITTI object folder or raw drive
#   make test              ruff, mypy and pytest
# Both do their own set-up: a virtual environment in .venv and, on Debian or Ubuntu, a few system libraries.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml setup.py $(wildcard pd_edge/native/*.cpp pd_edge/native/*.hpp)
# A compiler for the native part; the rest is what `import open3d` loads.
PACKAGES := g++ python3-dev libegl1 libgl1 libgomp1 libusb-1.0-0 libx11-6
KITTI ?=
OUT ?= demo

.PHONY: demo test lint clean

demo: $(VENV)/.demo
	$(BIN)/pd-edge demo --out $(OUT) $(if $(KITTI),--kitti $(KITTI))

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Debian and Ubuntu: install what is missing as root, else print the one line that does and stop. Elsewhere the names
# differ, so only the compiler is asked for.
$(VENV)/.system: Makefile
	@if command -v dpkg-query >/dev/null; then \
	  missing=""; for p in $(PACKAGES); do \
	    dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; done; \
	  if [ -n "$$missing" ]; then \
	    if [ "$$(id -u)" = 0 ]; then \
	      export DEBIAN_FRONTEND=noninteractive; apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	    else echo "System libraries are missing; install them with: sudo apt-get install$$missing"; exit 1; fi; fi; \
	elif ! command -v c++ >/dev/null; then echo "A C++17 compiler is missing; install one (g++ or clang)"; exit 1; fi
	@mkdir -p $(VENV) && touch $@

$(BIN)/python: $(VENV)/.system
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "$$($(PYTHON) --version) cannot be used; name a Python 3.10 to 3.13: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[viz]'
	@touch $@

$(VENV)/.test: $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) $(OUT) build *.egg-info pd_edge/native/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
