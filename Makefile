# Each target makes the environment it needs. `make demo` and `make test` are all a newcomer has to know.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin

.PHONY: demo test test-slow check clean

demo: $(VENV)/.base
	$(BIN)/overq evaluate --bits 3,2 --cascades 1,4 --plain-bits 4,3,2 --plot out/digits.png --csv out/digits.csv --report out/digits.html

test: check
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy benchmarks/*.py
	$(BIN)/lint-imports

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check -c constraints.txt -e ".[report]"
	$(BIN)/python -c "from overq import kernels; kernels.prepare()"  # compiled once, here and not in the first run
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@ $(VENV)/.base

clean:
	rm -rf $(VENV) out build *.egg-info src/*.egg-info

.PHONY: verify-rtl area pages
verify-rtl: $(VENV)/.dev
	$(BIN)/python -m pytest tests/rtl tests/formal -m "slow or not slow"

# LIBERTY is one or more Liberty files; the first gets the long tables.
LIBERTY ?= ../shared/data/cells/nangate45_typical.lib ../shared/data/cells/sky130hd_typical.lib
area: $(VENV)/.dev
	mkdir -p out
	-$(BIN)/python tests/rtl/real_layer.py out/layer_resnet20.json
	OVERQ_CACHE=out/synth $(BIN)/python benchmarks/area.py $(LIBERTY)
	OVERQ_CACHE=out/synth $(BIN)/python benchmarks/area_ideas.py $(firstword $(LIBERTY))
	$(BIN)/python benchmarks/area_page.py

# Tables and pictures of README and docs, made anew from the exported records of studies.
pages: $(VENV)/.base
	$(BIN)/overq study pages studies/pages.toml
	$(BIN)/python scripts/methods_page.py

# The site: out/docs/html/index.html. From a copy, because the reference is written beside the pages.
.PHONY: docs
docs: $(VENV)/.dev
	rm -rf out/docs && mkdir -p out/docs && cp -r docs out/docs/src
	$(BIN)/python -m sphinx -W --keep-going -q out/docs/src out/docs/html
	@echo "site: out/docs/html/index.html"
