# Two commands are all a newcomer needs: `make demo` and `make test`. Each sets up what it needs first and does nothing twice.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.setup-done

.DEFAULT_GOAL := help
.PHONY: help setup demo results test test-all check format bench coverage check-exports fuzz fuzz-files kill-test clean

help:                ## this list
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 18

setup: $(STAMP)      ## virtual environment with the pinned set of constraints.txt
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(0 if sys.version_info >= (3, 11) else f"found Python {v}, expected 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	@echo "Setting up $(VENV): about two minutes, once"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)

demo: setup          ## the whole loop on the embedded world -> runs/demo/report.html (QUICK=1: a smaller one)
	@$(PY) -m spr demo $(if $(QUICK),--quick)

results: setup       ## every claim against controls, three seeds: about two hours, resumable -> docs/results.md (QUICK=1: one seed, a tenth of the data)
	@$(PY) -m spr.lab.results $(if $(QUICK),--quick)

# a process per core, each with one thread: tests of one module share what they build
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --maxprocesses 4 --dist loadscope --no-loadscope-reorder

test: setup          ## the default suite: offline, minutes
	@$(PYTEST) -m "not slow"

test-all: setup      ## with the slow tests
	@$(PYTEST)

check: setup         ## lint, format, strict types (import layers are a test)
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

format: setup        ## apply the formatter
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

bench: setup         ## speed ratios against peers -> benchmarks/results.json
	@$(PY) -m benchmarks

coverage: setup      ## branches of spr.dialects that its tests take: all, or it fails
	@$(PY) -m pytest -q tests/unit/dialects tests/properties/test_dialects.py tests/properties/test_json_answers.py --cov=spr.dialects --cov-branch --cov-report=term:skip-covered --cov-fail-under=100

check-exports: setup ## every export in the real trainers, each in an environment of its own -> tests/golden/exports.json (ONLY=ms-swift: one of them)
	@$(PY) -m benchmarks.check_exports --update $(if $(ONLY),--only $(ONLY))

fuzz: setup          ## mutated strings through every dialect; goes on where it stood (FUZZ="--count 10000000 --seed 0")
	@$(PY) -m benchmarks.fuzz_dialects $(FUZZ)

fuzz-files: setup    ## mutated files through every reader; goes on where it stood (FUZZ="--count 100000 --seed 1")
	@$(PY) -m benchmarks.fuzz_files $(FUZZ)

kill-test: setup     ## SIGKILL at random moments; every file as in an undisturbed run; goes on where it stood (KILL="--kills 100 --seed 1")
	@$(PY) -m benchmarks.kill $(KILL)

clean:               ## remove the virtual environment and the runs
	rm -rf $(VENV) runs build dist
