"""What is refused before anything is trained, each with its mend."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stcr_plugin.config import nearest
from stcr_plugin.errors import ChainError, ConfigError
from stcr_plugin.frameworks.llamafactory.template import TEMPLATES
from stcr_plugin.frameworks.stage import read_record

# LLaMA-Factory's other trainers do not run the callbacks that the plugin needs: switch -> why it is refused.
REFUSED = {
    "use_mca": "Megatron-Core's trainer",
    "use_hyper_parallel": "HyperParallel's trainer",
    "use_megatron_bridge": "Megatron-Bridge's trainer",
}
_V1 = "USE_V1 is set: the plugin works with LLaMA-Factory's stable trainer; unset USE_V1"
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
    for switch, what in REFUSED.items():
        if args.get(switch):
            raise ConfigError(f"{switch}: {what} does not call the plugin's callbacks; remove {switch} from the recipe")
    if args.get("stage") != "sft":
        raise ConfigError(f"stage: {args.get('stage')!r}, but both STCR stages are supervised; set stage: sft")
    for key in ("model_name_or_path", "dataset", "output_dir", "template"):
        if not args.get(key):
            raise ConfigError(f"the recipe has no {key}; add it")
    if args["template"] not in TEMPLATES:
        raise ConfigError(
            f"template: {args['template']!r} does not number its pictures; {nearest(args['template'], list(TEMPLATES))}"
        )


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
