# `make` alone lists the targets.
PYTHON ?= python3
# the Docker image brings its own environment
VENV ?= .venv
BIN := $(VENV)/bin
IMAGE := fake-store-pipeline

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev build run demo test test-slow check bench clean

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.installed  ## build the environment, .venv

setup-dev: $(VENV)/.installed-dev

$(BIN)/uv:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: install Python 3.11 or newer."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$$($(PYTHON) --version) is too old: Python 3.11 or newer is needed; name one with 'make PYTHON=python3.11'."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "Python's venv module is missing: on Debian and Ubuntu 'apt install python3-venv'."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check uv==0.13.9

# bytecode is compiled once, here: the stages, dbt and the tests start many processes
$(VENV)/.installed: requirements.txt | $(BIN)/uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements-dev.txt
	@touch $@

build:  ## build the Docker image
	DOCKER_BUILDKIT=1 docker build --tag $(IMAGE) .

run: build  ## start a shell in the Docker image, with this folder mounted
	docker run --rm -it --user "$$(id -u):$$(id -g)" --env-file .env \
		--mount "type=bind,source=$(CURDIR),target=/app" \
		--mount "type=bind,source=$(CURDIR)/credentials,target=/app/credentials,readonly" $(IMAGE)

demo: setup  ## run the whole pipeline on a local Google Cloud
	$(BIN)/python -m local_gcp demo

test: setup-dev  ## run the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: setup-dev  ## run the long ring of tests
	$(BIN)/python -m pytest -m slow

check: setup-dev  ## lint and type-check everything
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	cd ey_test_tech && $(abspath $(BIN))/sqlfluff lint models tests
	$(BIN)/hadolint Dockerfile && $(BIN)/shellcheck docker.bashrc .ci/run
	@if command -v terraform >/dev/null; then terraform fmt -check -recursive terraform; \
		else echo "terraform is missing: its format was not checked"; fi

bench: setup-dev  ## measure against the marks; takes a while
	$(BIN)/python -m benchmarks.batch
	$(BIN)/python -m benchmarks.near_realtime
	$(BIN)/python -m benchmarks.dbt

clean:  ## remove the environment, caches and the demo; no state, event, raw file or key
	rm -rf $(VENV) .local_gcp report ey_test_tech/target ey_test_tech/logs
