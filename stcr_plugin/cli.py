"""`stcr`: the one door to the plugin. Every command is a plain function of the room that does the work."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from stcr_plugin import __version__
from stcr_plugin.errors import StcrError

# Options of `stcr eval` that are fields of AskSettings.
_ASK = ("mode", "generate", "batch_size", "max_new_tokens", "image_max_pixels", "image_min_pixels", "language", "part")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 done, 1 an error of the input or a failed check, 130 interrupted."""
    arguments = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int | None] = arguments.run
    try:
        return run(arguments) or 0
    except StcrError as error:
        print(f"stcr: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read our output, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("stcr: interrupted; run the same command again to go on", file=sys.stderr)
        return 130


def _data_build(arguments: argparse.Namespace) -> None:
    from stcr_plugin.registry.build import build, load_data_config
    from stcr_plugin.registry.manifest import read_manifest, summary
    from stcr_plugin.registry.workers import Hands

    config = load_data_config(arguments.config, arguments.overrides)
    manifest = build(config, arguments.registry, Hands(arguments.workers, arguments.ray))
    print(summary(read_manifest(arguments.registry, config.name)))
    print(f"built: {manifest}")


def _data_check(arguments: argparse.Namespace) -> int:
    from stcr_plugin.registry.check import check

    report = check(arguments.name, arguments.registry)
    print(report)
    return 0 if report.ok else 1


def _data_export(arguments: argparse.Namespace) -> None:
    from stcr_plugin.registry.spatiallogic import export

    done = export(arguments.name, arguments.registry, arguments.out, arguments.format, arguments.split)
    left_out = f"; {done.ties} left out, where neither image is closer" if done.ties else ""
    print(f"exported: {done.rows} rows to {done.path}{left_out}; its paths start from {arguments.registry}")


def _data_overlap(arguments: argparse.Namespace) -> int:
    from stcr_plugin.artefacts import write_json
    from stcr_plugin.registry.overlap import overlap

    found = overlap(arguments.trained, arguments.evaluated, arguments.registry, arguments.seed)
    print(found)
    if arguments.out:
        write_json(arguments.out, found.row())
    return 1 if found.leaks else 0


def _data_show(arguments: argparse.Namespace) -> None:
    from stcr_plugin.registry.sheet import show

    name = f"{arguments.name}-{arguments.split}" if arguments.split else arguments.name
    out = arguments.out or Path("runs", "show", f"{name}.html")
    sheet = show(arguments.name, arguments.registry, out, arguments.split, arguments.rows, arguments.seed)
    print(f"sheet: {sheet.path}, {sheet.shown} of {sheet.rows} rows")


def _base_build(arguments: argparse.Namespace) -> None:
    from stcr_plugin.base import build
    from stcr_plugin.frameworks.llamafactory.training import train

    print(f"base: {build(arguments.config, arguments.overrides, str(arguments.registry), train)}")


def _train(arguments: argparse.Namespace) -> None:
    from stcr_plugin.frameworks.llamafactory.training import train

    train(arguments.recipe, arguments.overrides)


def _eval(arguments: argparse.Namespace) -> None:
    from stcr_plugin.config import from_mapping
    from stcr_plugin.evaluation.contamination import overlap_words
    from stcr_plugin.evaluation.engine import AskSettings
    from stcr_plugin.evaluation.run import evaluate
    from stcr_plugin.report import console_table

    given = {field: getattr(arguments, field) for field in _ASK if getattr(arguments, field) is not None}
    results = evaluate(
        arguments.model,
        arguments.dataset,
        arguments.split,
        arguments.out or arguments.model / "eval" / f"{arguments.dataset}-{arguments.split}",
        arguments.registry,
        from_mapping(AskSettings, given, "the options"),
        arguments.limit,
        arguments.seed,
        name=arguments.name,
    )
    print(console_table([(str(results.row["name"]), results.figures)]))
    print(overlap_words(results.row["overlap"]))
    print(f"results: {results.out}")


def _report(arguments: argparse.Namespace) -> None:
    from stcr_plugin.report import report

    print(f"report: {report(arguments.runs, arguments.out)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stcr", description="Cure a vision-language model of order bias, and prove it."
    )
    parser.add_argument("--version", action="version", version=f"stcr_plugin {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    data = commands.add_parser("data", help="build and check training sets").add_subparsers(required=True)
    build = _command(data, "build", _data_build, "write frames, training sets, pairs and manifest of a data config")
    build.add_argument("config", help="data config, YAML")
    build.add_argument("overrides", nargs="*", help="key=value laid over the config")
    build.add_argument("--workers", type=int, help="processes (default: one a core); changes no byte of what is built")
    build.add_argument(
        "--ray",
        metavar="ADDRESS",
        nargs="?",
        const="local",
        help="build on a Ray cluster, at ADDRESS (such as auto) or started on this machine",
    )
    check = _command(data, "check", _data_check, "decode every picture, check counts, paths, lengths and labels")
    check.add_argument("name", help="name of a build, such as stcr")
    export = _command(data, "export", _data_export, "write a dataset or a split in the files of STCR's authors")
    export.add_argument("name", help="name of a dataset, such as stcr_cot, or with --split of a build")
    export.add_argument("--split", help="every pair of this split in both orders, as weak rows")
    export.add_argument("--format", choices=["json", "csv"], required=True, help="their training or evaluation file")
    export.add_argument("--out", type=Path, required=True, help="file to write")

    overlap = _command(data, "overlap", _data_overlap, "what two datasets share; exit code 1: episodes or pictures")
    overlap.add_argument("trained", metavar="A", help="what is trained on: a build, build:split or a dataset")
    overlap.add_argument("evaluated", metavar="B", help="what is evaluated, named likewise")
    overlap.add_argument("--seed", type=int, default=0, help="draws which pictures are looked at for near ones")
    overlap.add_argument("--out", type=Path, help="JSON file to write the figures into")

    show = _command(data, "show", _data_show, "draw rows and write them as a page of pictures, labels and texts")
    show.add_argument("name", help="name of a build, such as stcr, or of a dataset, such as stcr_cot")
    show.add_argument("--split", help="rows of this split alone; its pairs, where no dataset is drawn from it")
    show.add_argument("--rows", type=int, default=48, help="how many to show (default: 48)")
    show.add_argument("--seed", type=int, default=0, help="draws the rows")
    show.add_argument("--out", type=Path, help="HTML file to write (default: runs/show/NAME.html)")

    base = commands.add_parser("base", help="the embedded base").add_subparsers(required=True)
    base_build = _command(base, "build", _base_build, "make the tiny Qwen2.5-VL and give it the chronological prior")
    base_build.add_argument("config", help="base config, YAML")
    base_build.add_argument("overrides", nargs="*", help="key=value laid over the config")

    train = _command(commands, "train", _train, "train one stage through LLaMA-Factory's official functions")
    train.add_argument("recipe", help="recipe, YAML, as for llamafactory-cli train")
    train.add_argument("overrides", nargs="*", help="key=value laid over the recipe")

    evaluate = _command(commands, "eval", _eval, "measure the forward/backward gap of a model on a split")
    evaluate.add_argument("--model", type=Path, required=True, help="folder of a model, such as a stage's output")
    evaluate.add_argument("--dataset", required=True, help="name of a build, such as stcr")
    evaluate.add_argument("--split", default="heldout", help="split of the build (default: heldout)")
    evaluate.add_argument("--out", type=Path, help="folder of the results (default: MODEL/eval/DATASET-SPLIT)")
    evaluate.add_argument("--name", help="the model's name in tables (default: that of its stage)")
    evaluate.add_argument("--limit", type=int, help="so many pairs, spread evenly over the episodes (default: all)")
    evaluate.add_argument("--seed", type=int, default=0, help="draws the wordings and the bootstrap")
    evaluate.add_argument(
        "--mode", choices=["cot", "direct"], help="let it reason, or not (default: as it was trained)"
    )
    evaluate.add_argument("--generate", action="store_const", const=True, help="generate in direct mode too, and parse")
    evaluate.add_argument("--batch-size", type=int)
    evaluate.add_argument("--max-new-tokens", type=int)
    evaluate.add_argument("--image-max-pixels", type=int, help="as in training (default: the stage's, else 768*768)")
    evaluate.add_argument("--image-min-pixels", type=int)
    evaluate.add_argument("--language", choices=["en", "zh"])
    evaluate.add_argument("--part", choices=["train", "heldout"], help="wordings seen in training, or never")

    report = _command(commands, "report", _report, "one table and one picture of a chain's runs")
    report.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders in the order to show them")
    report.add_argument("--out", type=Path, required=True, help="folder of report.md, chain.json and the picture")
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int | None],
    help: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help, description=help)
    parser.set_defaults(run=run)
    parser.add_argument("--registry", type=Path, default=Path("data_registry"), help="folder of the training sets")
    return parser


if __name__ == "__main__":
    sys.exit(main())
