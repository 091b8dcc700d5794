# Every command this project has; `make` alone lists them.
#
# Each target first makes the environment it needs, so all of them work in a fresh clone. What is installed is recorded
# by empty files in the environment, which become out of date when setup.cfg, pyproject.toml or TORCH change. The
# package is installed in editable mode: an edit of the code needs no new install.

PYTHON ?= python3
VENV   ?= .venv
TORCH  ?=
ARGS   ?=

BIN           := $(VENV)/bin
STAMP         := $(VENV)/.installed
OLDEST_PYTHON := $(shell sed -n 's/^python_requires *= *>=//p' setup.cfg)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL: # one pip at a time in one environment
.PHONY: help train assets test test-all fuzz-calls fuzz-files endurance pyro-tests gpu lint format format-check typecheck docs ci clean FORCE

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name text; do \
	    printf '  make %-14s%s\n' "$$name" "$$text"; done
	@echo
	@echo '  PYTHON=python3.12        the interpreter of a new environment, and of `make gpu` (now: $(PYTHON))'
	@echo '  VENV=.venv-other         the environment to make and use (now: $(VENV))'
	@echo '  TORCH="torch==2.11.0"    further requirements to install with the package, such as a fixed torch'
	@echo '  ARGS="--data mnist"      arguments for the training script, or for pytest'

train: $(STAMP)-run ## install, and train a VAE on real handwritten digits (ARGS="--help" lists its options)
	-@$(BIN)/python -m pyro_vae.reporting.fetching
	$(BIN)/python examples/train_vae.py $(ARGS)

assets: $(STAMP)-run ## have npm fetch what runs the latent explorer of reports, which a wheel contains
	$(BIN)/python -m pyro_vae.reporting.fetching

# A process a core, each with one thread: the tests are small, and the threads of several workers would only collide.
# Bytecode is kept, also where PYTHONDONTWRITEBYTECODE is set: without it each process of each run takes 8 s to compile
# the tests with their asserts rewritten.
TESTS := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

test: $(STAMP)-test ## install, and run the test suite (ARGS="-k iwae" selects, ARGS="--cov" measures coverage)
	$(TESTS) $(ARGS)

test-all: $(STAMP)-test ## the same with all combinations of parts, where `make test` lets any two of them meet
	$(TESTS) --full-cross $(ARGS)

fuzz-files: $(STAMP)-test ## edit every file that is read, 10,000 times at random, and say what came of it (ARGS="500 --seed 1")
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.training.fuzz_files $(ARGS)

fuzz-calls: $(STAMP)-test ## install, and make 10,000 calls with a wrong argument each (ARGS="calls seed"): none may go wrong
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.runtime.fuzz $(ARGS)

endurance: $(STAMP)-test ## install, and attack long runs, for half an hour (ARGS="kills --kills 20" runs a part of it)
	status=0; for part in $(if $(ARGS),'$(ARGS)',kills memory hashes); do \
	    $(BIN)/python -m tests.endurance.$$part || status=1; done; exit $$status

pyro-tests: $(STAMP)-test ## run Pyro's own tests with our bounds as its ELBOs (ARGS="--pyro-source FOLDER", a checkout of Pyro)
	$(BIN)/python -m tests.pyro.run $(ARGS)

gpu: ## test and time on a GPU, four minutes; it uses PYTHON as it is, installing nothing (ARGS="--data-root DATA")
	$(PYTHON) benchmarks/gpu.py $(ARGS)

lint: $(STAMP)-dev ## look for mistakes in the code
	$(BIN)/python -m ruff check .

format: $(STAMP)-dev ## rewrite the code in the house format, imports sorted
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

format-check: $(STAMP)-dev ## fail if `make format` would change a file
	$(BIN)/python -m ruff format --check .

typecheck: $(STAMP)-dev ## check the types of the package
	$(BIN)/python -m mypy

docs: $(STAMP)-dev ## build the documentation into docs/_build/html, warnings being errors
	$(BIN)/python -m sphinx -E -W --keep-going -b html docs docs/_build/html

ci: ## all of the above in fresh environments, as it runs for every change
	.ci/run

clean: ## remove the environment, build outputs and caches; runs/ stays
	rm -rf "$(VENV)" build dist *.egg-info docs/_build .coverage .mypy_cache .pytest_cache .ruff_cache pyro_vae/reporting/assets
	find . -path ./.git -prune -o -name __pycache__ -prune -exec rm -rf {} +

# --- the environment -------------------------------------------------------------------------------------------------
# A stamp is touched last, so an install that was interrupted leaves none and is taken up again by the next command.

$(STAMP)-run:  REQUIREMENT := .[images,report,export]
$(STAMP)-test: REQUIREMENT := .[test]
$(STAMP)-dev:  REQUIREMENT := .[dev]
$(STAMP)-run $(STAMP)-test $(STAMP)-dev: $(VENV)/.made $(VENV)/.torch setup.cfg pyproject.toml
	$(BIN)/python -m pip install --editable '$(REQUIREMENT)' $(foreach requirement,$(TORCH),'$(requirement)')
	@touch $@

# Rewritten only when TORCH is not what it was; otherwise it stays as old as it is, and nothing is installed again.
$(VENV)/.torch: FORCE | $(VENV)/.made
	@[ -f $@ ] && [ "$$(cat $@)" = '$(TORCH)' ] || echo '$(TORCH)' > $@

$(VENV)/.made:
	@command -v $(PYTHON) > /dev/null || { \
	    echo 'There is no $(PYTHON) here. pyro_vae needs Python $(OLDEST_PYTHON) or newer.'; \
	    echo 'Name the one to use: make PYTHON=python3.12'; exit 1; } >&2
	@$(PYTHON) -c 'import sys; exit(sys.version_info[:2] < tuple(map(int, "$(OLDEST_PYTHON)".split("."))))' || { \
	    echo "pyro_vae needs Python $(OLDEST_PYTHON) or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1)."; \
	    echo 'Name another one: make PYTHON=python3.12'; exit 1; } >&2
	@$(PYTHON) -c 'import venv, ensurepip' 2> /dev/null || { \
	    echo '$(PYTHON) cannot make a virtual environment: its venv or ensurepip module is missing.'; \
	    echo 'On Debian and Ubuntu the package python3-venv has them.'; exit 1; } >&2
	$(PYTHON) -m venv "$(VENV)"
	@touch $@
