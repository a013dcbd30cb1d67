"""`stcr base`, `train`, `check` and `study`."""

from __future__ import annotations

import argparse
from pathlib import Path

from stcr_plugin.cli.options import REGISTRY, Commands, command


def _base_build(arguments: argparse.Namespace) -> None:
    from stcr_plugin.embedded.base import build
    from stcr_plugin.frameworks.llamafactory.experiment import train

    print(f"base: {build(arguments.config, arguments.overrides, str(arguments.registry), train)}")


def _train(arguments: argparse.Namespace) -> None:
    from importlib import import_module

    backends = {"llamafactory": "llamafactory.experiment", "trl": "trl.sft"}
    import_module(f"stcr_plugin.frameworks.{backends[arguments.backend]}").train(
        arguments.recipe, _recipe_overrides(arguments)
    )


def _recipe_overrides(arguments: argparse.Namespace) -> list[str]:
    """The overrides of a recipe, in which --registry is `dataset_dir`."""
    from stcr_plugin.errors import ConfigError

    if arguments.registry is None:
        return list(arguments.overrides)
    if any(text.startswith("dataset_dir=") for text in arguments.overrides):
        raise ConfigError("--registry and dataset_dir= say the same; leave one of the two out")
    return [*arguments.overrides, f"dataset_dir={arguments.registry}"]


def _check(arguments: argparse.Namespace) -> int:
    from stcr_plugin.artefacts import write_json
    from stcr_plugin.preflight.checks import preflight
    from stcr_plugin.preflight.plan import Asked

    fields = ("gpus", "gpu_memory", "throughput", "tflops", "mfu", "images", "samples")
    report = preflight(
        arguments.recipe, _recipe_overrides(arguments), Asked(**{field: getattr(arguments, field) for field in fields})
    )
    print(report)
    if arguments.out:
        write_json(arguments.out, report.row())
    return 0 if report.passes(arguments.strict) else 1


def _study(arguments: argparse.Namespace) -> None:
    from stcr_plugin.config import load
    from stcr_plugin.study.runner import run_study
    from stcr_plugin.study.study_config import StudyConfig

    config = load(StudyConfig, arguments.config, arguments.overrides)
    print(f"study: {run_study(config, arguments.out or Path('runs', 'studies', config.name), arguments.jobs)}")


def add_commands(commands: Commands) -> None:
    base = commands.add_parser("base", help="the embedded base").add_subparsers(required=True)
    base_build = command(base, "build", _base_build, "make the tiny Qwen2.5-VL and give it the chronological prior")
    base_build.add_argument("config", help="base config, YAML")
    base_build.add_argument("overrides", nargs="*", help="key=value laid over the config")

    train = command(
        commands, "train", _train, "train one stage through LLaMA-Factory's official functions, or TRL's", False
    )
    train.add_argument("recipe", help="recipe, YAML, as for llamafactory-cli train")
    train.add_argument("overrides", nargs="*", help="key=value laid over the recipe")
    train.add_argument("--registry", type=Path, help=f"{REGISTRY} (default: the recipe's dataset_dir)")
    train.add_argument(
        "--backend",
        choices=["llamafactory", "trl"],
        default="llamafactory",
        help="whose trainer: LLaMA-Factory's own (default), or TRL's SFTTrainer, with the same samples and losses",
    )

    check = command(
        commands, "check", _check, "what is wrong with a recipe, its model and data, before a GPU is paid", False
    )
    check.add_argument("recipe", help="recipe, YAML, as for stcr train")
    check.add_argument("overrides", nargs="*", help="key=value laid over the recipe")
    check.add_argument("--registry", type=Path, help=f"{REGISTRY} (default: the recipe's dataset_dir)")
    check.add_argument("--gpus", type=int, default=1, metavar="N", help="processes of the run (default: 1)")
    check.add_argument("--gpu-memory", type=float, metavar="GIB", help="of one GPU; an estimate above it is an error")
    check.add_argument("--throughput", type=float, metavar="SAMPLES_PER_SECOND", help="of all GPUs, for the time")
    check.add_argument("--tflops", type=float, metavar="X", help="peak of one GPU, with --mfu, for the time")
    check.add_argument("--mfu", type=float, metavar="Y", help="share of the peak that is reached, such as 0.4")
    check.add_argument("--images", type=int, metavar="N", help="decode so many pictures (default: all)")
    check.add_argument("--samples", type=int, metavar="N", help="tokenise so many samples of a dataset (default: all)")
    check.add_argument("--out", type=Path, metavar="FILE.json", help="the verdicts and their figures")
    check.add_argument("--strict", action="store_true", help="warnings fail too (exit code 1)")

    study = command(commands, "study", _study, "train and compare a grid of chains over several seeds", False)
    study.add_argument("config", help="study, YAML, such as recipes/studies/ablation.yaml")
    study.add_argument("overrides", nargs="*", help="key=value laid over the study, such as 'seeds=[5]'")
    study.add_argument("--out", type=Path, help="folder of all that is made (default: runs/studies/NAME)")
    study.add_argument("--jobs", type=int, default=1, help="commands at a time, each with its share of the cores")
