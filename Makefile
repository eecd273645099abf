.DEFAULT_GOAL := help
SHELL := /bin/bash

# The first Python that this project supports; give PYTHON=... for another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin

STORE ?= bucket
DATA ?= $(STORE)/data
RUN ?= $(STORE)/runs/{preset}-{digest}
PRESET ?= cnn
WORKERS ?= 2
FAULTS ?= 100
ARGS ?=

DOCKER ?= docker
PYTHON_IMAGE ?= python:3.11-slim
IMAGE ?= trainyard
REQUIREMENTS ?= trainer

##@ Train
run: $(VENV)/trainer  ## Put data into STORE and train PRESET there with WORKERS workers
	@$(BIN)/python -m trainer data put --from auto --to '$(DATA)'
	@$(BIN)/python -m trainer train --preset $(PRESET) --workers $(WORKERS) \
		--data '$(DATA)' --run '$(RUN)' $(ARGS)

presets: $(VENV)/trainer  ## Train every preset on MNIST and write docs/presets.md (20 minutes)
	@$(BIN)/python -m benchmarks.presets --data '$(DATA)' $(ARGS)

chaos: $(VENV)/trainer  ## Train while FAULTS faults strike, and compare the weights (10 minutes)
	@$(BIN)/python -m trainer chaos --workers $(WORKERS) --faults $(FAULTS) $(ARGS)

##@ Container
image:  ## Build the trainer's image (REQUIREMENTS=gpu for the one with CUDA)
	$(DOCKER) build --build-arg PYTHON_IMAGE=$(PYTHON_IMAGE) \
		--build-arg REQUIREMENTS=$(REQUIREMENTS) -t $(IMAGE) .

docker-run: image  ## Train PRESET in one container, with ./bucket mounted as the bucket
	@mkdir -p bucket
	$(DOCKER) run --rm -v '$(CURDIR)/bucket:/bucket' --user $$(id -u):$$(id -g) $(IMAGE) \
		data put --from auto --to /bucket/data
	$(DOCKER) run --rm -v '$(CURDIR)/bucket:/bucket' --user $$(id -u):$$(id -g) $(IMAGE) \
		train --preset $(PRESET) --data /bucket/data --run '/bucket/runs/{preset}-{digest}' $(ARGS)

##@ Develop
test: $(VENV)/dev  ## Run all tests
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal $(ARGS)

check: $(VENV)/dev  ## Format check, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy trainer tests benchmarks

format: $(VENV)/dev  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(VENV)/dev  ## Resolve requirements/*.txt anew from pyproject.toml
	for extras in "trainer" "gpu" "trainer dev"; do \
		$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
			--no-annotate --no-header --upgrade $$(printf -- '--extra %s ' $$extras) \
			pyproject.toml -o requirements/$${extras##* }.txt || exit; done

clean:  ## Remove the virtual environment and caches, but no data and no runs
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

help:  ## Show this help
	@awk 'BEGIN {FS = ":.*  ## "; print "make TARGET [NAME=value ...]"} \
		/^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*  ## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '\nSettings, with their values now\n'
	@printf '  %-12s %s\n' STORE '$(STORE)' DATA '$(DATA)' RUN '$(RUN)' PRESET '$(PRESET)' \
		WORKERS '$(WORKERS)' FAULTS '$(FAULTS)' ARGS '$(ARGS)' PYTHON '$(PYTHON)' DOCKER '$(DOCKER)'

$(VENV)/trainer $(VENV)/dev: $(VENV)/%: requirements/%.txt
	@test -n '$(PYTHON)' || { echo 'no Python 3.11 to 3.13 found; give PYTHON=/path/to/python' >&2; exit 2; }
	@echo 'installing TensorFlow and what else is needed into $(VENV) (about a minute, once)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes -r $<
	@touch $(VENV)/trainer $@  # the developer's packages include the trainer's

.PHONY: run presets chaos image docker-run test check format lock clean help
