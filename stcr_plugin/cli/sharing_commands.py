"""`stcr report`, `export` and `benchmark`: hand on results, models and splits."""

from __future__ import annotations

import argparse
from pathlib import Path

from stcr_plugin.cli.options import (
    Commands,
    Parser,
    ask_options,
    asked,
    command,
    registry_option,
    seed_option,
    split_option,
)


def add_commands(commands: Commands) -> None:
    """Add the commands of this module."""
    command(
        commands,
        "report",
        _report,
        help="write all results of a chain's runs as HTML and Markdown",
        options=_report_options,
    )
    command(
        commands,
        "export",
        _export,
        help="write a finished stage as a folder to share and serve",
        options=_export_options,
    )
    help = "export a split or rankings to other benchmarks' tools, and read their logs"
    group = commands.add_parser("benchmark", help=help).add_subparsers(required=True)
    for name, run, help, options in (
        ("export", _benchmark_export, "write a split as a benchmark of another tool", _benchmark_export_options),
        ("read", _benchmark_read, "turn a log of a benchmark into results as of stcr eval", _benchmark_read_options),
        ("traces", _traces, "write a manifest of PRM-as-a-Judge with the progress of stcr rank", _traces_options),
    ):
        command(group, name, run, help=help, options=options)


def _report_options(parser: Parser) -> None:
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders, in the order to show them")
    registry_option(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of report.html and report.md")
    seed_option(parser, "draws the pairs to show")


def _report(arguments: argparse.Namespace) -> None:
    from stcr_plugin.report.chain_report import PAGE, report, summary
    from stcr_plugin.report.runs import read

    found = read(arguments.runs)
    written = report(found, arguments.out, arguments.registry, seed=arguments.seed)
    print(summary(found))
    print(f"report: {written.with_name(PAGE)} (one file that opens offline) and {written.name}")


def _export_options(parser: Parser) -> None:
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="output folder of a stage; adapters are merged")
    registry_option(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder to write")
    parser.add_argument("--dtype", default="auto", help="float32, bfloat16 or float16 (default: as trained)")
    parser.add_argument("--name", help="the model's name on a server (default: that of its stage)")
    card = parser.add_argument_group("model card")
    card.add_argument("--base-model", metavar="ID", help="Hub name of the model that training started from")
    card.add_argument("--license", metavar="ID", help="license (default: that of the base's card)")
    card.add_argument("--datasets", nargs="+", default=(), metavar="ID", help="Hub names of the data")


def _export(arguments: argparse.Namespace) -> None:
    from stcr_plugin.release.export import export
    from stcr_plugin.release.server_commands import vllm_line
    from stcr_plugin.report.model_card import HubMetadata
    from stcr_plugin.report.serving_words import refused_on_a_cpu

    done = export(
        arguments.run_folder,
        arguments.out,
        dtype=arguments.dtype,
        registry=arguments.registry,
        name=arguments.name,
        hub=HubMetadata(arguments.base_model, arguments.license, tuple(arguments.datasets)),
    )
    for line in done.missing:
        print(f"missing in the model card: {line}")
    print(f"exported: {done.out}, weights {done.how}, {done.dtype}, digest {done.digest}")
    if refusal := refused_on_a_cpu(done.heads):
        print(f"note: {refusal}")
    print(f"serve: {vllm_line(str(done.out), done.name, dtype=done.dtype, limits=done.limits)}")


def _benchmark_export_options(parser: Parser) -> None:
    parser.add_argument("name", help="name of a build, such as stcr")
    registry_option(parser)
    split_option(parser)
    parser.add_argument("--format", choices=["lmms-eval", "vlmevalkit"], required=True, help="the other tool")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder, may hold other benchmarks")
    answers = ("generate", "batch_size", "image_max_pixels", "image_min_pixels", "other_image_size")
    ask_options(parser, without=answers, engine=False)
    seed_option(parser, "draws the prompt variants")


def _benchmark_export(arguments: argparse.Namespace) -> None:
    from stcr_plugin.benchmark.benchmark_files import export

    done = export(
        arguments.registry,
        arguments.name,
        arguments.split,
        out=arguments.out,
        format=arguments.format,
        settings=asked(arguments),
        seed=arguments.seed,
    )
    print(f"exported: {done.rows} rows to {done.path}\nrun: {done.how}")


def _benchmark_read_options(parser: Parser) -> None:
    parser.add_argument("logs", type=Path, metavar="LOGS", help="a log, or a folder with one log of this split")
    registry_option(parser)
    parser.add_argument("--dataset", required=True, metavar="NAME", help="name of the build, such as stcr")
    split_option(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the results")
    parser.add_argument("--name", help="the model's name in tables (default: that of its log)")
    parser.add_argument("--model", type=Path, metavar="DIR", help="the model's folder, to find what it was trained on")


def _benchmark_read(arguments: argparse.Namespace) -> None:
    from stcr_plugin.benchmark.logs import read
    from stcr_plugin.report.evaluation_page import write_evaluation_page
    from stcr_plugin.report.tables import console_table

    found = read(
        arguments.logs,
        arguments.dataset,
        arguments.split,
        out=arguments.out,
        registry=arguments.registry,
        name=arguments.name,
        model=arguments.model,
    )
    write_evaluation_page(arguments.out, arguments.registry, found)
    print(console_table([(found.name, found.figures)]))
    print(f"results: {arguments.out}")


def _traces_options(parser: Parser) -> None:
    parser.add_argument("rankings", type=Path, nargs="+", metavar="DIR", help="folders of stcr rank, one per case")
    parser.add_argument("--manifest", type=Path, required=True, metavar="FILE", help="manifest of the cases")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the manifest to write")


def _traces(arguments: argparse.Namespace) -> None:
    from stcr_plugin.benchmark.recorded_traces import traces_of_rankings

    done = traces_of_rankings(arguments.rankings, arguments.manifest, arguments.out)
    left = f", {len(done.without)} without a ranking left out" if done.without else ""
    print(f"written: {done.manifest}, {done.cases} cases{left}")
    print(f"run: prm-judge eval --manifest {done.manifest} --prm recorded")
