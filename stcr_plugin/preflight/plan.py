"""A run that is planned: the recipe as the framework will take it, its model, its data, and the machines for it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stcr_plugin.config import from_mapping
from stcr_plugin.errors import ConfigError, StcrError
from stcr_plugin.frameworks import refusals
from stcr_plugin.frameworks.recipe import datasets, read_recipe, starting_point
from stcr_plugin.frameworks.stage_run import manifests_of
from stcr_plugin.frameworks.stcr_block import StcrSettings
from stcr_plugin.preflight.data import Data, read_data
from stcr_plugin.preflight.memory import Batch
from stcr_plugin.preflight.model import Model, read_model
from stcr_plugin.preflight.resolve import Resolved, resolve
from stcr_plugin.preflight.verdict import Verdict, error, warning


@dataclass(frozen=True)
class Asked:
    """What is known of the machines, and how much is looked at.

    gpus: processes of the run, one GPU each. gpu_memory: GiB of one. throughput: samples a second of all together;
    or tflops (10^12 floating-point operations a second, the peak of one GPU) and mfu, the share of it that is reached.
    images, samples: how many pictures are decoded and samples tokenised; None: all.
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
            raise ConfigError("every figure of the machines and of what is looked at must be above 0")
        if (self.tflops is None) != (self.mfu is None) or (self.mfu or 0) > 1:
            raise ConfigError("--tflops and --mfu go together, and --mfu is a share such as 0.4")
        if self.throughput is not None and self.tflops is not None:
            raise ConfigError("give either --throughput or --tflops with --mfu")


@dataclass(frozen=True)
class Plan:
    """`args` is the recipe without its `stcr:` block; `model` and `data` are None where they could not be read.

    `manifests`: build -> its manifest, of the training sets that the plugin built.
    """

    args: Mapping[str, Any]
    settings: StcrSettings
    asked: Asked
    resolved: Resolved
    model: Model | None
    data: Data | None
    manifests: Mapping[str, Mapping[str, Any]]

    @property
    def registry(self) -> Path:
        return Path(self.args["dataset_dir"])

    @property
    def start(self) -> Path:
        """What the stage starts from: an adapter or a model."""
        return Path(starting_point(self.args))

    @property
    def datasets(self) -> list[str]:
        return datasets(self.args)

    @property
    def samples(self) -> int | None:
        """How many were tokenised; None where there is none."""
        return len(self.data.samples) if self.data is not None and self.data.samples else None

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
        many, samples = int(self.resolved.training.per_device_train_batch_size), self.data.samples
        longest, packed = max(sample.tokens for sample in samples), 1
        if self.resolved.data.packing:
            longest = int(self.resolved.data.cutoff_len) + 1
            packed = max(1, longest // min(sample.tokens for sample in samples))
        padded = -(-longest // 8) * 8
        # Logits begin where the sample with the shortest prompt is supervised first; the authors' mask has no prompt,
        # and LLaMA-Factory's other losses read all logits.
        finetuning = self.resolved.finetuning
        whole = self.settings.mask == "authors" or finetuning.use_dft_loss or finetuning.use_eaft_loss
        prompt = 0 if whole else min(sample.prompt for sample in samples)
        return Batch(
            tokens=many * padded,
            patches=many * packed * max(sample.patches for sample in samples),
            longest=padded,
            tail=many * (padded - max(prompt - 1, 0)),
        )


def read_plan(recipe: str, overrides: Sequence[str], asked: Asked) -> tuple[Plan | None, list[Verdict]]:
    """The plan, None where the recipe itself cannot be taken, and what was wrong so far."""
    found: list[Verdict] = []
    try:
        args = read_recipe(recipe, overrides)
        block = args.pop("stcr")
        if not isinstance(block, Mapping):
            raise ConfigError(f"the `stcr:` block is {block!r}; it holds `key: value` lines, at least name and mode")
        settings = from_mapping(StcrSettings, block, "the `stcr:` block")
        args.setdefault("dataset_dir", "data_registry")
        refusals.refuse_what_cannot_work(args)
    except StcrError as refusal:
        return None, [error("recipe", str(refusal))]
    for check, refuse in (
        ("streaming", refusals.refuse_to_stream_in_vain),
        ("output", refusals.refuse_to_overwrite),
    ):
        found += _refused(check, refuse, args)
    try:
        start = _start(args, settings)
    except StcrError as refusal:
        start = {"adapter_name_or_path": None}
        found.append(error("adapter", str(refusal)))
    try:
        # What stands in output_dir was looked at just now, in the plugin's own way.
        resolved = resolve({**args, **start, "overwrite_output_dir": True}, asked.gpus)
    except StcrError as refusal:
        return None, [*found, error("recipe", str(refusal))]
    manifests: dict[str, dict[str, Any]] = {}
    model, data = None, None
    with tempfile.TemporaryDirectory() as spare:
        try:
            model = read_model(resolved, settings, Path(spare))
        except StcrError as refusal:
            found.append(error("model", str(refusal)))
        unbuilt = _unbuilt(settings, args)
        found += unbuilt
        if not unbuilt:
            try:
                manifests = manifests_of(args, Path(args["dataset_dir"]))
                data = read_data(resolved, model, asked.images, asked.samples) if model else None
            except StcrError as refusal:
                found.append(error("data", str(refusal)))
    return Plan(args, settings, asked, resolved, model, data, manifests), found


def _start(args: Mapping[str, Any], settings: StcrSettings) -> dict[str, Any]:
    """The recipe's keys as its stage will start. An adapter that is merged first, or not there yet, has no shape."""
    from stcr_plugin.frameworks.adapters import start_of

    if args.get("adapter_name_or_path") and not Path(starting_point(args)).is_dir():
        return {"adapter_name_or_path": None}  # the check of the chain tells of it
    start = start_of(args, settings.adapter, settings.starts_from == "stage")
    if start.way == "merge":
        return {"model_name_or_path": start.model, "adapter_name_or_path": None}
    return start.keys


def _refused(check: str, refuse: Callable[[Mapping[str, Any]], None], args: Mapping[str, Any]) -> Iterator[Verdict]:
    try:
        refuse(args)
    except StcrError as refusal:
        yield error(check, str(refusal))


def _unbuilt(settings: StcrSettings, args: Mapping[str, Any]) -> list[Verdict]:
    """Builds that the recipe would make first."""
    from stcr_plugin.registry.build import load_data_config
    from stcr_plugin.registry.manifest import MANIFEST

    found = []
    configs = settings.prepare.data or ()
    for config in (configs,) if isinstance(configs, str) else configs:
        data = load_data_config(config)
        wanted = {f"{data.name}_{key}" for key in data.datasets} & set(datasets(args))
        if wanted and not (Path(args["dataset_dir"]) / data.name / MANIFEST).is_file():
            found.append(
                warning(
                    "data",
                    f"{data.name} is not built yet, so no sample could be looked at",
                    f"`stcr data build {config}`, then check again",
                    f"dataset: {', '.join(sorted(wanted))}",
                )
            )
    return found
