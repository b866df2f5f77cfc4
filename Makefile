# The two commands that do everything: `make demo` and `make test`. `make help` lists the rest.

# The newest of those that the tests run on; 3.14, for which the lock has wheels too, if there is no other.
PYTHON ?= $(shell for one in python3.13 python3.12 python3.11 python3.14 python3; do $$one -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$one && break; done)
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# Stages run as `python -m ...`: the environment's python comes first.
export PATH := $(abspath $(BIN)):$(PATH)
# Nothing that is called from here reports to its maker; a value from outside wins.
export MLFLOW_DISABLE_TELEMETRY ?= true
export DO_NOT_TRACK ?= true
export DVC_NO_ANALYTICS ?= true
export ORT_DISABLE_TELEMETRY ?= 1
# Not in a folder of the whole machine: DVC unpickles what it finds there (see SECURITY.md).
export DVC_SITE_CACHE_DIR ?= $(CURDIR)/.dvc/site
export PREFECT_SERVER_ANALYTICS_ENABLED ?= false

.DEFAULT_GOAL := help
.PHONY: help setup repository demo flow stack demo-stack test test-fast check lint audit lock locks clean

help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY)  ## Make the virtual environment from the lock files

# The scripts of an environment name its folder: after a move all of them are written anew.
MADE_IN := $(shell cat $(READY) 2>/dev/null)
ifneq ($(MADE_IN),$(CURDIR))
.PHONY: $(READY)
MOVED := $(if $(MADE_IN),moved)
endif

# Bytecode is compiled here, once: every stage is a process of its own, and importing torch and
# MLflow from source takes three times as long where Python may not write it itself.
$(READY): requirements-dev.lock pyproject.toml
	@test -x $(BIN)/python -a -z '$(MOVED)' || { python='$(PYTHON)'; command -v "$${python:-none}" >/dev/null || { echo "error: no Python from 3.11 to 3.14 with venv is installed: install one, or run 'make setup PYTHON=/path/to/python'" >&2; exit 1; }; $$python -m venv $(VENV); }
	$(BIN)/python -m pip install --quiet --no-user --disable-pip-version-check $$(grep -oE '^uv==[0-9.]+' requirements-dev.lock)
	$(BIN)/uv pip sync --quiet --compile-bytecode $(if $(MOVED),--reinstall) --python $(BIN)/python requirements-dev.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@pwd -P > $@

# DVC works in a git repository, and an unpacked archive is none.
repository:
	@git rev-parse --git-dir >/dev/null 2>&1 || test -e .git || { echo "no git repository here, which DVC needs: made one"; git init --quiet; }

demo: setup repository  ## Run the whole pipeline on the built-in synthetic sample, and say where to look
	dvc repro
	@echo
	@dvc metrics show metrics/summary.json
	@cat docs/where-to-look.txt

flow: setup repository  ## The same by the Prefect flow: trainings in parallel, and a page to watch
	python -m flows pipeline
	@cat docs/where-to-look.txt

stack: setup repository  ## PostgreSQL, an S3 store, MLflow, Prefect and two workers as processes, until Ctrl-C
	python -m flows stack

demo-stack: setup repository  ## The sample through them, trainings on the workers; starts them where they are not up
	python -m flows stack -- python -m flows pipeline --workers
	@cat docs/where-to-look.txt

test: setup repository  ## Run all tests, and print how much of the code they run in their own processes
	pytest --numprocesses auto --dist loadfile --no-loadscope-reorder --cov --cov-report=
	@echo "coverage: $$(coverage report --format=total) % of the lines"

test-fast: setup  ## Run the quick tests, which start no process: what to run at each save
	pytest -m 'not slow and not gpu' --numprocesses auto

lint: setup  ## Check format, lint, types, import contracts and the Dockerfile
	ruff format --check .
	ruff check .
	mypy
	lint-imports
	hadolint docker/Dockerfile docker/postgres.Dockerfile

check: lint test  ## All that CI runs: lint and test

audit: setup  ## Look up known vulnerabilities of what the lock files pin; SECURITY.md tells of the one left out
	uvx pip-audit --strict --disable-pip --requirement requirements-dev.lock --ignore-vuln CVE-2025-69872

lock: setup  ## Resolve the dependencies again and write both lock files
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command 'make lock' --extra flows --extra stack -o requirements.lock pyproject.toml
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command 'make lock' -c requirements.lock --extra flows --extra stack --extra onnx --extra app --extra dev -o requirements-dev.lock pyproject.toml
	$(MAKE) locks

# What each stage of dvc.yaml computes with: its direct libraries, at the versions of requirements.lock.
# What these bring with them is pinned by them (torch pins CUDA's libraries) or computes nothing.
locks: setup
	grep -oE '^(numpy|pillow|pyarrow|scipy)==[^ ]+' requirements.lock > locks/data.txt
	grep -oE '^(lightning-fabric|numpy|safetensors|torch|torchvision)==[^ ]+' requirements.lock > locks/train.txt
	grep -oE '^(numpy|scipy)==[^ ]+' requirements.lock > locks/numbers.txt
	grep -oE '^(jinja2|markdown-it-py|markupsafe|numpy|pillow|plotly)==[^ ]+' requirements.lock > locks/pages.txt
	grep -oE '^(mlflow|numpy|pandas|pillow|safetensors|scipy|torch|torchvision)==[^ ]+' requirements.lock > locks/registry.txt

clean:  ## Delete what the pipeline and the tools made, but neither DVC's cache nor MLflow's data
	rm -rf data/downloads data/raw data/prepared checkpoints examples metrics models plots predictions provenance registry reports dvc_plots
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache build *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
