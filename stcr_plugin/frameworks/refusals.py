"""What is refused before anything is trained, each with its mend."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.config import nearest
from stcr_plugin.errors import ChainError, ConfigError
from stcr_plugin.frameworks.numbering import TEMPLATES
from stcr_plugin.records import read_record

_DEAF = "trainer does not call the plugin's callbacks"
# Switch -> why it is refused: LLaMA-Factory's other trainers, and what it or transformers take without a word and get
# wrong for these models.
REFUSED = {
    "use_mca": f"Megatron-Core's {_DEAF}",
    "use_hyper_parallel": f"HyperParallel's {_DEAF}",
    "use_megatron_bridge": f"Megatron-Bridge's {_DEAF}",
    "predict_with_generate": "LLaMA-Factory then leaves the places of the pictures out of every batch, of training "
    "too; `stcr eval` generates",
    "label_smoothing_factor": "transformers does not shift the labels of a vision-language model for it, so the model "
    "would learn to copy its input",
    "use_asft_loss": "its reference model is not shown the pictures",
}
_V1 = "USE_V1 is set: the plugin works with LLaMA-Factory's stable trainer; unset USE_V1"
# What takes rows out of the order that a curriculum has: setting -> (is it so, given its value), the mend.
_MIXING: dict[str, tuple[Callable[[Any], bool], str]] = {
    "disable_shuffling": (lambda value: not value, "set disable_shuffling: true"),
    "streaming": (bool, "set streaming: false (streaming shuffles a buffer)"),
    "val_size": (lambda value: float(value or 0) > 0, "remove val_size (it splits at random)"),
    "packing": (bool, "set packing: false (it sorts by length)"),
    "neat_packing": (bool, "set neat_packing: false (it packs)"),
}
# Any of these in a folder is the work of some training.
_TRAINED = ("*.safetensors", "pytorch_model*.bin", "adapter_model*.bin", "checkpoint-*")


def refuse_v1(arg_parser: Any) -> None:
    """Make LLaMA-Factory's v1 refuse a recipe with a `stcr:` block in our words; others it reads as ever."""
    if not hasattr(arg_parser, "HfArgumentParser"):
        return  # another version, which refuses the block in its own words

    class Parser(arg_parser.HfArgumentParser):  # type: ignore[misc]
        def parse_dict(self, args: dict[str, Any], *more: Any, **options: Any) -> Any:
            if "stcr" in args:
                raise SystemExit(f"stcr: {_V1}")
            return super().parse_dict(args, *more, **options)

    arg_parser.HfArgumentParser = Parser


def refuse_what_cannot_work(args: Mapping[str, Any]) -> None:
    """Raises ConfigError for a trainer, a stage or a template that the plugin does not work with, or a missing key."""
    if os.environ.get("USE_V1", "0").lower() in ("1", "true", "y"):
        raise ConfigError(_V1)
    for switch, why in REFUSED.items():
        if args.get(switch):
            raise ConfigError(f"{switch}: {why}; remove {switch} from the recipe")
    if not args.get("do_train"):
        raise ConfigError("do_train: is not true, so nothing would be trained; set do_train: true")
    if args.get("stage") != "sft":
        raise ConfigError(f"stage: {args.get('stage')!r}, but both STCR stages are supervised; set stage: sft")
    for key in ("model_name_or_path", "dataset", "output_dir", "template"):
        if not args.get(key):
            raise ConfigError(f"the recipe has no {key}; add it")
    if args["template"] not in TEMPLATES:
        raise ConfigError(
            f"template: {args['template']!r} does not number its pictures; {nearest(args['template'], list(TEMPLATES))}"
        )
    if args.get("crop_to_patches"):
        raise ConfigError(
            "crop_to_patches: true cuts a picture into up to 13 tiles, which evaluation does not; remove it"
        )


def refuse_more_than_the_answer(args: Mapping[str, Any]) -> None:
    """Raises ConfigError for what would put the loss on other tokens than a sample's answer, or mix two samples."""
    refused = {
        "train_on_prompt": (args.get("train_on_prompt"), "the loss would be on the question and on picture tokens too"),
        "ignore_pad_token_for_loss": (
            args.get("ignore_pad_token_for_loss") is False,
            "the loss would be on the padding too",
        ),
        "packing": (
            args.get("packing") and not args.get("neat_packing"),
            "the samples of a pack would see each other, unless neat_packing: true keeps them apart",
        ),
    }
    for key, (is_so, why) in refused.items():
        if is_so:
            raise ConfigError(f"{key}: {args[key]}, but {why}; remove {key} from the recipe")


def refuse_to_stream_in_vain(args: Mapping[str, Any]) -> None:
    """Raises ConfigError where `streaming` lacks a setting without which LLaMA-Factory dies, or trains on nothing.

    Rows that are streamed are dealt to dataloader workers, so there must be one; batches are of different sizes, so
    accelerate cannot dispatch parts of one; and their number is unknown, so the steps must be told.
    """
    if not args.get("streaming"):
        return
    dispatch = _accelerator_config(args).get("dispatch_batches")
    lacks = [
        lack
        for lack, there in (
            ("dataloader_num_workers: 1 (or more)", int(args.get("dataloader_num_workers") or 0) >= 1),
            ("accelerator_config: {dispatch_batches: false}", dispatch is False),
            ("max_steps", int(args.get("max_steps") or 0) > 0),
        )
        if not there
    ]
    if lacks:
        raise ConfigError(f"streaming: true lacks {', '.join(lacks)}; add it to the recipe, or set streaming: false")


def refuse_to_mix_a_curriculum(args: Mapping[str, Any], dataset: str, rule: Mapping[str, Any]) -> None:
    """Raises ConfigError where `dataset` was built by `rule` in an order that this run would not keep."""
    mends = [mend for key, (mixes, mend) in _MIXING.items() if mixes(args.get(key))]
    if rule.get("curriculum") and mends:
        raise ConfigError(
            f"dataset: {dataset} is a curriculum, whose rows stand in an order of difficulty, and this run would mix "
            f"them; {', '.join(mends)}, or build the dataset without `curriculum`"
        )


def _accelerator_config(args: Mapping[str, Any]) -> Mapping[str, Any]:
    """As transformers takes it: a mapping, its JSON, or the path of a file with its JSON."""
    value = args.get("accelerator_config") or {}
    if isinstance(value, str):
        value = json.loads(value) if value.lstrip().startswith("{") else artefacts.read_json(value)
    return value if isinstance(value, Mapping) else {}


def refuse_to_overwrite(args: Mapping[str, Any]) -> None:
    """Raises ChainError for an output_dir that holds a finished stage, or a model that is no stage's.

    LLaMA-Factory refuses weights too, but only when our record in their folder would read as that of a killed stage.
    """
    run = Path(args["output_dir"])
    record = read_record(run)
    mend = "set overwrite_output_dir: true to train it anew, or another output_dir"
    if args.get("overwrite_output_dir"):
        return
    if record is None and not args.get("resume_from_checkpoint") and any(list(run.glob(name)) for name in _TRAINED):
        raise ChainError(f"{run}: holds a model or checkpoints, but no stage.json tells of their training; {mend}")
    if record and record.get("finished"):
        raise ChainError(f"{run}: holds the finished stage {record.get('name')!r}; {mend}")
