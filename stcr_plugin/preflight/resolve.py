"""The recipe as LLaMA-Factory will read it on the machines of the run, on any machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from stcr_plugin.errors import ConfigError
from stcr_plugin.frameworks.llamafactory.experiment import refuse_unknown_keys


@dataclass(frozen=True)
class Resolved:
    """LLaMA-Factory's own argument objects, and the DeepSpeed configuration with its `auto` values filled in.

    `deepspeed` is {} without DeepSpeed. The world of the run is `gpus` processes; `training` knows another one.
    """

    model: Any
    data: Any
    training: Any
    finetuning: Any
    gpus: int
    deepspeed: Mapping[str, Any]

    @property
    def zero(self) -> int:
        """The ZeRO stage, 0 without DeepSpeed."""
        return int((self.deepspeed.get("zero_optimization") or {}).get("stage", 0))


def resolve(args: Mapping[str, Any], gpus: int) -> Resolved:
    """`args`: a recipe without its `stcr:` block. Raises ConfigError for what LLaMA-Factory would refuse."""
    os.environ.setdefault("LLAMAFACTORY_VERBOSITY", "ERROR")  # its tables of settings hide the verdicts
    from llamafactory.hparams import parser
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    refuse_unknown_keys(args)
    with _on(gpus, distributed=gpus > 1 or bool(args.get("deepspeed"))):
        try:
            model, data, training, finetuning, _ = parser.get_train_args(dict(args))
            deepspeed = getattr(training, "hf_deepspeed_config", None)
            if deepspeed is not None and deepspeed.mismatches:
                raise ConfigError(
                    "deepspeed",
                    f"the DeepSpeed configuration and the recipe differ ({'; '.join(deepspeed.mismatches)})",
                    'set those values to "auto" there',
                )
        except (ValueError, TypeError, OSError, KeyError, ImportError, AssertionError) as error:
            raise ConfigError("the recipe", " ".join(str(error).split())) from None
        finally:
            unset_hf_deepspeed_config()  # else models built below would be made for ZeRO-3's processes
    return Resolved(
        model, data, training, finetuning=finetuning, gpus=gpus, deepspeed=dict(deepspeed.config) if deepspeed else {}
    )


@contextmanager
def _on(gpus: int, distributed: bool) -> Iterator[None]:
    """Let TrainingArguments see `gpus` processes with a GPU that has bf16 each, without starting any of them."""
    from unittest.mock import patch

    import torch
    from llamafactory.hparams import parser
    from transformers import TrainingArguments, training_args
    from transformers.training_args import ParallelMode

    def devices(self: Any) -> Any:
        self._n_gpu, self.distributed_state = 1, None
        return torch.device("cpu")

    seen: dict[str, Any] = {
        "_setup_devices": property(devices),
        "world_size": property(lambda _: gpus),
        "process_index": property(lambda _: 0),
        "local_process_index": property(lambda _: 0),
        "parallel_mode": property(lambda _: ParallelMode.DISTRIBUTED if distributed else ParallelMode.NOT_PARALLEL),
    }
    with (
        patch.multiple(TrainingArguments, **seen),
        patch.object(training_args, "is_torch_bf16_gpu_available", lambda: True),
        patch.object(parser, "is_torch_bf16_gpu_available", lambda: True),
        patch.object(parser.transformers, "set_seed", lambda seed: None),
    ):
        yield
