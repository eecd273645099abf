.DEFAULT_GOAL := help
SHELL := /bin/bash

# The first Python that this project supports; give PYTHON=... for another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
BENCH ?= .venv-bench
WITH_trainer := TensorFlow and what it needs (about a minute)
WITH_k8s := the Kubernetes client
WITH_onnx := TensorFlow, ONNX and its runtime (about a minute)
WITH_dev := TensorFlow, the Kubernetes client and the development tools (about a minute)

STORE ?= bucket
DATA ?= $(STORE:%/=%)/data
FOLDER ?= $(STORE:%/=%)/runs/{preset}-{digest}
RUN ?= runs/local.yaml
# Make's own functions would take a folder whose name has spaces for several.
LATEST = $(shell ls -t '$(STORE)'/runs/*/config.json 2>/dev/null | sed -n '1s|/config.json$$||p')
PICTURES ?=
SWEEP ?= docs/sweep.yaml
ON ?=
PRESET ?= cnn
WORKERS ?= 2
FAULTS ?= 100
ARGS ?=

DOCKER ?= docker
PYTHON_IMAGE ?= python:3.11-slim
IMAGE ?= trainyard
REQUIREMENTS ?= trainer
PLATFORMS ?= linux/amd64,linux/arm64

##@ Train
run: $(VENV)/trainer  ## Put data into STORE and train PRESET there with WORKERS workers
	@$(BIN)/python -m trainer data put --from auto --to '$(DATA)'
	@$(BIN)/python -m trainer train --preset $(PRESET) --workers $(WORKERS) \
		--data '$(DATA)' --run '$(FOLDER)' $(ARGS)

presets: $(VENV)/trainer  ## Train every preset and write docs/presets.md (20 minutes)
	@$(BIN)/python -m benchmarks.presets --data '$(DATA)' $(ARGS)

bench: $(VENV)/trainer $(VENV)/k8s $(BENCH)/stamp  ## Measure speed beside Keras, PyTorch and JAX (2 hours, 7 GB)
	@BENCH_PYTHON='$(abspath $(BENCH))/bin/python' $(BIN)/python -m benchmarks --data '$(DATA)' $(ARGS)

chaos: $(VENV)/trainer  ## Train under FAULTS faults and compare the weights (10 minutes)
	@$(BIN)/python -m trainer chaos --workers $(WORKERS) --faults $(FAULTS) \
		$(if $(findstring ://,$(STORE)),--store '$(STORE)') $(ARGS)

##@ Inspect a run: RUN is its folder, by default the newest one below STORE/runs
report:  ## Write RUN/report.html (ARGS=--text prints a summary instead)
predict:  ## Predict the digits in PICTURES (ARGS=--show: as the model sees)
export:  ## Export RUN to RUN/model as .keras, SavedModel and ONNX, checked
watch:   ## Show RUN on a page while it trains
report predict export watch pictures: RUN = $(LATEST)
report predict watch: $(VENV)/trainer
export: $(VENV)/onnx
report predict export watch:
	@test -n '$(RUN)' || { echo 'no run below $(STORE)/runs; give RUN=, the folder of one' >&2; exit 2; }
	$(if $(filter-out predict,$@)$(PICTURES)$(ARGS),,\
		@echo 'give PICTURES=, files or a folder, or ARGS="--test 10"' >&2; exit 2)
	@$(BIN)/python -m trainer $@ --run '$(RUN)' $(if $(filter predict,$@),$(PICTURES)) $(ARGS)

tensorboard: RUN = $(STORE)/runs
tensorboard: $(VENV)/trainer  ## Show RUN, or all runs below it, in TensorBoard
	@$(BIN)/python -m trainer tensorboard --run '$(RUN)' $(ARGS)

compare: RUN = $(STORE)/runs
compare: $(VENV)/trainer  ## Compare all runs below RUN in a table and in compare.html
	@$(BIN)/python -m trainer compare '$(RUN)' $(ARGS)

sweep: $(VENV)/trainer $(if $(ON),$(VENV)/k8s)  ## Train and compare the runs of SWEEP (ON=run file: in a cluster)
	@$(BIN)/python -m $(if $(ON),k8s,trainer) sweep '$(SWEEP)' $(if $(ON),--on '$(ON)') $(ARGS)

##@ Kubernetes: RUN is a run file; python -m k8s --help has all commands
doctor:  ## Check everything that can be checked before submitting RUN
submit:  ## Check RUN and start it (ARGS=--follow also follows its logs)
status:  ## Show the progress of RUN, and what is wrong if something is
logs:    ## Print the logs of RUN, even after its pods (ARGS=-f follows)
result:  ## Print the result of RUN (ARGS='--download DIR' copies its folder)
cancel:  ## Stop RUN after a checkpoint; submit resumes it
delete:  ## Delete RUN from the cluster; its folder stays
doctor submit status logs result cancel delete: $(VENV)/k8s
	@$(BIN)/python -m k8s $@ '$(RUN)' $(ARGS)

list: $(VENV)/k8s  ## List all runs in the namespace
	@$(BIN)/python -m k8s list $(ARGS)

CLUSTER := trainyard
KUBECTL := kubectl --context kind-$(CLUSTER) --namespace trainyard
kind-up:  ## Start a local cluster with an object store and data
	@kind get clusters 2>/dev/null | grep -qx $(CLUSTER) \
		|| kind create cluster --config infra/local/kind.yaml --wait 120s
	@$(MAKE) image IMAGE=trainyard:local
	@kind load docker-image trainyard:local --name $(CLUSTER)
	@$(KUBECTL) delete job/data --ignore-not-found
	@$(KUBECTL) apply -k infra/local
	@$(KUBECTL) get secret/store-keys >/dev/null 2>&1 || printf 'AWS_%s\n' ACCESS_KEY_ID=trainyard \
		SECRET_ACCESS_KEY="$$(od -An -N20 -tx1 /dev/urandom | tr -d ' \n')" \
		| $(KUBECTL) create secret generic store-keys --from-env-file=/dev/stdin
	@$(KUBECTL) rollout status deployment/store --timeout=300s
	@$(KUBECTL) wait --for=condition=complete job/data --timeout=300s

kind-down:  ## Remove the local cluster and everything in it
	@kind delete cluster --name $(CLUSTER)

##@ Container
BUILD = --build-arg PYTHON_IMAGE=$(PYTHON_IMAGE) --build-arg REQUIREMENTS=$(REQUIREMENTS) \
	--build-arg VERSION=$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' trainer/__init__.py) \
	--build-arg REVISION=$$(git rev-parse HEAD 2> /dev/null || echo unknown) -t $(IMAGE)
image:  ## Build the trainer's image (REQUIREMENTS=gpu adds CUDA)
	$(DOCKER) build $(BUILD) .

publish:  ## Build IMAGE for PLATFORMS with an SBOM, and push it (by buildx)
	$(DOCKER) buildx build --platform $(PLATFORMS) --sbom=true --provenance=mode=max --push $(BUILD) .

# The store has the same name inside and outside, so that the paths it prints are right here.
IN_CONTAINER = $(DOCKER) run --rm -v '$(CURDIR)/bucket:/work/bucket' --workdir /work \
	--user $$(id -u):$$(id -g) $(IMAGE)
docker-run: image  ## Train PRESET in one container, with ./bucket as the store
	@mkdir -p bucket
	$(IN_CONTAINER) data put --from auto --to bucket/data
	$(IN_CONTAINER) train --preset $(PRESET) --data bucket/data \
		--run 'bucket/runs/{preset}-{digest}' $(ARGS)

##@ Develop
# Models of your own may lie beside them.
CODE := trainer k8s tests benchmarks docs
# One process more than two cores, as some tests wait for what takes its time; two more take longer.
PYTEST := $(BIN)/python -m pytest --numprocesses 3 --dist worksteal
test: $(VENV)/dev $(VENV)/azurite/node_modules $(VENV)/axe/node_modules  ## Run all tests (10 minutes)
	$(PYTEST) $(ARGS)

test-fast: $(VENV)/dev  ## Run the tests without TensorFlow or processes (a minute)
	$(PYTEST) --fast $(ARGS)

test-long: $(VENV)/dev $(VENV)/azurite/node_modules $(VENV)/axe/node_modules  ## Run all tests with long random series (hours)
	TRAINYARD_LONG=$${TRAINYARD_LONG:-1} $(PYTEST) $(ARGS)

e2e: $(VENV)/dev  ## Run the tests that need a cluster (see CONTRIBUTING.md)
	$(BIN)/python -m pytest tests/cluster -s $(ARGS)

check: $(VENV)/dev  ## Check formatting, lint, imports between rooms, and types
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy $(CODE)

format: $(VENV)/dev  ## Format the code
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

schema: $(VENV)/k8s  ## Write runs/schema.json, with which editors check run files
	$(BIN)/python -m k8s schema > runs/schema.json

golden: $(VENV)/dev  ## Write tests/data/golden again
	TRAINYARD_WRITE_GOLDEN=1 $(BIN)/python -m pytest tests/unit/k8s/test_manifest.py -k golden

lock: $(VENV)/dev  ## Resolve requirements/*.txt from pyproject.toml again
	for extras in "trainer" "gpu" "k8s" "trainer onnx" "trainer k8s onnx dev"; do \
		$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
			--no-annotate --no-header --upgrade $$(printf -- '--extra %s ' $$extras) \
			pyproject.toml -o requirements/$${extras##* }.txt || exit; done

pictures: $(VENV)/dev  ## Make the pictures in docs/ again, from RUN and STORE/runs
	@test -n '$(RUN)' || { echo 'no run below $(STORE)/runs; give RUN=, the folder of one' >&2; exit 2; }
	@$(BIN)/python -m docs.screenshots --runs '$(STORE)/runs' --run '$(RUN)'
	@$(BIN)/python -m docs.drawings gang '$(STORE)/data'

clean:  ## Remove the virtual environment and caches; data and runs stay
	rm -rf $(VENV) $(BENCH) .pytest_cache .mypy_cache .ruff_cache .hypothesis

help:  ## Show this help
	@awk 'BEGIN {FS = ":.*  ## "; print "make TARGET [NAME=value ...]"} \
		/^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z0-9-]+:.*  ## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '\nSettings and their current values\n'
	@printf '  %-12s %s\n' STORE '$(STORE)' DATA '$(DATA)' FOLDER '$(FOLDER)' PRESET '$(PRESET)' \
		RUN '$(RUN) (a run file, for Kubernetes)' '' '$(or $(LATEST),none yet) (a folder, to inspect)' \
		WORKERS '$(WORKERS)' FAULTS '$(FAULTS)' SWEEP '$(SWEEP)' ON '$(ON)' \
		PICTURES '$(PICTURES)' ARGS '$(ARGS)' PYTHON '$(PYTHON)' DOCKER '$(DOCKER)'

PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes
# uv, as pinned among the developer's tools, installs those in a tenth of pip's time.
UV_INSTALL = awk '/^[^ ]/ {uv = /^uv==/} uv' $< > $(VENV)/uv.txt \
	&& $(PIP_INSTALL) -r $(VENV)/uv.txt \
	&& $(BIN)/uv pip install -q --python $(BIN)/python --require-hashes -r $<
$(VENV)/trainer $(VENV)/k8s $(VENV)/onnx $(VENV)/dev: $(VENV)/%: requirements/%.txt
	@test -n '$(PYTHON)' || { echo 'no Python 3.11 to 3.13 found; give PYTHON=/path/to/python' >&2; exit 2; }
	@echo 'installing $(WITH_$*) into $(VENV), once'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(if $(filter dev,$*),$(UV_INSTALL) ||) $(PIP_INSTALL) -r $<
	@touch $@ $(if $(filter dev,$*),$(VENV)/trainer $(VENV)/k8s $(VENV)/onnx)  # the developer's include all

# Azurite, which some tests start as a store, is a program of Node.js, and axe-core is a script that
# checks pages.
$(VENV)/azurite/node_modules $(VENV)/axe/node_modules: $(VENV)/%/node_modules: \
		tests/support/%/package-lock.json
	@echo 'installing $* of npm into $(VENV), once'
	@mkdir -p $(@D) && cp $(<D)/package.json $< $(@D)
	@npm ci --prefix $(@D) --ignore-scripts --silent && touch $@ \
		|| echo 'no $*: tests that need it will be skipped' >&2

# Peers stay out of the product's environment; if they cannot be installed, benchmarks run without them.
$(BENCH)/stamp: requirements/bench.txt
	@echo 'installing PyTorch and JAX into $(BENCH), once'
	@$(PYTHON) -m venv $(BENCH)
	@$(BENCH)/bin/python -m pip install -qq --disable-pip-version-check -r $< \
		&& touch $@ || echo 'no PyTorch and JAX: their columns will say "not installed"' >&2

.PHONY: run presets bench chaos report predict export watch tensorboard compare sweep \
	doctor submit status logs result cancel delete list kind-up kind-down image publish docker-run \
	test test-fast test-long e2e check format schema golden lock pictures clean help
