"""Settings that are known to break a training, or to teach something else than the answers, each with its fix."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from stcr_plugin.preflight.memory import LIGER
from stcr_plugin.preflight.plan import Plan
from stcr_plugin.preflight.verdict import Level, Verdict, ok


@dataclass(frozen=True)
class Pitfall:
    """A setting that is known to break a training.

    Attributes:
        holds: Whether a plan has it; what it returns replaces {} in `problem`.
    """

    key: str
    holds: Callable[[Plan], Any]
    level: Level
    problem: str
    fix: str


def _zero(plan: Plan) -> Any:
    return plan.resolved.deepspeed.get("zero_optimization") or {}


def _missing(*packages: str) -> str:
    return ", ".join(name for name in packages if importlib.util.find_spec(name) is None)


def _unlogged(plan: Plan) -> str:
    reports = plan.resolved.training.report_to
    wanted = [reports] if isinstance(reports, str) else list(reports or ())
    return _missing(*(name for name in ("wandb", "swanlab", "mlflow") if name in wanted))


def _no_bf16_here(plan: Plan) -> bool:
    import torch

    return bool(plan.resolved.training.bf16) and not torch.cuda.is_available()


def _large(plan: Plan) -> bool:
    return plan.model is not None and plan.model.parameters > 100_000_000


def _kept_nowhere(plan: Plan) -> bool:
    saves = str(getattr(plan.resolved.training.save_strategy, "value", plan.resolved.training.save_strategy))
    return saves == "no" and _large(plan) and (plan.steps or 0) > 200


def _shuffled_bits(plan: Plan) -> bool:
    training, name = plan.resolved.training, str(plan.resolved.training.optim)
    return "8bit" in name and training.deepspeed is not None


PITFALLS = (
    Pitfall(
        "zero_optimization.overlap_comm",
        lambda plan: plan.resolved.zero == 2 and _zero(plan).get("overlap_comm"),
        "error",
        problem="ZeRO-2 with overlap_comm: gradients are read while they are still summed, and users report NaN",
        fix="set overlap_comm: false in the DeepSpeed configuration, as recipes/deepspeed/zero2.json has it",
    ),
    Pitfall(
        "zero_optimization.stage3_gather_16bit_weights_on_model_save",
        lambda plan: (
            plan.resolved.zero == 3
            and plan.resolved.finetuning.finetuning_type == "full"
            and not _zero(plan).get("stage3_gather_16bit_weights_on_model_save")
        ),
        "error",
        problem="ZeRO-3 would save no whole model, and the next stage could not start from it",
        fix="set stage3_gather_16bit_weights_on_model_save: true in the DeepSpeed configuration",
    ),
    Pitfall(
        "neat_packing",
        lambda plan: plan.resolved.data.neat_packing and plan.recipe.cutoff_len % 8 and plan.recipe.cutoff_len,
        "error",
        problem="cutoff_len {} is not a multiple of 8: packs are padded to one, positions are not, and training fails",
        fix="set cutoff_len to a multiple of 8, or neat_packing: false and packing: false",
    ),
    Pitfall(
        "packing",
        lambda plan: plan.resolved.data.packing and not plan.resolved.data.neat_packing,
        "error",
        problem="the samples of a pack see each other, so that a question has img1 of another one beside its own",
        fix="set packing: false (or neat_packing: true)",
    ),
    Pitfall(
        "stcr.mask",
        lambda plan: plan.recipe.settings.mask == "authors" and plan.resolved.data.packing,
        "error",
        problem="the authors' mask is counted from the first prompt of a sample, and a pack holds several",
        fix="set packing: false",
    ),
    Pitfall(
        "stcr.augment",
        lambda plan: plan.recipe.settings.augment and plan.resolved.data.packing,
        "warning",
        problem="all samples of a pack get one change of their pictures",
        fix="set packing: false",
    ),
    Pitfall(
        "train_on_prompt",
        lambda plan: plan.resolved.data.train_on_prompt,
        "error",
        problem="the loss would be on the question and on picture tokens too",
        fix="remove train_on_prompt",
    ),
    Pitfall(
        "mask_history",
        lambda plan: plan.resolved.data.mask_history,
        "warning",
        problem="only the last turn of a conversation is trained on, and a cut takes its beginning",
        fix="remove mask_history, unless general data of several turns is meant to",
    ),
    Pitfall(
        "ignore_pad_token_for_loss",
        lambda plan: not plan.resolved.data.ignore_pad_token_for_loss,
        "error",
        problem="the loss would be on the padding too",
        fix="remove ignore_pad_token_for_loss: false",
    ),
    Pitfall(
        "val_size",
        lambda plan: float(plan.resolved.data.val_size) > 0,
        "warning",
        problem="it splits rows at random: the two orders of a pair, and frames of one episode, are in both parts",
        fix="remove val_size; stcr.evaluate measures on a split by episode",
    ),
    Pitfall(
        "trust_remote_code",
        lambda plan: plan.resolved.model.trust_remote_code,
        "error",
        problem="code that comes with a model would be run, and the models that the plugin knows need none",
        fix="remove trust_remote_code; of InternVL take the release in transformers' own format (-hf)",
    ),
    Pitfall(
        "flash_attn",
        lambda plan: (
            str(getattr(plan.resolved.model.flash_attn, "value", plan.resolved.model.flash_attn)) == "fa2"
            and _missing("flash_attn")
        ),
        "warning",
        problem="{} is not installed here: where it is missing, LLaMA-Factory uses another attention, slower",
        fix="install flash-attn on the machine of the run, or set flash_attn: sdpa",
    ),
    Pitfall(
        "quantization_bit",
        lambda plan: (
            plan.resolved.model.quantization_bit
            and str(getattr(plan.resolved.model.quantization_method, "value", "bnb")) == "bnb"
            and _missing("bitsandbytes")
        ),
        "warning",
        problem="{} is not installed here, and quantised weights need it",
        fix="pip install bitsandbytes on the machine of the run",
    ),
    Pitfall(
        "enable_liger_kernel",
        lambda plan: plan.resolved.model.enable_liger_kernel and _missing("liger_kernel"),
        "warning",
        problem="{} is not installed here",
        fix="pip install liger-kernel on the machine of the run",
    ),
    Pitfall(
        "enable_liger_kernel",
        lambda plan: (
            plan.resolved.model.enable_liger_kernel
            and plan.model is not None
            and plan.model.config.model_type not in LIGER
            and plan.model.config.model_type
        ),
        "warning",
        problem="LLaMA-Factory has no kernel for {}: it logs that, and trains without",
        fix="remove enable_liger_kernel",
    ),
    Pitfall(
        "report_to",
        _unlogged,
        "warning",
        problem="{} is not installed here: where it is missing, the run stops at its start",
        fix="pip install it on the machine of the run, or set report_to: tensorboard",
    ),
    Pitfall(
        "bf16",
        _no_bf16_here,
        "warning",
        problem="this machine has no GPU; on a CPU bf16 is slower than float32, and needs use_cpu: true",
        fix="run on a GPU that has bf16, or set bf16: false",
    ),
    Pitfall(
        "fp16",
        lambda plan: plan.resolved.training.fp16,
        "warning",
        problem="Qwen-VL models were trained in bf16, whose range float16 lacks: activations overflow to NaN",
        fix="set bf16: true instead",
    ),
    Pitfall(
        "bf16",
        lambda plan: (
            _large(plan)
            and not (plan.resolved.training.bf16 or plan.resolved.training.fp16 or plan.resolved.finetuning.pure_bf16)
        ),
        "warning",
        problem="a model of this size in float32 takes twice the memory for its activations and several times as long",
        fix="set bf16: true",
    ),
    Pitfall(
        "disable_gradient_checkpointing",
        lambda plan: (
            plan.resolved.model.disable_gradient_checkpointing
            and getattr(plan.resolved.training, "gradient_checkpointing", False)
        ),
        "warning",
        problem="gradient_checkpointing is set too: the trainer switches on what the loader leaves off, with use_cache",
        fix="keep one of the two",
    ),
    Pitfall(
        "deepspeed",
        _shuffled_bits,
        "warning",
        problem="an optimizer with 8-bit states inside ZeRO's partitions is not tested by either library",
        fix="set optim: adamw_torch, or leave DeepSpeed out",
    ),
    Pitfall(
        "save_strategy",
        _kept_nowhere,
        "warning",
        problem='"no" keeps nothing until the end: a run that is killed has to start again',
        fix="set save_strategy: steps, save_steps and save_total_limit",
    ),
    Pitfall(
        "save_only_model",
        lambda plan: plan.resolved.training.save_only_model,
        "warning",
        problem="a killed run cannot continue from its checkpoints, which lack the optimizer",
        fix="remove save_only_model, and set save_total_limit to spare the disk",
    ),
    Pitfall(
        "ddp_timeout",
        lambda plan: (
            plan.resolved.gpus > 1
            and not plan.resolved.data.streaming
            and int(plan.resolved.training.ddp_timeout) <= 1800
            and plan.data
            and sum(plan.data.rows.values()) > 100_000
            and sum(plan.data.rows.values())
        ),
        "warning",
        problem="{} samples are tokenised by one process while the others wait, who give up after 30 minutes",
        fix="set ddp_timeout: 180000000, or streaming: true",
    ),
)


def settings(plan: Plan) -> Iterator[Verdict]:
    """The pitfalls that the recipe has."""
    count = 0
    for pitfall in PITFALLS:
        found = pitfall.holds(plan)
        if found:
            count += 1
            yield Verdict("settings", pitfall.level, pitfall.problem.format(found), where=pitfall.key, fix=pitfall.fix)
    if not count:
        yield ok("settings", f"none of {len(PITFALLS)} that are known to break")
