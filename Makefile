# `make demo` and `make test` set everything up from nothing: Python 3.11, no GPU.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# torchrun and llamafactory-cli are looked up on PATH; more threads than cores make a step 20 times slower.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export OMP_NUM_THREADS ?= $(shell nproc)
# glibc would return a step's tensors and map them again at the next one: this makes a training step 5 % faster.
export MALLOC_TRIM_THRESHOLD_ ?= 1073741824
export MALLOC_MMAP_THRESHOLD_ ?= 1073741824
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

SEED ?= 17
RUN ?= runs/demo
DATA ?= recipes/data/tabletop.yaml
NAME ?= stcr
SPLITS ?= seen heldout
DEV ?= dev
PAIRS ?= 840
# Overrides of one recipe, such as max_steps=600.
BASE ?=
STAGE1 ?=
STAGE2 ?=
WEAK_ONLY ?=

.PHONY: install demo demo-ablation demo-seeds quick real metaworld test test-fast check check-static docs bench kills fuzz interop full-size gpu clean

install: $(READY)

$(READY): pyproject.toml constraints.txt autoload/stcr_plugin_autoload.pth
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

# ---- the main job: base and both stages, on a seed that no setting was chosen on. Each line is a command that users can
# run themselves; a finished step is not repeated, so a killed demo goes on. demo-ablation adds the baseline: weak pairs
# only, from the same base and for as many steps as both stages together. Splits are evaluated side by side.

STAGES := base stage1 stage2
REGISTRY = $(RUN)/data_registry
CHAIN = dataset_dir=$(REGISTRY) seed=$(SEED) stcr.prepare.data=null stcr.prepare.base=null stcr.evaluate.split=$(DEV)
DONE = touch $@

demo: $(RUN)/.report.done
	@cat $(RUN)/summary.txt

demo-ablation: $(RUN)/.report.done $(RUN)/.weak_only.evaluated
	stcr report $(STAGES:%=$(RUN)/%) $(RUN)/weak_only --out $(RUN) --registry $(REGISTRY)

$(RUN)/.data.done: | $(READY)
	mkdir -p $(RUN)
	stcr data build $(DATA) seed=$(SEED) --registry $(REGISTRY)
	$(DONE)

$(RUN)/.base.done: $(RUN)/.data.done
	stcr base build recipes/base_tabletop.yaml out=$(RUN)/base seed=$(SEED) dataset=$(NAME)_forward split=$(DEV) \
	  --registry $(REGISTRY) $(BASE)
	$(DONE)

$(RUN)/.stage1.done: $(RUN)/.base.done
	llamafactory-cli train recipes/stage1_cot.yaml \
	  model_name_or_path=$(RUN)/base dataset=$(NAME)_cot output_dir=$(RUN)/stage1 $(CHAIN) $(STAGE1)
	$(DONE)

$(RUN)/.stage2.done: $(RUN)/.stage1.done
	llamafactory-cli train recipes/stage2_weak.yaml \
	  model_name_or_path=$(RUN)/stage1 dataset=$(NAME)_weak output_dir=$(RUN)/stage2 $(CHAIN) $(STAGE2)
	$(DONE)

$(RUN)/.weak_only.done: $(RUN)/.base.done
	llamafactory-cli train recipes/weak_only.yaml \
	  model_name_or_path=$(RUN)/base dataset=$(NAME)_weak output_dir=$(RUN)/weak_only $(CHAIN) $(WEAK_ONLY)
	$(DONE)

$(RUN)/.%.evaluated: $(RUN)/.%.done
	echo $(SPLITS) | OMP_NUM_THREADS=$$(( ($(OMP_NUM_THREADS) + $(words $(SPLITS)) - 1) / $(words $(SPLITS)) )) \
	  xargs -n 1 -P $(words $(SPLITS)) stcr eval --model $(RUN)/$* --dataset $(NAME) --limit $(PAIRS) \
	  --batch-size 32 --registry $(REGISTRY) --split
	$(DONE)

$(RUN)/.report.done: $(STAGES:%=$(RUN)/.%.evaluated)
	stcr report $(STAGES:%=$(RUN)/%) --out $(RUN) --registry $(REGISTRY) > $(RUN)/summary.txt
	$(DONE)

demo-seeds: | $(READY)
	for seed in 17 18 19; do $(MAKE) demo-ablation SEED=$$seed RUN=runs/seed$$seed; done

# ---- the same chain, smaller and on easier pairs: a first look in a few minutes, not the published figures.

QUICK_BASE := pretraining.episodes=400 pretraining.steps=700
QUICK := DATA=recipes/data/tabletop_quick.yaml SPLITS=seen PAIRS=300 STAGE1='max_steps=150 stcr.augment=null' \
  STAGE2='max_steps=750 learning_rate=1.5e-3 stcr.augment=null'

quick: | $(READY)
	@echo "make quick: fewer episodes, easier scenes and pairs, no augmentation, shorter stages; the full chain is make demo"
	$(MAKE) demo RUN=runs/quick $(QUICK) BASE='$(QUICK_BASE)'

# ---- the same chain on recordings of a real robot; REAL is the LeRobot folder that DATA describes.

REAL ?= ../shared/real/g1_pick_bottle

real: | $(READY)
	$(MAKE) demo RUN=runs/g1 DATA='recipes/data/g1_pick_bottle.yaml source.root=$(REAL)' NAME=g1 SPLITS=heldout \
	  DEV=heldout PAIRS=900 STAGE1=max_steps=800 STAGE2='max_steps=1400 learning_rate=1.0e-3'

# ---- chain and baseline on many simulated tasks; needs MuJoCo to render (recipes/data/metaworld.yaml says what). Goes on
# where it was stopped.

metaworld: export OMP_NUM_THREADS := 1
metaworld: | $(READY)
	stcr study recipes/studies/metaworld.yaml --jobs $$(nproc)

# ---- checks

# Each process of the tests computes on one thread; a module's tests stay in one process, and share what they make.
# Modules keep the order of tests/conftest.py: the longest first.
TESTS := python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 20
# What has a target of its own runs there alone.
HERE := not gpu and not kill and not fuzz and not interop and not full_size

test test-fast: export OMP_NUM_THREADS := 1
test: | $(READY)
	$(TESTS) -m "$(HERE)"

test-fast: | $(READY)
	$(TESTS) -m "$(HERE) and not slow"

check-static: | $(READY)
	ruff check .
	ruff format --check .
	mypy

check: check-static test

bench: | $(READY)
	python -m pytest tests/speed -m bench

# Every command that makes something, killed at ten random moments: it ends as an unbroken run. Takes minutes.
kills: export OMP_NUM_THREADS := 1
kills: | $(READY)
	python -m pytest tests/kill -m kill -s

# Damaged metadata, configurations, records, model folders, replies and arguments: each ends in a result or in one line.
# Takes minutes; prints how many examples ended how. STCR_FUZZ_EXAMPLES=2000 draws more, STCR_FUZZ_SEED=1 others.
fuzz: export OMP_NUM_THREADS := 1
fuzz: | $(READY)
	python -m pytest tests/fuzz -m fuzz -q -s

# The real vLLM and LeRobot, each in an environment of its own below .interop, with the chain of `make quick` on heads of
# 32, the least that vLLM serves on a CPU; and the tests of tests/frameworks with newer LLaMA-Factory, TRL and
# transformers. What cannot be installed is skipped by name. Downloads gigabytes.
PYTHON312 ?= python3.12

interop: | $(READY)
	-$(MAKE) .interop/vllm/bin/.ready
	-$(MAKE) .interop/lerobot/bin/.ready
	-$(MAKE) .interop/newest/bin/.ready
	-$(MAKE) .interop/newest_trl/bin/.ready
	$(MAKE) demo RUN=runs/interop $(QUICK) \
	  BASE='$(QUICK_BASE) architecture.hidden=128 architecture.heads=4 architecture.mrope_section=[4,6,6]'
	python -m pytest tests/interop -m interop -s

.interop/vllm/bin/.ready: interop/vllm.txt
	$(PYTHON) -m venv .interop/vllm
	.interop/vllm/bin/pip install -q -r $<
	.interop/vllm/bin/python -c 'import torchvision, vllm'
	touch $@

.interop/lerobot/bin/.ready: interop/lerobot.txt
	$(PYTHON312) -m venv .interop/lerobot
	.interop/lerobot/bin/pip install -q -r $< ./interop/lerobot_reward_stcr
	touch $@

# Ours first: the versions of the second line are beyond the limits of its requirements.
.interop/%/bin/.ready: interop/%.txt
	$(PYTHON) -m venv .interop/$*
	.interop/$*/bin/pip install -q -e . pytest pytest-timeout
	.interop/$*/bin/pip install -q -U -r $<
	touch $@

# LoRA recipes on models of their real size with random weights: two steps of each stage with a kill between them, export
# and one served answer. Takes hours, gigabytes of disk in runs/full_size, and goes on where it was stopped.
full-size: export OMP_NUM_THREADS := 1
full-size: | $(READY)
	python -m pytest tests/full_size -m full_size -s

docs: | $(READY)
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

# Needs a CUDA device; says so and passes where there is none. Figures: runs/gpu/results.md.
gpu: | $(READY)
	python -m pytest tests/gpu -m gpu -s

clean:
	rm -rf runs data_registry/*/ data_registry/dataset_info.json dist build
