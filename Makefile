# Every target builds what it needs: a fresh clone, Python 3.10 or newer and make will do.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
BENCH := .venv-bench
DATA ?= ../shared/data/mnist
STUDIES := pang lemesle wester martin preaut

.PHONY: help demo test studies check reference bench format clean

help:
	@echo "make demo       train, guard and attack two small networks; see runs/demo/report.html"
	@echo "make test       run the test suite"
	@echo "make studies    run the five reports' studies at smoke scale, with their pages"
	@echo "make check      lint, format and type checks"
	@echo "make reference  write the API reference; see build/reference/index.html"
	@echo "make bench      time the attacks against other libraries; see benchmarks/README.md"
	@echo "make format     format the code"
	@echo "make clean      remove the environment and caches"

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "notsure needs Python 3.10 or newer; this is $$($(PYTHON) --version). Give another: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/notsure demo --out runs/demo

test: $(STAMP)
	$(BIN)/python -m pytest

studies: $(STAMP)
	rm -rf runs/smoke
	set -e; for study in $(STUDIES); do \
		$(BIN)/notsure run $$study --scale smoke --out runs/smoke; \
		$(BIN)/notsure report runs/smoke/$$study-smoke; \
	done

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

reference: $(STAMP)
	$(BIN)/python docs/reference.py build/reference

$(BENCH)/installed: pyproject.toml constraints.txt benchmarks/requirements.txt
	$(PYTHON) -m venv $(BENCH)
	PIP_CONSTRAINT="$(CURDIR)/constraints.txt $(CURDIR)/benchmarks/build-constraints.txt" \
	PIP_BUILD_CONSTRAINT="$(CURDIR)/benchmarks/build-constraints.txt" \
		$(BENCH)/bin/python -m pip install --disable-pip-version-check --quiet \
		--editable '.[data]' --requirement benchmarks/requirements.txt
	$(BENCH)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps torchattacks==3.5.1
	@touch $@

bench: $(BENCH)/installed
	$(BENCH)/bin/python benchmarks/attacks.py --data $(DATA)

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(BENCH) .mypy_cache .pytest_cache .ruff_cache .hypothesis
