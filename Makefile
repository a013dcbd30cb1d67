# `make demo` and `make test` set everything up from nothing: Python 3.11, no GPU.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# torchrun and llamafactory-cli are looked up on PATH; more threads than cores make a step 20 times slower.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export OMP_NUM_THREADS ?= $(shell nproc)
export HF_HUB_OFFLINE := 1
export DISABLE_VERSION_CHECK := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: install demo demo-ablation demo-seeds real test test-fast check bench clean

install: $(READY)

$(READY): pyproject.toml constraints.txt autoload/stcr_plugin_autoload.pth
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@
