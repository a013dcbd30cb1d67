"""A planned run: the recipe as the framework will read it, its model, its data, and its machines."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stcr_plugin.errors import ConfigError, StcrError
from stcr_plugin.frameworks import refusals
from stcr_plugin.frameworks.parents import refuse_own_parent
from stcr_plugin.frameworks.recipe import Recipe, read_recipe
from stcr_plugin.frameworks.stage_run import manifests_of
from stcr_plugin.preflight.data import Data, read_data
from stcr_plugin.preflight.memory import Batch
from stcr_plugin.preflight.model import Model, read_model
from stcr_plugin.preflight.resolve import Resolved, resolve
from stcr_plugin.preflight.verdict import Verdict, refused, warning
from stcr_plugin.registry.manifest import Manifest

if TYPE_CHECKING:
    from stcr_plugin.frameworks.reference import Reference


@dataclass(frozen=True)
class Asked:
    """The machines, and how much is checked.

    Attributes:
        gpus: Processes of the run, one GPU each.
        gpu_memory: GiB of one GPU.
        throughput: Samples per second of all GPUs; or tflops and mfu.
        tflops: Peak of one GPU, 10^12 floating-point operations per second.
        mfu: The share of the peak that is reached.
        images, samples: How many pictures are decoded and samples tokenised; None: all.
    """

    gpus: int = field(default=1, metadata={"help": "processes of the run, one GPU each"})
    gpu_memory: float | None = field(default=None, metadata={"help": "GiB per GPU; a higher estimate is an error"})
    throughput: float | None = field(default=None, metadata={"help": "samples per second of all GPUs, for the time"})
    tflops: float | None = field(default=None, metadata={"help": "peak TFLOP/s of one GPU, for the time; needs --mfu"})
    mfu: float | None = field(default=None, metadata={"help": "share of the peak that is reached, such as 0.4"})
    images: int | None = field(default=None, metadata={"help": "decode at most N pictures (default: all)"})
    samples: int | None = field(default=None, metadata={"help": "tokenise at most N samples a dataset (default: all)"})

    def __post_init__(self) -> None:
        given = (self.gpus, self.gpu_memory, self.throughput, self.tflops, self.mfu, self.images, self.samples)
        if any(value is not None and value <= 0 for value in given):
            raise ConfigError("stcr check", "every figure must be above 0")
        if (self.tflops is None) != (self.mfu is None) or (self.mfu or 0) > 1:
            raise ConfigError("--tflops", "needs --mfu, and --mfu needs --tflops", "give --mfu as a share such as 0.4")
        if self.throughput is not None and self.tflops is not None:
            raise ConfigError("--throughput", "excludes --tflops and --mfu", "give one of them")


@dataclass(frozen=True)
class Plan:
    """A planned run.

    Attributes:
        model, data: None where they could not be read.
        manifests: Build -> its manifest, of the training sets that the plugin built.
        reference: Of a preference stage that has one.
    """

    recipe: Recipe
    asked: Asked
    resolved: Resolved
    model: Model | None
    data: Data | None
    manifests: Mapping[str, Manifest]
    reference: Reference | None = None

    @property
    def start(self) -> Path:
        """What the stage starts from: an adapter or a model."""
        return Path(self.recipe.starting_point)

    @property
    def samples(self) -> int | None:
        """How many were tokenised; None where there is none."""
        return len(self.data.samples) if self.data is not None and self.data.samples else None

    @property
    def answers(self) -> int:
        """How many sequences a row makes, each with its pictures: two where answers are ranked."""
        return 2 if self.recipe.prefers else 1

    @property
    def batch(self) -> int:
        """Samples of one step, on all GPUs."""
        training = self.resolved.training
        per_gpu = int(training.per_device_train_batch_size) * int(training.gradient_accumulation_steps)
        return per_gpu * self.resolved.gpus

    @property
    def rows(self) -> int | None:
        """Samples that an epoch sees; None where that is not known beforehand."""
        known = self.data and self.resolved.data.mix_strategy == "concat" and not self.resolved.data.packing
        if not known or self.data is None:
            return None
        rows, held_out = sum(self.data.rows.values()), float(self.resolved.data.val_size)
        return rows - int(held_out if held_out >= 1 else rows * held_out)

    @property
    def epoch(self) -> int | None:
        """Steps of an epoch, as transformers' Trainer counts them: each rank's last batch and group may be smaller."""
        if self.rows is None:
            return None
        training = self.resolved.training
        batches = -(-self.rows // (int(training.per_device_train_batch_size) * self.resolved.gpus))
        return max(1, -(-batches // int(training.gradient_accumulation_steps)))

    @property
    def steps(self) -> int | None:
        training = self.resolved.training
        if int(training.max_steps) > 0:
            return int(training.max_steps)
        return None if self.epoch is None else math.ceil(float(training.num_train_epochs) * self.epoch)

    @property
    def largest_batch(self) -> Batch | None:
        """What one GPU computes at once where all samples are as long as the longest, padded to a multiple of 8."""
        if self.data is None or not self.data.samples:
            return None
        many, samples = self.answers * int(self.resolved.training.per_device_train_batch_size), self.data.samples
        longest, packed = max(sample.tokens for sample in samples), 1
        if self.resolved.data.packing:
            longest = int(self.resolved.data.cutoff_len) + 1
            packed = max(1, longest // min(sample.tokens for sample in samples))
        padded = -(-longest // 8) * 8
        # Logits begin where the sample with the shortest prompt is supervised first; the authors' mask has no prompt,
        # and LLaMA-Factory's other losses read all logits.
        finetuning = self.resolved.finetuning
        whole = self.recipe.settings.mask == "authors" or finetuning.use_dft_loss or finetuning.use_eaft_loss
        prompt = 0 if whole else min(sample.prompt for sample in samples)
        return Batch(
            tokens=many * padded,
            patches=many * packed * max(sample.patches for sample in samples),
            longest=padded,
            tail=many * (padded - max(prompt - 1, 0)),
        )


def read_plan(path: str, overrides: Sequence[str], asked: Asked) -> tuple[Plan | None, list[Verdict]]:
    """The plan, None where the recipe itself cannot be used, and what was wrong so far."""
    found: list[Verdict] = []
    try:
        recipe = Recipe.of(read_recipe(path, overrides))
        refusals.refuse_what_cannot_work(recipe)
    except StcrError as refusal:
        return None, [refused("recipe", refusal)]
    for check, refuse in (
        ("streaming", refusals.refuse_broken_streaming),
        ("output", refuse_own_parent),
        ("output", refusals.refuse_to_overwrite),
    ):
        try:
            refuse(recipe)
        except StcrError as refusal:
            found.append(refused(check, refusal))
    try:
        start, reference = _start(recipe)
    except StcrError as refusal:
        start, reference = {"adapter_name_or_path": None}, None
        found.append(refused("adapter", refusal))
    try:
        # output_dir was checked just now, in the plugin's own way.
        resolved = resolve({**recipe.framework_keys(), **start, "overwrite_output_dir": True}, asked.gpus)
    except StcrError as refusal:
        return None, [*found, refused("recipe", refusal)]
    manifests: dict[str, Manifest] = {}
    model, data = None, None
    with tempfile.TemporaryDirectory() as spare:
        try:
            model = read_model(resolved, recipe.settings, Path(spare))
        except StcrError as refusal:
            found.append(refused("model", refusal))
        unbuilt = _unbuilt(recipe)
        found += unbuilt
        if not unbuilt:
            try:
                manifests = manifests_of(recipe)
                data = read_data(resolved, model, asked.images, samples=asked.samples) if model else None
            except StcrError as refusal:
                found.append(refused("data", refusal))
    plan = Plan(recipe, asked, resolved, model=model, data=data, manifests=manifests, reference=reference)
    return plan, found


def _start(recipe: Recipe) -> tuple[dict[str, Any], Reference | None]:
    """The recipe's keys as its stage will start, and its reference.

    An adapter that is merged first, or missing yet, has no shape.
    """
    from stcr_plugin.frameworks.adapters import start_of
    from stcr_plugin.frameworks.reference import reference_of

    if recipe.adapters and not Path(recipe.starting_point).is_dir():
        return {"adapter_name_or_path": None}, None  # the check of the chain reports it
    start = start_of(recipe)
    reference = reference_of(recipe, start)
    if start.way == "merge":
        return {"model_name_or_path": start.model, "adapter_name_or_path": None}, reference
    return {**start.keys, **(reference.keys if reference else {})}, reference


def _unbuilt(recipe: Recipe) -> list[Verdict]:
    """Builds that the recipe would make first."""
    from stcr_plugin.registry.build import load_data_config
    from stcr_plugin.registry.manifest import MANIFEST

    found = []
    for config in recipe.data_configs:
        data = load_data_config(config)
        wanted = {f"{data.name}_{key}" for key in data.datasets} & set(recipe.datasets)
        if wanted and not (recipe.registry / data.name / MANIFEST).is_file():
            problem = f"{data.name} is not built yet, so no sample was checked"
            fix = f"`stcr data build {config}`, then check again"
            found.append(warning("data", problem, fix, where=f"dataset: {', '.join(sorted(wanted))}"))
    return found
