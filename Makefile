# Every target sets itself up in .venv and touches nothing outside this directory; `make help` lists them.

PYTHON ?= python3
PROMPT ?= def fibonacci(n):
MODEL ?= demo

VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml CMakeLists.txt $(shell find csrc -type f)
CXX_FILES := $(shell find csrc -name '*.cpp' -o -name '*.h')
# A list in pyproject.toml, one requirement after the other: $(call requirements,a.b.c)
requirements = $$($(BIN)/python -c 'import functools, tomllib; keys = "$(1)".split("."); \
	table = tomllib.load(open("pyproject.toml", "rb")); print(*functools.reduce(dict.__getitem__, keys, table))')

# Python code separates functions by them: the demonstration writes one.
define TWO_BLANK_LINES




endef

# import-linter on the sources themselves: the finder of an editable installation would show it every folder beside `convert`, too.
LINT_IMPORTS = -c 'import sys; sys.meta_path[:] = [f for f in sys.meta_path if "Redirecting" not in type(f).__name__]; \
	sys.path.insert(0, "."); from importlinter.cli import lint_imports_command; lint_imports_command()'

export PROMPT VENV TWO_BLANK_LINES
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# For CMake, one after the other, such as GPTBIGCODE_CPU_WERROR=ON.
CMAKE_DEFINES ?=

# For `long command 2>&1 | $(call compiling,log)`: keeps the output in the log, and shows on a terminal how far the compiler is.
compiling = tee $(1) | { [ -t 2 ] && grep --line-buffered -oE '\[[0-9]+/[0-9]+\] Building' | while read -r step _; do \
	printf '\r  compiling %s ' "$$step"; done && echo || cat >/dev/null; }

SHELL := bash
.SHELLFLAGS := -o pipefail -c
.PHONY: help demo test lint bench docs clean
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

help:
	@echo "make demo [PROMPT='def gcd(a, b):']   complete a prompt with the model that is in the package"
	@echo "make test [PYTEST_ARGS='-k hub -x']   run the test suite (five minutes), or a part of it"
	@echo "make bench [MODEL=DIRECTORY]          measure how fast a model runs on this machine"
	@echo "make docs                             build the documentation: build/site/index.html"
	@echo "make lint                             check style, types, and where imports and includes lead"
	@echo "make clean                            remove what was built"
	@echo
	@echo "The first of them builds the package in $(VENV), which takes a minute or two. Nothing is written outside this directory."

demo: $(VENV)/.installed
	@$(BIN)/gptbigcode-cpu generate --stats --stop "$$TWO_BLANK_LINES" -- "$$PROMPT"

test: $(VENV)/.test-tools
	@$(BIN)/python -m pytest -m "not live" -n auto $(PYTEST_ARGS)

lint: $(VENV)/.lint-tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@echo 'lint-imports'
	@$(BIN)/python $(LINT_IMPORTS) --no-cache --no-logo
	$(BIN)/mypy
	$(BIN)/mypy $(wildcard bench/*.py)
	$(BIN)/python csrc/check_includes.py
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)
	@echo 'clang-tidy csrc'
	@$(BIN)/python -c 'import json; print(*(entry["file"] for entry in json.load(open("$(VENV)/build/compile_commands.json"))), sep="\0", end="")' \
		| xargs -0 -n 1 -P "$$(nproc)" timeout 300 $(BIN)/clang-tidy --quiet -p $(VENV)/build

bench: $(VENV)/.installed
	@$(BIN)/gptbigcode-cpu bench $(MODEL)

docs: $(VENV)/.docs-tools
	@echo 'building the site (half a minute)'
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "the site is in build/site; open file://$(CURDIR)/build/site/index.html"

clean:
	rm -rf gptbigcode_cpu/convert $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo 'error: Python 3.11 or newer is needed; PYTHON=/path/to/python3 names another one'; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo 'error: Python lacks venv; on Debian and Ubuntu: sudo apt install python3-venv'; exit 1; }
	@command -v "$${CXX:-c++}" >/dev/null \
		|| { echo 'error: a C++ compiler is needed; on Debian and Ubuntu: sudo apt install g++'; exit 1; }
	@echo 'setting up $(VENV): a Python environment, CMake and Ninja'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q $(call requirements,build-system.requires) cmake ninja

# New and removed Python files need a new installation, changed ones do not.
.PHONY: FORCE
$(VENV)/.python-files: FORCE | $(BIN)/python
	@find gptbigcode_cpu convert -name '*.py' | sort > $@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@

# mypy, import-linter and editors read sources and run nothing: they look for `convert` inside the package. The link is not in
# git, because on Windows git would put a text file of that name in the place of the package.
gptbigcode_cpu/convert:
	@ln -s ../convert $@

$(VENV)/.installed: $(SOURCES) $(VENV)/.python-files | $(BIN)/python gptbigcode_cpu/convert
	@echo 'building the package (a minute or two the first time)'
	@. ./.ci/python-headers.sh && $(BIN)/python -m pip install -v --no-build-isolation -e . \
		-C build-dir=$(VENV)/build $(foreach define,$(CMAKE_DEFINES),-C cmake.define.$(define)) 2>&1 | $(call compiling,$(VENV)/build.log) \
		|| { tail -n 40 $(VENV)/build.log; echo 'error: the build failed; all of it is in $(VENV)/build.log'; exit 1; }
	@touch $@

$(VENV)/.test-tools: $(VENV)/.installed pyproject.toml
	@echo 'installing what the tests need'
	@$(BIN)/python -m pip install -q $(call requirements,dependency-groups.test)
	@touch $@

$(VENV)/.lint-tools: $(VENV)/.installed pyproject.toml
	@echo 'installing the tools for style and types'
	@$(BIN)/python -m pip install -q $(call requirements,dependency-groups.lint)
	@touch $@

$(VENV)/.docs-tools: $(VENV)/.installed pyproject.toml
	@echo 'installing what builds the documentation'
	@$(BIN)/python -m pip install -q $(call requirements,dependency-groups.docs)
	@touch $@
