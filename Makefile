# `make repro` installs what a run needs; `make test`, `check`, `proof` and `format` also install what development needs.
PYTHON ?= python3
VENV := .venv
# `dvc` runs stages with the first `python` on PATH, which must be this environment's.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
SHELL := bash

.PHONY: repro test proof check verify format experiments setup setup-dev clean

# Columns of `dvc exp show` that a comparison rarely needs: hashes and derived metrics.
DROP := (src|data|models|results)/|(Created|bytes_per_token|vocab_size|(train|val|best_val)_loss|(train|val)_ppl|lr|gradient_norm|tokens|best_step|peak_memory_gb|device|python|torch|lightning|perplexity|bits_per_char|floor_bits_per_byte|(copying|calibration)\..*|exam\.(low|high|chance|questions|.*\..*)|.*\.(stderr|n))$$

repro: setup  ## build everything that is stale: corpus, tokenizer, shards, model, evaluation, export
	dvc repro
	@tiny-lm summary

test: setup-dev  ## run the tests, two at a time, with one thread each
	OMP_NUM_THREADS=1 python -m pytest --numprocesses 2 --dist worksteal

SHARE ?= 1
proof: setup-dev  ## kills, faults, damage, invalid values, a gigabyte of text, the network; writes docs/lab/proof.md. SHARE=0.1 tries a tenth
	@rm -f .work/counts; mkdir -p .work
	TINY_LM_PROOF=$(SHARE) TINY_LM_COUNTS=$(CURDIR)/.work/counts OMP_NUM_THREADS=1 \
		python -m pytest --numprocesses 2 --dist worksteal tests/pipeline/proof tests/pipeline/test_network.py tests/trust
	python tests/pipeline/proof/page.py .work/counts

check: setup-dev  ## format, lint, types, the workflow file, and whether dvc.lock is up to date
	ruff format --check .
	ruff check .
	mypy
	check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	zizmor --offline --quiet .github
	@stale=$$(dvc repro --allow-missing --dry) || { echo "$$stale"; exit 1; }; \
	if grep "^Running stage" <<< "$$stale"; then echo "dvc.lock is out of date; run make repro or dvc commit dvc.yaml"; exit 1; fi

experiments: setup  ## the experiments on top of the last commit: params that differ, and results
	dvc exp show --no-pager --only-changed --sort-by loss --drop '$(DROP)'

verify: setup  ## rebuild everything in a scratch folder and compare each artifact with dvc.lock
	tiny-lm verify

format: setup-dev
	ruff format .
	ruff check --fix .

setup: $(VENV)/.installed

setup-dev: $(VENV)/.installed-dev

INSTALL := $(VENV)/bin/python -m pip install --quiet --constraint constraints.txt

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else "tiny-lm needs Python 3.11 to 3.13, found " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) --editable '.[dev]'
	touch $@

clean:  ## remove the environment, caches and pictures; data, models and results stay
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis dvc_plots
