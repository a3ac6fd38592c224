# `make demo`, `make voice`, `make pos`, `make forecast`, `make text` and `make test` do all their own set-up: a virtual
# environment in .venv and the install, redone only when pyproject.toml or this file changed. They need Python >= 3.11;
# name another one with `make PYTHON=/path/to/python3 test`.

PYTHON ?= $(firstword $(foreach p,python3 python3.14 python3.13 python3.12 python3.11,$(shell \
	$(p) -c 'import sys; sys.version_info >= (3, 11) and print("$(p)")' 2>/dev/null)))
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
WORDS ?=
ARGS ?=
SECONDS ?= 60
JOBS ?= 2
KIND ?=
SEED ?=
CASES ?=
PARTS ?=

.PHONY: demo voice pos forecast text test test-all lint types tests rest fuzz sanitize venv site package clean

demo: .venv/.demo  ## the trained grapheme-to-phoneme model: make demo WORDS="hello world"
	$(BIN)/python examples/g2p.py $(WORDS)

voice: .venv/.train  ## trains a voice gate on made sound, and writes the sound before and after: make voice ARGS="--noise 2"
	$(BIN)/python examples/voice.py $(ARGS)

pos: .venv/.train  ## trains a tagger of parts of speech: make pos ARGS="--cell gru --sentence 'Burda da'"
	$(BIN)/python examples/pos_tagging.py $(ARGS)

forecast: .venv/.train  ## trains a forecaster of quantiles: make forecast ARGS="--sites 20"
	$(BIN)/python examples/forecasting.py $(ARGS)

text: .venv/.train  ## trains a language model, which then writes: make text ARGS="book.txt --words"
	$(BIN)/python examples/language_model.py $(ARGS)

test: lint types tests  ## ruff, mypy --strict, pytest

lint: .venv/.test
	$(BIN)/ruff check .

types: .venv/.test
	$(BIN)/mypy --strict

tests: .venv/.test
	$(BIN)/python -m pytest -q --numprocesses auto --dist worksteal --effort fast

rest: .venv/.test  ## what `make test` leaves out: rare tests, and all pairs of parameters
	$(BIN)/python -m pytest -q --numprocesses auto --dist worksteal --effort rest

test-all: test rest  ## all tests; `pytest` without --effort runs every combination of their parameters

# SEED: of the first case (default: random). CASES: per kind, instead of SECONDS, which all kinds share. docs/fuzzing.md
fuzz: .venv/.test  ## random cases against the oracle: make fuzz SECONDS=3600 KIND=calls,specs SEED=1
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) --jobs $(JOBS) $(if $(KIND),--only $(KIND)) \
		$(if $(SEED),--seed $(SEED)) $(if $(CASES),--cases $(CASES))

sanitize: .venv/.test  ## generated code under valgrind: make sanitize PARTS=quick,training
	$(BIN)/python -m tests.sanitize --jobs $(JOBS) $(if $(PARTS),--only $(PARTS))

venv: .venv/.test  ## only the set-up of `make test`

.venv/.made: Makefile
	$(if $(PYTHON),,$(error rnnc needs Python >= 3.11 and found none: run make PYTHON=/path/to/python3))
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.test: .venv/.demo
	$(PIP) --editable '.[test]'
	@touch $@

.venv/.train: .venv/.made pyproject.toml
	$(PIP) --editable '.[train]'
	@touch $@

# Only the checkpoint of g2p_en is read; what the package itself imports (nltk, inflect, ...) is left out.
.venv/.demo: .venv/.made pyproject.toml
	$(PIP) --editable .
	$(PIP) --no-deps g2p_en==2.1.0
	@touch $@

site: .venv/.made  ## docs/ as a site, in site/: its links are checked
	$(PIP) --editable '.[docs]'
	$(BIN)/mkdocs build --strict --quiet

package: .venv/.made  ## an sdist and a wheel in dist/, and the wheel installed and used in a new environment
	$(PIP) build
	$(BIN)/python -m build --outdir dist
	$(PYTHON) -m venv .venv/fresh
	.venv/fresh/bin/python -m pip install --quiet --disable-pip-version-check --force-reinstall dist/*.whl
	cd / && $(CURDIR)/.venv/fresh/bin/rnnc --version && $(CURDIR)/.venv/fresh/bin/rnnc compile $(CURDIR)/examples/model.toml

clean:
	rm -rf .venv build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
