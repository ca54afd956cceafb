# `make` alone lists the targets.
PYTHON ?= python3
# the Docker image brings its own environment
VENV ?= .venv
BIN := $(VENV)/bin
IMAGE := fake-store-pipeline
# where `make push` pushes to; asked of Terraform only then, which warns on stdout where it has none
REGISTRY = $(shell terraform -chdir=terraform output -raw registry 2>/dev/null | grep -Ex '[a-z0-9./_-]+')

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev docker build run image push demo test test-slow check bench clean

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
	@echo "Building $(VENV), 1.3 GB: this takes a minute or two, once."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check uv==0.13.9

# bytecode is compiled once, here: the stages, dbt and the tests start many processes
# what is installed is told by content: a fresh checkout is newer than the layers of an image
$(VENV)/.installed: requirements.txt requirements-local.txt | $(BIN)/uv
	@cat $^ | cmp --silent - $@ || { set -x; \
		$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements-local.txt; }
	@cat $^ > $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements-dev.txt
	@touch $@

# not every machine has a wheel of each; what is missing is tried again by the next `make check`
$(VENV)/.installed-lint: requirements-lint.txt $(VENV)/.installed-dev
	@missing=0; for pin in $$(grep -v '^#' $<); do \
		$(BIN)/uv pip install --quiet --python $(BIN)/python $$pin 2>/dev/null || missing=1; \
	done; if [ $$missing = 0 ]; then touch $@; fi

docker:
	@command -v docker >/dev/null || { \
		echo "Docker is not installed: install it, https://docs.docker.com/get-started/get-docker, and run make again; or go on without it: 'make setup'."; exit 1; }
	@docker info >/dev/null 2>&1 || { \
		echo "Docker is not running: start it, or see in 'docker info' why it does not answer, and run make again; or go on without it: 'make setup'."; exit 1; }

.env:
	@echo "The file .env is missing: restore it with 'git checkout -- .env' and run make again."; exit 1

build: docker  ## build the Docker image
	DOCKER_BUILDKIT=1 docker build --tag $(IMAGE) .

run: docker .env build  ## start a shell in the Docker image, with this folder mounted
	docker run --rm -it --user "$$(id -u):$$(id -g)" --env-file .env \
		--mount "type=bind,source=$(CURDIR),target=/app" \
		--mount "type=bind,source=$(CURDIR)/credentials,target=/app/credentials,readonly" $(IMAGE)

image: docker  ## build the image that Cloud Run runs: no Java, emulator or Terraform
	DOCKER_BUILDKIT=1 docker build --platform linux/amd64 --target runtime --tag $(IMAGE)-runtime .

push:  ## build that image, push it, and print the line for Terraform
	@test -n "$(REGISTRY)" || { echo "There is no registry yet: run 'terraform -chdir=terraform apply' with registry = true, or give REGISTRY=HOST/PROJECT/REPOSITORY."; exit 2; }
	@$(MAKE) --no-print-directory image
	docker tag $(IMAGE)-runtime $(REGISTRY)/pipeline
	docker push $(REGISTRY)/pipeline
	@docker image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' $(REGISTRY)/pipeline \
		| sed -n 's|^$(REGISTRY)/pipeline@.*|image = "&"|p'

demo: setup  ## run the whole pipeline on a local Google Cloud
	$(BIN)/python -m local_gcp demo

test: setup-dev  ## run the tests
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test-slow: setup-dev  ## run the long ring of tests
	$(BIN)/python -m pytest -m slow

check: setup-dev $(VENV)/.installed-lint  ## lint and type-check everything
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/sqlfluff lint ey_test_tech/models ey_test_tech/tests
	@if [ -x $(BIN)/hadolint ]; then $(BIN)/hadolint Dockerfile; \
		else echo "hadolint is missing (no package for this machine, or no package index): the Dockerfile was not linted"; fi
	@if [ -x $(BIN)/shellcheck ]; then $(BIN)/shellcheck docker.bashrc .ci/run; \
		else echo "shellcheck is missing (no package for this machine, or no package index): the shell files were not linted"; fi
	@if command -v terraform >/dev/null; then terraform fmt -check -recursive terraform; \
		else echo "terraform is missing: its format was not checked"; fi

bench: setup-dev  ## measure against the marks; takes a while
	$(BIN)/python -m benchmarks.batch
	$(BIN)/python -m benchmarks.near_realtime
	$(BIN)/python -m benchmarks.dbt

clean:  ## remove the environment, the demo and what dbt made; no state, event, raw file or key
	rm -rf $(VENV) .local_gcp .env.local report ey_test_tech/target ey_test_tech/logs
