"""One stage through LLaMA-Factory: prepare what is missing, check the chain, train, and keep the record."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from stcr_plugin.config import nearest
from stcr_plugin.errors import ConfigError, StcrError
from stcr_plugin.frameworks.launch import under_torchrun
from stcr_plugin.frameworks.recipe import Recipe, read_recipe
from stcr_plugin.frameworks.stage_run import Train, run_stage
from stcr_plugin.logits import IGNORE

RunExp = Callable[..., None]

KNOWN_VERSIONS = ("0.9.4", "0.9.5")


def wrap_run_exp(tuner: Any) -> None:
    """Give LLaMA-Factory's `run_exp` the `stcr:` block; a recipe without one runs as without the plugin."""
    from llamafactory.extras.env import VERSION

    original: RunExp | None = getattr(tuner, "run_exp", None)
    found = list(inspect.signature(original).parameters) if original else None
    if VERSION not in KNOWN_VERSIONS or found != ["args", "callbacks"]:
        warnings.warn(
            f"stcr_plugin knows LLaMA-Factory {', '.join(KNOWN_VERSIONS)} and found {VERSION} with "
            f"run_exp({', '.join(found) if found else 'missing'}); STCR_AUTOLOAD=0 switches the plugin off",
            stacklevel=2,
        )
    if original is None:
        return

    @functools.wraps(original)
    def run_exp(args: Any = None, callbacks: Any = None) -> None:
        from llamafactory.hparams import read_args

        args = read_args(args)
        if not isinstance(args, dict) or "stcr" not in args:
            return original(args, callbacks)
        try:
            refuse_unknown_keys(args)
            if _on_ray():
                return original(args, callbacks)
            run_stage(Recipe.of(args), callbacks, through(original))
        except StcrError as error:
            raise SystemExit(f"stcr: {error}") from None

    tuner.run_exp = run_exp
    _wrap_ray_worker(tuner)


def _on_ray() -> bool:
    from llamafactory.extras.misc import use_ray

    return bool(use_ray())


def _wrap_ray_worker(tuner: Any) -> None:
    """Have each of Ray's workers run the stage, as each rank of torchrun does.

    A worker is a process that gets the whole recipe and calls `_training_function` (0.9.5). The start-up hook wraps it
    there, so the plugin must be installed on every machine.
    """
    original = getattr(tuner, "_training_function", None)
    if original is None or not _on_ray():
        return

    @functools.wraps(original)
    def training_function(config: dict[str, Any]) -> None:
        args = config["args"]
        if not isinstance(args, dict) or "stcr" not in args:
            original(config)
            return
        train = through(lambda args, callbacks: original({"args": args, "callbacks": callbacks}))
        run_stage(Recipe.of(args), config["callbacks"], train)

    tuner._training_function = training_function


def train(recipe: str, overrides: Sequence[str] = ()) -> None:
    """`stcr train`: the same stage through LLaMA-Factory's own functions, without the start-up hook."""
    args = read_recipe(recipe, overrides)
    if _needs_torchrun():
        from llamafactory.extras.misc import get_device_count

        under_torchrun(recipe, overrides, max(1, get_device_count()))
        return
    from llamafactory.data import template
    from llamafactory.train import tuner

    from stcr_plugin.frameworks.llamafactory.template import register

    register(template)
    refuse_unknown_keys(args)
    if _on_ray():
        if not hasattr(tuner.run_exp, "__wrapped__"):
            raise ConfigError("USE_RAY", "Ray's workers need the start-up hook", "remove STCR_AUTOLOAD=0")
        tuner.run_exp(args)
        return
    run_exp = getattr(tuner.run_exp, "__wrapped__", tuner.run_exp)
    run_stage(Recipe.of(args), None, through(run_exp))


def refuse_unknown_keys(args: Mapping[str, Any]) -> None:
    """Raises ConfigError with the nearest match, which LLaMA-Factory's own error lacks."""
    from llamafactory.hparams import parser

    known = [field.name for kind in parser._TRAIN_ARGS for field in dataclasses.fields(kind) if field.init]
    if unknown := [f"unknown key {key!r}, {nearest(key, known)}" for key in args if key not in (*known, "stcr")]:
        raise ConfigError("the recipe", "; ".join(unknown))


def _needs_torchrun() -> bool:
    """As `llamafactory-cli train` decides; a process that torchrun has started is a rank already."""
    from llamafactory.extras.misc import get_device_count, is_env_enabled

    several = get_device_count() > 1 and not _on_ray()
    return "LOCAL_RANK" not in os.environ and (is_env_enabled("FORCE_TORCHRUN") or several)


def processes(recipe: Mapping[str, Any]) -> int:
    """How many processes `train` trains a recipe in, on all machines; each takes its own batch at every step."""
    from llamafactory.extras.misc import get_device_count

    if _needs_torchrun():
        return int(os.environ.get("NPROC_PER_NODE") or max(1, get_device_count())) * int(os.environ.get("NNODES") or 1)
    return int(recipe.get("ray_num_workers") or 1) if _on_ray() else 1


def through(run_exp: RunExp) -> Train:
    """`run_exp`, with a template that knows the run's settings."""

    def train(args: dict[str, Any], callbacks: list[Any]) -> None:
        from stcr_plugin.frameworks.batches import BatchWatch

        _set_template(args, next((one.bad for one in callbacks if isinstance(one, BatchWatch)), "error"))
        with _short_example():
            run_exp(args, callbacks)

    return train


@contextmanager
def _short_example() -> Iterator[None]:
    """LLaMA-Factory prints the answers of a training example, instead of all its token ids and picture tokens."""
    from llamafactory.data.processor.pairwise import PairwiseDatasetProcessor
    from llamafactory.data.processor.supervised import SupervisedDatasetProcessor

    def print_answers(self: Any, example: Mapping[str, Any]) -> None:
        for name, labels in example.items():
            if name.endswith("labels"):
                answer = self.tokenizer.decode([label for label in labels if label != IGNORE])
                print(f"{name.removesuffix('labels').replace('_', ': ')}{answer}")

    with (
        patch.object(SupervisedDatasetProcessor, "print_data_example", print_answers),
        patch.object(PairwiseDatasetProcessor, "print_data_example", print_answers),
    ):
        yield


def _set_template(args: Mapping[str, Any], bad_pictures: str = "error") -> None:
    """Give the template the run's settings. As instance attributes they reach every worker."""
    from llamafactory.data.template import TEMPLATES as REGISTERED

    template = REGISTERED[args["template"]]
    template.cutoff_len = args.get("cutoff_len", 2048)
    template.mm_plugin.media_dir = str(args.get("media_dir") or args["dataset_dir"])
    template.mm_plugin.bad_pictures = bad_pictures
