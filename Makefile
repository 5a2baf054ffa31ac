# Two commands matter: `make demo` runs the main job, `make test` runs everything. Each sets itself up on first use.
# On a machine where pip would pull a CUDA build of torch, name your own source for the CPU build:
#     make demo HARDPOINT_TORCH_PIP_ARGS="--index-url ..."

PYTHON ?= python3
VENV   ?= .venv
VLLM   ?= 0.32.0
BIN    := $(VENV)/bin
JOBS   ?= 2
PYTEST := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q

export HARDPOINT_TORCH_PIP_ARGS
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint test-fast test-conformance self-test-full test-vllm test-gpu fla-tests gdn-replays gdn-vllm test-wheel demo-vllm-0.31 trainers example-grpo seams vendor-api vendor-api-check constraints soak clean

help:             ## show this list
	@grep -hE '^[a-z0-9.-]+: .*##|^[a-z0-9.-]+:  *##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 20

setup:            ## make the project's own environment (.venv), quick the second time
	@$(PYTHON) ci/setup_venv.py --venv $(VENV) --vllm $(VLLM)

demo: setup       ## the main job: choose a backend, run stock vLLM on it, sync new weights into it, compare
	@HARDPOINT_BACKEND=cpu $(BIN)/hardpoint demo

test: lint test-fast test-wheel test-conformance test-vllm  ## everything, fast tests first

lint: setup       ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test-fast: setup  ## all tests that start no vLLM engine
	@$(PYTHON) ci/browser.py > /dev/null || test "$$CI" != true  # reports are looked at in one; installed if that can be done
	$(PYTEST) -m "not vllm and not gpu" -n $(JOBS) --dist loadfile

test-wheel: setup ## build the wheel, install it into an empty environment, import every package
	$(BIN)/python ci/wheel_check.py

test-conformance: setup ## the conformance kit on cpu, sim and the profiles of xpu and npu, and its self-test
	$(BIN)/hardpoint conformance cpu
	$(BIN)/hardpoint conformance sim
	$(BIN)/hardpoint conformance sim:xpu
	$(BIN)/hardpoint conformance sim:npu
	$(BIN)/hardpoint conformance --self-test

self-test-full: setup ## test the laws on the full product of mutants and worlds
	$(BIN)/hardpoint conformance --self-test --full

test-vllm: setup  ## tests that start stock vLLM engines
	$(PYTEST) -m "vllm and not gpu" -n $(JOBS) --dist loadfile

test-gpu:         ## what needs a GPU, with the Python of a machine that has one (torch, Triton and vLLM for it installed)
	cd tests && $(PYTHON) -m pytest -q -m gpu gpu

fla-tests:        ## fla's own tests of the gated delta rule on our kernels: small ones interpreted, all of them on a GPU
	$(PYTHON) ci/fla_suite $(if $(FLA),--source $(FLA))

gdn-replays:      ## on a GPU: 10,000 decode steps at B=1 and B=256 in shuffled orders of programs, bit by bit, each way to write windows
	cd tests && $(PYTHON) -m pytest -q -m gpu gpu/test_kernels_gdn.py -k ten_thousand

gdn-vllm:         ## on a GPU: a GDN model in vLLM with and without our kernels, tokens and log-probabilities compared
	cd tests && $(PYTHON) -m pytest -q -m gpu gpu/test_vllm_gdn.py

demo-vllm-0.31:   ## the demo on vLLM 0.31, in an environment of its own
	@$(PYTHON) ci/setup_venv.py --venv .venv-vllm-0.31 --vllm 0.31.0
	@HARDPOINT_BACKEND=cpu .venv-vllm-0.31/bin/hardpoint demo

TRAINERS := .work/trainers
trainers: setup   ## the adapters for TRL, verl and ms-swift against the real packages, each in an environment of its own
	@$(PYTHON) ci/setup_trainers.py trl verl swift --venv $(VENV)
	$(subst $(BIN)/,$(TRAINERS)/trl/bin/,$(PYTEST)) tests/integrations/trainers/adapters/test_trl.py tests/integrations/trainers/sharded/test_merged_adapters.py
	$(subst $(BIN)/,$(TRAINERS)/verl/bin/,$(PYTEST)) tests/integrations/trainers/adapters/test_verl.py
	$(subst $(BIN)/,$(TRAINERS)/swift/bin/,$(PYTEST)) tests/integrations/trainers/adapters/test_swift.py

example-grpo: setup ## GRPO with TRL and a colocated vLLM, two steps on the CPU, weights through hardpoint
	@$(PYTHON) ci/setup_trainers.py trl --venv $(VENV)
	HARDPOINT_BACKEND=cpu OMP_NUM_THREADS=1 $(TRAINERS)/trl/bin/python examples/grpo_colocate.py

seams: setup      ## read the vLLM wheels again and refresh ci/seams/*.json
	$(BIN)/python ci/seams/refresh.py

vendor-api: setup ## read the vendors' wheels again (2.5 GB, or those in WHEELS=folder) and refresh ci/vendor_api/tables
	$(BIN)/python ci/vendor_api refresh $(if $(WHEELS),--wheels $(WHEELS))

vendor-api-check: setup ## hold every vendor call in our source against the tables
	$(BIN)/python ci/vendor_api

constraints: setup ## write the pins of this environment to ci/requirements/constraints.txt
	$(BIN)/python ci/freeze.py

soak: setup       ## 20 repeated runs of the kit and its self-test, to find flaky laws
	$(BIN)/python ci/soak.py --runs 20

clean:            ## remove the environments and caches
	rm -rf .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build .work
