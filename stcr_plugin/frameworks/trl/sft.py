"""One stage through TRL's SFTTrainer, with the recipe, data, tokens and losses of LLaMA-Factory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from stcr_plugin.frameworks.launch import under_torchrun
from stcr_plugin.frameworks.recipe import Recipe, read_recipe
from stcr_plugin.frameworks.refusals import refuse_trl
from stcr_plugin.frameworks.stage_run import run_stage
from stcr_plugin.frameworks.trl.collator import TemporalCollator
from stcr_plugin.frameworks.trl.dataset_rows import dataset, mixed
from stcr_plugin.frameworks.trl.keys import DataKeys, sorted_keys, trainer_config
from stcr_plugin.frameworks.trl.model_loading import load_model
from stcr_plugin.frameworks.trl.trainer_runs import checked_processor, finish
from stcr_plugin.logits import IGNORE


def train(recipe: str, overrides: Sequence[str] = ()) -> None:
    """`stcr train --backend trl`: a recipe with overrides laid over it."""
    import torch

    made = Recipe.of(read_recipe(recipe, overrides))
    refuse_trl(made)
    forced = os.environ.get("FORCE_TORCHRUN", "0").lower() in ("true", "y", "1")
    if "LOCAL_RANK" not in os.environ and (forced or torch.cuda.device_count() > 1):
        under_torchrun(recipe, overrides, max(1, torch.cuda.device_count()), options=("--backend", "trl"))
        return
    if made.samples_answers:
        from stcr_plugin.frameworks.trl.grpo import through_grpo

        run_stage(made, None, through_grpo(made), backend="trl")
    else:
        run_stage(made, None, through_trl, backend="trl")


def through_trl(args: dict[str, Any], callbacks: list[Any]) -> None:
    """Train by a recipe without its `stcr:` block. Raises ConfigError for a key that this backend cannot follow."""
    from transformers import set_seed

    from stcr_plugin.frameworks.batches import BatchWatch

    keys = sorted_keys(args)
    config = trainer_config(keys)  # DeepSpeed is to be known before the weights are read
    processor = checked_processor(keys)
    collator = TemporalCollator(
        processor,
        image_max_pixels=keys.data.image_max_pixels,
        image_min_pixels=keys.data.image_min_pixels,
        cutoff_len=keys.data.cutoff_len,
        media_dir=keys.data.media,
        bad_pictures=next((one.bad for one in callbacks if isinstance(one, BatchWatch)), "error"),
    )
    with config.main_process_first(desc="reading data", local=True):
        rows, held_out = _datasets(keys.data, config.seed, collator)
    set_seed(config.seed)
    trainer = _trainer_class()(
        shuffles=not keys.data.disable_shuffling,
        model=load_model(keys.model),
        args=config,
        data_collator=collator,
        train_dataset=rows,
        eval_dataset=held_out,
        processing_class=processor,
        callbacks=callbacks,
    )
    finish(trainer, config, measured=held_out is not None)


def _datasets(keys: DataKeys, seed: int, collator: TemporalCollator) -> tuple[Any, Any]:
    """(training rows, held-out rows or None), tokenised, so that a sample that is too long is found at the start."""

    def read(names: Sequence[str], shares: Sequence[float] | None) -> Any:
        parts = [
            dataset(
                keys.dataset_dir,
                name,
                keys.media,
                workers=keys.preprocessing_num_workers,
                cache=not keys.overwrite_cache,
            )
            for name in names
        ]
        if keys.max_samples:
            parts = [part.select(range(min(keys.max_samples, len(part)))) for part in parts]
        parts = [_tokenised(part, name, keys, collator=collator) for name, part in zip(names, parts, strict=True)]
        return mixed(parts, keys.mix_strategy, shares, seed=seed)

    rows = read(keys.sets, keys.shares)
    if keys.val_size:
        size = int(keys.val_size) if keys.val_size > 1 else keys.val_size
        split = rows.train_test_split(test_size=size, seed=seed)
        return split["train"], split["test"]
    return rows, read(keys.eval_sets, None) if keys.eval_sets else None


def _tokenised(rows: Any, name: str, keys: DataKeys, *, collator: TemporalCollator) -> Any:
    """Raises DataError for a sample over cutoff_len, and a missing picture."""
    return rows.map(
        collator.tokenised,
        batched=True,
        remove_columns=["messages"],
        num_proc=keys.preprocessing_num_workers,
        load_from_cache_file=not keys.overwrite_cache,
        desc=f"Tokenising {name}",
    )


def _trainer_class() -> Any:
    import torch
    from transformers import Trainer
    from trl import SFTTrainer

    class TemporalTrainer(SFTTrainer):  # type: ignore[misc]
        """SFTTrainer that weighs batches as LLaMA-Factory does: a step's loss is the mean of its batches' means.

        TRL's own way, the mean over all tokens of a step, is the same where a step is one batch.
        """

        def __init__(self, shuffles: bool, **given: Any) -> None:
            self.shuffles = shuffles
            super().__init__(**given)
            self.model_accepts_loss_kwargs = False

        def _get_train_sampler(self, *given: Any, **named: Any) -> Any:
            if not self.shuffles:
                return torch.utils.data.SequentialSampler(self.train_dataset)
            return super()._get_train_sampler(*given, **named)

        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            if "logits_to_keep" not in inputs:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            # TRL's own computes an entropy of the logits of all tokens, mostly those of the prompt.
            given = {**inputs, "use_cache": False}
            loss, outputs = Trainer.compute_loss(self, model, given, True, num_items_in_batch)
            wanted = inputs["labels"][:, 1:]
            right = outputs.logits[:, :-1].argmax(-1) == wanted
            counts = torch.stack([right.sum(), (wanted != IGNORE).sum(), inputs["attention_mask"].sum()])
            hits, supervised, tokens = self.accelerator.gather(counts[None]).sum(0).tolist()
            self._total_train_tokens += tokens
            self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
            self._metrics["train"]["mean_token_accuracy"].append(hits / max(supervised, 1))
            return (loss, outputs) if return_outputs else loss

        def log(self, logs: dict[str, float], *rest: Any) -> None:
            # TRL empties its running averages into whatever is logged next; ours are not those of training.
            (Trainer if "stcr_pair_accuracy" in logs else SFTTrainer).log(self, logs, *rest)

    return TemporalTrainer
