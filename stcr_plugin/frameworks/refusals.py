"""Recipes that are refused before anything is trained, each with its fix."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from stcr_plugin import artefacts, records
from stcr_plugin.config import nearest
from stcr_plugin.errors import ChainError, ConfigError, DataError
from stcr_plugin.frameworks.numbering import TEMPLATES
from stcr_plugin.frameworks.recipe import Recipe

_NO_CALLBACKS = "trainer does not call the plugin's callbacks"
# Switch -> why it is refused: LLaMA-Factory's other trainers, and settings that it or transformers accept silently and
# get wrong for these models.
REFUSED = {
    "use_mca": f"Megatron-Core's {_NO_CALLBACKS}",
    "use_hyper_parallel": f"HyperParallel's {_NO_CALLBACKS}",
    "use_megatron_bridge": f"Megatron-Bridge's {_NO_CALLBACKS}",
    "predict_with_generate": "LLaMA-Factory then leaves the positions of the pictures out of every batch, of training "
    "too; `stcr eval` generates",
    "label_smoothing_factor": "transformers does not shift the labels of a vision-language model for it, so the model "
    "would learn to copy its input",
    "use_asft_loss": "its reference model is not shown the pictures",
}
# Stage of LLaMA-Factory or TRL -> why it is refused.
_STAGES = {
    "kto": "kto: LLaMA-Factory leaves the pictures' positions out of it, and transformers 5 then takes wrong ones",
    "grpo": "grpo: LLaMA-Factory has no trainer for it, and `stcr check` does not know it",
}
# Losses that LLaMA-Factory takes, and for which it computes sigmoid without a word.
_SIGMOID = ("hinge", "ipo", "kto_pair")
# Settings that put the loss on other tokens than a sample's answer, or mix two samples: key -> (is it so, why not).
_MORE_THAN_THE_ANSWER: dict[str, tuple[Callable[[Mapping[str, Any]], Any], str]] = {
    "train_on_prompt": (
        lambda keys: keys.get("train_on_prompt"),
        "the loss would be on the question and on picture tokens too",
    ),
    "ignore_pad_token_for_loss": (
        lambda keys: keys.get("ignore_pad_token_for_loss") is False,
        "the loss would be on the padding too",
    ),
    "packing": (
        lambda keys: keys.get("packing") and not keys.get("neat_packing"),
        "the samples of a pack would see each other, unless neat_packing: true keeps them apart",
    ),
}
# Settings that change the order of rows, which a curriculum needs: setting -> (does it, given its value; the fix).
_MIXING: dict[str, tuple[Callable[[Any], bool], str]] = {
    "disable_shuffling": (lambda value: not value, "set disable_shuffling: true"),
    "streaming": (bool, "set streaming: false (streaming shuffles a buffer)"),
    "val_size": (lambda value: float(value or 0) > 0, "remove val_size (it splits at random)"),
    "packing": (bool, "set packing: false (it sorts by length)"),
    "neat_packing": (bool, "set neat_packing: false (it packs)"),
}
# Any of these in a folder was left by a training.
_TRAINED = ("*.safetensors", "pytorch_model*.bin", "adapter_model*.bin", "checkpoint-*")


def _v1() -> ConfigError:
    return ConfigError("USE_V1", "is set, and the plugin works with LLaMA-Factory's stable trainer", "unset USE_V1")


def refuse_v1(arg_parser: Any) -> None:
    """Make LLaMA-Factory's v1 refuse a recipe with a `stcr:` block in our words; it reads others as before."""
    if not hasattr(arg_parser, "HfArgumentParser"):
        return  # another version, which refuses the block in its own words

    class Parser(arg_parser.HfArgumentParser):  # type: ignore[misc]
        def parse_dict(self, args: dict[str, Any], *more: Any, **options: Any) -> Any:
            if "stcr" in args:
                raise SystemExit(f"stcr: {_v1()}")
            return super().parse_dict(args, *more, **options)

    arg_parser.HfArgumentParser = Parser


def refuse_what_cannot_work(recipe: Recipe, backend: str = "llamafactory") -> None:
    """Raises ConfigError for a trainer, stage or template that the plugin does not work with, or a missing key."""
    keys = recipe.keys
    if os.environ.get("USE_V1", "0").lower() in ("1", "true", "y"):
        raise _v1()
    for switch, why in REFUSED.items():
        if keys.get(switch):
            raise ConfigError(switch, why, f"remove {switch} from the recipe")
    if not keys.get("do_train"):
        raise ConfigError("do_train", "is not true, so nothing would be trained", "set do_train: true")
    _refuse_stage(recipe, backend)
    for key in ("model_name_or_path", "dataset", "output_dir", "template"):
        if not keys.get(key):
            raise ConfigError("the recipe", f"has no {key}", "add it")
    if recipe.template not in TEMPLATES:
        near = nearest(recipe.template, list(TEMPLATES))
        raise ConfigError("template", f"{recipe.template!r} does not number its pictures", near)
    for key in ("save_strategy", "logging_strategy"):
        if isinstance(keys.get(key), bool):
            raise ConfigError(key, "no and off are read as false by YAML", f'write {key}: "no"')
    if keys.get("crop_to_patches"):
        what = "true cuts a picture into up to 13 tiles, which evaluation does not"
        raise ConfigError("crop_to_patches", what, "remove it")


def _refuse_stage(recipe: Recipe, backend: str) -> None:
    stage, loss = recipe.keys.get("stage"), recipe.keys.get("pref_loss")
    samples = recipe.samples_answers
    if stage != "sft" and not recipe.prefers and not (samples and backend == "trl"):
        other = f"{stage!r}, but STCR's stages are supervised, or train on ranking rows"
        fix = "train with --backend trl" if samples else "set stage: sft, or dpo for ranking rows"
        raise ConfigError("stage", _STAGES.get(str(stage), other), fix)
    if samples and recipe.settings.mask == "authors":
        what = "authors is the mask of supervised samples, and stage: grpo has none"
        raise ConfigError("stcr.mask", what, "remove it from the recipe of stage: grpo")
    if recipe.prefers and loss in _SIGMOID:
        what = f"{loss}, for which LLaMA-Factory computes the sigmoid loss without a word"
        raise ConfigError("pref_loss", what, "set pref_loss: sigmoid, or orpo or simpo, which need no reference")
    if recipe.prefers and recipe.settings.mask == "authors":
        what = "authors is the mask of supervised samples, and a ranking row has two answers"
        raise ConfigError("stcr.mask", what, "remove it from the recipe of stage: dpo")


def refuse_trl(recipe: Recipe) -> None:
    """Raises ConfigError for a stage that TRL's own trainer would get wrong (seen in 0.24)."""
    if recipe.prefers:
        raise ConfigError(
            "stage",
            "dpo: TRL's DPOTrainer keeps one row of a sample's patches and drops image_grid_thw, so no picture is seen",
            "train with --backend llamafactory",
        )


def refuse_other_rows(recipe: Recipe) -> None:
    """Raises ConfigError where a training set has ranking rows and the stage is supervised, or the other way round."""
    from stcr_plugin.registry.manifest import listed

    known = listed(recipe.registry)
    for dataset in recipe.datasets:
        entry = known.get(dataset)
        if not isinstance(entry, dict) or bool(entry.get("ranking")) == recipe.prefers:
            continue
        answers, fix = "one answer", "name a dataset of kind: prefer"
        if entry.get("ranking"):
            answers, fix = "two answers", "set stage: dpo, as in recipes/stage3_prefer.yaml"
        what = f"{dataset} has {answers} to each question, which stage: {recipe.keys.get('stage')} cannot train on"
        raise ConfigError("dataset", what, fix)


def refuse_more_than_the_answer(recipe: Recipe) -> None:
    """Raises ConfigError for a loss on other tokens than a sample's answer, or samples that see each other."""
    for key, (holds, why) in _MORE_THAN_THE_ANSWER.items():
        if holds(recipe.keys):
            raise ConfigError(key, f"{recipe.keys[key]}, but {why}", f"remove {key} from the recipe")


def refuse_broken_streaming(recipe: Recipe) -> None:
    """Raises ConfigError where `streaming` lacks a setting without which LLaMA-Factory fails, or trains on nothing.

    Streamed rows are dealt to dataloader workers, so there must be one; batches have different sizes, so accelerate
    cannot dispatch parts of one; and their number is unknown, so the steps must be given.
    """
    keys = recipe.keys
    if not keys.get("streaming"):
        return
    needs = {
        "dataloader_num_workers: 1 (or more)": int(keys.get("dataloader_num_workers") or 0) >= 1,
        "accelerator_config: {dispatch_batches: false}": _accelerator_config(keys).get("dispatch_batches") is False,
        "max_steps": int(keys.get("max_steps") or 0) > 0,
    }
    if lacks := [need for need, there in needs.items() if not there]:
        raise ConfigError(
            "streaming", f"true lacks {', '.join(lacks)}", "add it to the recipe, or set streaming: false"
        )


def refuse_to_mix_a_curriculum(recipe: Recipe, dataset: str, rule: Mapping[str, Any]) -> None:
    """Raises ConfigError where `dataset` was built by `rule` in an order that this run would not keep."""
    fixes = [fix for key, (mixes, fix) in _MIXING.items() if mixes(recipe.keys.get(key))]
    if rule.get("curriculum") and fixes:
        raise ConfigError(
            "dataset",
            f"{dataset} is a curriculum, whose rows are ordered by difficulty, and this run would mix them",
            f"{', '.join(fixes)}, or build the dataset without `curriculum`",
        )


def refuse_pictures_elsewhere(recipe: Recipe, dataset: str) -> None:
    """Raises DataError where the pictures of a training set lie outside media_dir, such as behind a link.

    LLaMA-Factory would read them; the TRL backend, the measurements and `stcr data check` do not.
    """
    from stcr_plugin.registry.manifest import dataset_rows

    row = next(iter(dataset_rows(recipe.registry, dataset)), {})
    for name in row.get("images") or ():
        try:
            artefacts.inside(recipe.media_dir, name)
        except DataError as error:
            raise DataError(f"{dataset}, row 1", str(error), "or set media_dir to the folder that holds it") from None


def _accelerator_config(keys: Mapping[str, Any]) -> Mapping[str, Any]:
    """As transformers takes it: a mapping, its JSON, or the path of a file with its JSON."""
    value = keys.get("accelerator_config") or {}
    if isinstance(value, str):
        value = json.loads(value) if value.lstrip().startswith("{") else artefacts.read_json(value)
    return value if isinstance(value, Mapping) else {}


def refuse_to_overwrite(recipe: Recipe) -> None:
    """Raises ChainError for an output_dir with a finished stage, or a model that no stage made.

    LLaMA-Factory refuses weights too, but only when our record in their folder would read as that of a killed stage.
    """
    if recipe.overwrites:
        return
    run, fix = recipe.output_dir, "set overwrite_output_dir: true to train it again, or another output_dir"
    record = records.read(run)
    resumes = recipe.keys.get("resume_from_checkpoint")
    if record is None and not resumes and any(any(run.glob(name)) for name in _TRAINED):
        raise ChainError(run, "holds a model or checkpoints, but no stage.json of their training", fix)
    if record and record.finished:
        raise ChainError(run, f"holds the finished stage {record.name!r}", fix)
