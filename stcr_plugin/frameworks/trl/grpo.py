"""One stage of GRPO (DeepSeekMath, arXiv 2402.03300) through TRL's trainer: a group is one pair, asked in both orders.

A reward adds up what `scoring.pair_rewards` says of an answer, and an advantage is a reward minus the mean of its
group, divided by the group's deviation. So a model that names the second picture in both orders learns from the pair,
even where all its answers to one order are the same.

TRL 0.24 leaves out `mm_token_type_ids`, by which transformers 5 finds the positions of picture tokens: its own trainer
raises with a reference model, and trains on wrong positions without one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from stcr_plugin.engines.picture_loading import fit
from stcr_plugin.engines.prompts import conversation, end_of_turn, written
from stcr_plugin.errors import ConfigError
from stcr_plugin.frameworks.images import decoded
from stcr_plugin.frameworks.numbering import too_long
from stcr_plugin.frameworks.recipe import Recipe
from stcr_plugin.frameworks.stage_record import Record
from stcr_plugin.frameworks.trl.asked_pairs import AskedPairs, asked_pairs
from stcr_plugin.frameworks.trl.keys import Keys, grpo_config, sorted_keys
from stcr_plugin.frameworks.trl.model_loading import load_model
from stcr_plugin.frameworks.trl.trainer_runs import checked_processor, finish
from stcr_plugin.scoring.pair_rewards import PARTS
from stcr_plugin.types import Response

TRIED = "0.24."


def through_grpo(recipe: Recipe) -> Callable[[dict[str, Any], list[Any]], None]:
    """The training of `recipe`'s stage, as `stage_run.run_stage` wants it."""

    def train(args: dict[str, Any], callbacks: list[Any]) -> None:
        from datasets import Dataset
        from transformers import set_seed

        keys = sorted_keys(args)
        assert keys.grpo is not None
        _refuse(keys)
        config = grpo_config(keys)
        processor = checked_processor(keys)
        asked = asked_pairs(recipe, keys.data.max_samples)
        for record in (one for one in callbacks if isinstance(one, Record)):
            record.rewarded(asked.parts, asked.unknown)
        set_seed(config.seed)
        trainer = trainer_class()(
            asked,
            keys.data.cutoff_len,
            model=load_model(keys.model),
            args=config,
            train_dataset=Dataset.from_list(asked.rows),
            processing_class=processor,
            callbacks=callbacks,
        )
        finish(trainer, config)

    return train


def _refuse(keys: Keys) -> None:
    """Raises ConfigError for another TRL, and for what would not be done as the recipe says."""
    from transformers.integrations import is_deepspeed_zero3_enabled

    if not version("trl").startswith(TRIED):
        what = f"grpo needs TRL {TRIED}*, and {version('trl')} is installed"
        raise ConfigError("stage", what, "pip install 'trl==0.24.*', or train another stage")
    if is_deepspeed_zero3_enabled():
        raise ConfigError("deepspeed", "ZeRO-3 was not tried with stage: grpo", "use ZeRO-2, or no DeepSpeed")
    if keys.data.eval_sets or keys.data.val_size:
        key = "eval_dataset" if keys.data.eval_sets else "val_size"
        raise ConfigError(key, "is not read by stage: grpo", "remove it; stcr.evaluate measures on pairs of its split")


def trainer_class() -> Any:
    """The trainer. TRL's is imported here, which takes seconds."""
    import torch

    importable()
    from transformers import Trainer
    from trl import GRPOTrainer
    from trl.trainer.utils import RepeatSampler

    class Pairs(RepeatSampler):  # type: ignore[misc]
        """Each epoch's order depends on the seed and the epoch alone, so a resumed stage sees the same pairs."""

        def set_epoch(self, epoch: int) -> None:
            if self.shuffle:
                self.generator.manual_seed(self.seed + epoch)

    class PairTrainer(GRPOTrainer):  # type: ignore[misc]
        """GRPOTrainer whose groups are pairs in both orders, and whose model is told which tokens are pictures.

        Args:
            asked: What is asked; row number k of a group shows the order `asked.prompt` gives for place k.
            cutoff_len: A longer prompt raises DataError.
        """

        def __init__(self, asked: AskedPairs, cutoff_len: int, *, args: Any, model: Any, **given: Any) -> None:
            self.asked, self.cutoff_len = asked, cutoff_len
            beta, args.beta = args.beta, 0.0  # TRL would read the reference from the disk, without the adapters below
            model.warnings_issued = {}  # which TRL writes into, and transformers 5 has no more
            super().__init__(model, [PARTS[name] for name in asked.parts], args=args, **given)
            self.beta = args.beta = beta
            if beta and not hasattr(model, "disable_adapter"):
                reference = copy.deepcopy(model).requires_grad_(False)
                self.ref_model = self.accelerator.prepare_model(reference, evaluation_mode=True).eval()
            self.data_collator = _together
            tokenizer = self.processing_class.tokenizer
            self.stops = {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(end_of_turn(tokenizer))}

        def _get_train_sampler(self, dataset: Any = None) -> Any:
            theirs = super()._get_train_sampler(dataset)
            names = ("data_source", "mini_repeat_count", "batch_size", "repeat_count", "shuffle", "seed")
            return Pairs(**{name: getattr(theirs, name) for name in names})

        def _prepare_inputs(self, batch: Any) -> Any:
            return super()._prepare_inputs([self._row(row, place) for place, row in enumerate(batch["rows"])])

        def _row(self, row: dict[str, Any], place: int) -> dict[str, Any]:
            """A row of a group as it is asked, at its place: groups have an even size, so orders take turns."""
            query, prompt = self.asked.prompt(row["pair"], place)
            shown = row["images"] if query.order == "forward" else row["images"][::-1]
            text = conversation(self.processing_class, prompt)
            return {"prompt": text, "images": shown, "query": query, "asked": prompt}

        def _generate_single_turn(self, prompts: list[str], images: Any) -> Any:
            """Sampled answers: (tokens of each prompt, of each answer with its end of turn, None, pictures)."""
            pixels = self.asked.ask.pixels
            shown = [fit(decoded(image, self.asked.media), *pixels) for of_prompt in images for image in of_prompt]
            inputs = self.processing_class(
                text=prompts, images=shown, padding=True, padding_side="left", return_tensors="pt"
            ).to(self.accelerator.device)
            lengths = inputs["attention_mask"].sum(1).tolist()
            if max(lengths) > self.cutoff_len:
                raise too_long(max(lengths), self.cutoff_len, prompts[lengths.index(max(lengths))])
            config = self.processing_class
            model = self.accelerator.unwrap_model(self.model_wrapped)
            with torch.no_grad(), _asleep(model):
                tokens = model.generate(
                    **inputs,
                    max_new_tokens=self.max_completion_length,
                    do_sample=True,
                    temperature=self.temperature,
                    top_k=0,
                    top_p=1.0,
                    repetition_penalty=1.0,  # a checkpoint's own settings are not those of the loss
                    use_cache=True,
                    eos_token_id=sorted(self.stops),
                    pad_token_id=self.pad_token_id,
                    suppress_tokens=[config.image_token_id, config.video_token_id],  # would need pixels
                )
            width = inputs["input_ids"].shape[1]
            answers = [self._ended(row) for row in tokens[:, width:].tolist()]
            rows = zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True)
            asked = [ids[kept].tolist() for ids, kept in rows]
            return asked, answers, None, {key: inputs[key] for key in ("pixel_values", "image_grid_thw")}

        def _ended(self, row: list[int]) -> list[int]:
            ends = [place for place, token in enumerate(row) if token in self.stops]
            return row[: ends[0] + 1] if ends else row

        def _get_per_token_logps_and_entropies(
            self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, *more: Any, **named: Any
        ) -> Any:
            def with_types(**inputs: Any) -> Any:
                types = (inputs["input_ids"] == self.processing_class.image_token_id).int()
                return model(**inputs, mm_token_type_ids=types)

            return super()._get_per_token_logps_and_entropies(
                with_types, input_ids, attention_mask, logits_to_keep, *more, **named
            )

        def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
            asked = [one["asked"] for one in inputs]
            texts = written(self.processing_class, asked, completion_ids_list)
            scored = [
                self.asked.scored(one["query"], one["asked"], Response(text, lost="" if self._stops(ids) else "cut"))
                for one, text, ids in zip(inputs, texts, completion_ids_list, strict=True)
            ]
            parts = [[float("nan") if value is None else value for value in part(scored)] for part in self.reward_funcs]
            return self.accelerator.gather(torch.tensor(parts, device=self.accelerator.device).T.contiguous())

        def _stops(self, ids: list[int]) -> bool:
            return bool(ids) and ids[-1] in self.stops

        def log(self, logs: dict[str, float], *rest: Any) -> None:
            # TRL empties its running averages into whatever is logged next; ours are not those of training.
            (Trainer if "stcr_pair_accuracy" in logs else GRPOTrainer).log(self, logs, *rest)

    return PairTrainer


def _together(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"rows": list(rows)}


@contextmanager
def _asleep(model: Any) -> Iterator[None]:
    """`model` in eval mode, so that a cache is used and nothing dropped; each module's own mode comes back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def importable() -> None:
    """Make TRL's trainers importable.

    TRL 0.24 takes the pair (found, version) that transformers 5 gives for a yes, and imports
    what is not there.
    """
    import trl.import_utils as known

    for name, value in vars(known).copy().items():
        if name.endswith("_available") and isinstance(value, tuple):
            setattr(known, name, value[0])
