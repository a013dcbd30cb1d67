"""`stcr report`, `export` and `benchmark`: hand results, models and splits on."""

from __future__ import annotations

import argparse
from pathlib import Path

from stcr_plugin.cli.options import Commands, ask_options, asked, command


def _report(arguments: argparse.Namespace) -> None:
    from stcr_plugin.report.chain_report import PAGE, report

    written = report(arguments.runs, arguments.out, arguments.registry, seed=arguments.seed)
    print(f"report: {written} and {PAGE}")


def _export(arguments: argparse.Namespace) -> None:
    from stcr_plugin.release.export import export
    from stcr_plugin.release.server_commands import vllm_line

    done = export(
        arguments.run_folder,
        arguments.out,
        arguments.dtype,
        arguments.registry,
        arguments.name,
        arguments.base_model,
        arguments.license,
        tuple(arguments.datasets),
    )
    for line in done.missing:
        print(f"missing in the model card: {line}")
    print(f"exported: {done.out}, weights {done.how}, {done.dtype}, digest {done.digest}")
    print(f"serve: {vllm_line(str(done.out), done.name, done.dtype, done.limits)}")


def _benchmark_export(arguments: argparse.Namespace) -> None:
    from stcr_plugin.benchmark.benchmark_files import export

    done = export(
        arguments.registry,
        arguments.name,
        arguments.split,
        arguments.out,
        arguments.format,
        asked(arguments),
        arguments.seed,
    )
    print(f"exported: {done.rows} rows to {done.path}\nrun: {done.how}")


def _benchmark_read(arguments: argparse.Namespace) -> None:
    from stcr_plugin.benchmark.logs import read
    from stcr_plugin.report.tables import console_table

    results = read(
        arguments.logs,
        arguments.dataset,
        arguments.split,
        arguments.out,
        arguments.registry,
        arguments.name,
        arguments.model,
    )
    print(console_table([(str(results.row["name"]), results.figures)]))
    print(f"results: {results.out}")


def add_commands(commands: Commands) -> None:
    report = command(commands, "report", _report, "all that is known of a chain's runs, as one HTML file and Markdown")
    report.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders in the order to show them")
    report.add_argument("--out", type=Path, required=True, help="folder of report.html, report.md and the figures")
    report.add_argument("--seed", type=int, default=0, help="draws the pairs that are shown")

    exported = command(commands, "export", _export, "a finished stage as a folder to share and serve, with its card")
    exported.add_argument("run_folder", type=Path, metavar="RUN", help="output folder of a stage; adapters are merged")
    exported.add_argument("--out", type=Path, required=True, help="folder to write, whole or not at all")
    exported.add_argument("--dtype", default="auto", help="float32, bfloat16 or float16 (default: as it was trained)")
    exported.add_argument("--name", help="the model's name at a server (default: that of its stage)")
    exported.add_argument("--base-model", metavar="ID", help="of the card: the Hub's name of the model at the bottom")
    exported.add_argument("--license", metavar="ID", help="of the card (default: what the base's own card says)")
    exported.add_argument("--datasets", nargs="+", default=(), metavar="ID", help="of the card: data on the Hub")

    benchmark = commands.add_parser("benchmark", help="a split for lmms-eval and VLMEvalKit, and their logs read back")
    benchmarks = benchmark.add_subparsers(required=True)
    shared = command(benchmarks, "export", _benchmark_export, "write a split as another tool's benchmark")
    shared.add_argument("name", help="name of a build, such as stcr")
    shared.add_argument("--split", default="heldout", help="split of the build (default: heldout)")
    shared.add_argument("--format", choices=["lmms-eval", "vlmevalkit"], required=True, help="whose files to write")
    shared.add_argument("--out", type=Path, required=True, help="folder, which may hold other benchmarks")
    ask_options(
        shared,
        ("language", "part", "style", "warn"),
        mode="let it reason, or not (default: direct)",
        max_new_tokens="where lmms-eval stops an answer (default: 256)",
    )
    shared.add_argument("--seed", type=int, default=0, help="draws the wordings")
    logged = command(benchmarks, "read", _benchmark_read, "a log of a benchmark -> results as of stcr eval")
    logged.add_argument("logs", type=Path, metavar="LOGS", help="a log, or a folder that holds one of this split")
    logged.add_argument("--dataset", required=True, help="name of the build, such as stcr")
    logged.add_argument("--split", default="heldout", help="split of the build (default: heldout)")
    logged.add_argument("--out", type=Path, required=True, help="folder of the results")
    logged.add_argument("--name", help="the model's name in tables (default: that of its log)")
    logged.add_argument("--model", type=Path, help="the model's folder, to look at what it was trained on")
