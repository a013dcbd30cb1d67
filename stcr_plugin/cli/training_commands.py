"""`stcr base`, `train`, `check` and `study`: make the embedded model, train stages and grids of them."""

from __future__ import annotations

import argparse
from pathlib import Path

from stcr_plugin.cli.options import (
    REGISTRY,
    Commands,
    Parser,
    command,
    registry_option,
    settings_from,
    settings_options,
)
from stcr_plugin.errors import ConfigError

_MACHINES = ("gpus", "gpu_memory", "throughput", "tflops", "mfu", "images", "samples")
_BACKENDS = {"llamafactory": "llamafactory.experiment", "trl": "trl.sft"}


def add_commands(commands: Commands) -> None:
    """Add the commands of this module."""
    group = commands.add_parser("base", help="build the embedded base").add_subparsers(required=True)
    command(
        group,
        "build",
        _base,
        help="build a tiny Qwen2.5-VL, and train it to prefer the later picture",
        options=_base_options,
    )
    command(commands, "train", _train, help="train one stage, with LLaMA-Factory or TRL", options=_train_options)
    command(
        commands,
        "check",
        _check,
        help="check a recipe, its model and its data before you pay for GPUs",
        options=_check_options,
    )
    command(
        commands, "study", _study, help="train and compare a grid of chains over several seeds", options=_study_options
    )


def _base_options(parser: Parser) -> None:
    parser.add_argument("config", help="base config, YAML")
    parser.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help="override keys of the config")
    registry_option(parser)


def _base(arguments: argparse.Namespace) -> None:
    from stcr_plugin.embedded.base import build
    from stcr_plugin.frameworks.llamafactory.experiment import train

    print(f"base: {build(arguments.config, arguments.overrides, str(arguments.registry), train=train)}")


def _recipe_options(parser: Parser) -> None:
    parser.add_argument("recipe", help="recipe, YAML, as for llamafactory-cli train")
    parser.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help="override keys of the recipe")
    parser.add_argument("--registry", type=Path, metavar="DIR", help=f"{REGISTRY} (default: the recipe's dataset_dir)")


def _recipe_overrides(arguments: argparse.Namespace) -> list[str]:
    """The overrides of a recipe, in which --registry is `dataset_dir`."""
    if arguments.registry is None:
        return list(arguments.overrides)
    if any(text.startswith("dataset_dir=") for text in arguments.overrides):
        raise ConfigError("", "--registry and dataset_dir= exclude each other")
    return [*arguments.overrides, f"dataset_dir={arguments.registry}"]


def _train_options(parser: Parser) -> None:
    _recipe_options(parser)
    parser.add_argument(
        "--backend",
        choices=list(_BACKENDS),
        default="llamafactory",
        help="the trainer: LLaMA-Factory's (default) or TRL's, with the same samples and losses; grpo needs TRL's",
    )


def _train(arguments: argparse.Namespace) -> None:
    from importlib import import_module

    backend = import_module(f"stcr_plugin.frameworks.{_BACKENDS[arguments.backend]}")
    backend.train(arguments.recipe, _recipe_overrides(arguments))


def _check_options(parser: Parser) -> None:
    from stcr_plugin.preflight.plan import Asked

    _recipe_options(parser)
    settings_options(parser, Asked, _MACHINES)
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file for the verdicts and their figures")
    parser.add_argument("--strict", action="store_true", help="fail on warnings too (exit code 1)")


def _check(arguments: argparse.Namespace) -> int:
    from stcr_plugin.artefacts import write_json
    from stcr_plugin.preflight.checks import preflight
    from stcr_plugin.preflight.plan import Asked
    from stcr_plugin.report.preflight_words import text

    report = preflight(arguments.recipe, _recipe_overrides(arguments), settings_from(Asked, arguments, _MACHINES))
    print(text(report.recipe, report.verdicts))
    if arguments.out:
        write_json(arguments.out, report.row())
    return 0 if report.passes(arguments.strict) else 1


def _study_options(parser: Parser) -> None:
    parser.add_argument("config", help="study config, YAML, such as recipes/studies/ablation.yaml")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="KEY=VALUE", help="override keys of the config, such as 'seeds=[5]'"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the results (default: runs/studies/NAME)")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="commands to run at once, sharing the cores (default: 1)"
    )


def _study(arguments: argparse.Namespace) -> None:
    from stcr_plugin.config import load
    from stcr_plugin.study.runner import run_study
    from stcr_plugin.study.study_config import StudyConfig

    config = load(StudyConfig, arguments.config, arguments.overrides)
    print(f"study: {run_study(config, arguments.out or Path('runs', 'studies', config.name), arguments.jobs)}")
