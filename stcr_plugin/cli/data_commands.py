"""`stcr data`: build, check, export, compare, show and refine training sets."""

from __future__ import annotations

import argparse
from pathlib import Path

from stcr_plugin.cli.options import (
    Commands,
    Parser,
    ask_options,
    command,
    engine_options,
    model_option,
    open_engine,
    registry_option,
    results_folder,
    seed_option,
)

_NAME = "name of a build, such as stcr"


def add_commands(commands: Commands) -> None:
    """Add the commands of this module."""
    group = commands.add_parser("data", help="build and check training sets").add_subparsers(required=True)
    for name, run, help, options in (
        ("build", _build, "write pictures, pairs and training sets as a data config says", _build_options),
        ("check", _check, "decode every picture, and check counts, paths, lengths and labels", _check_options),
        ("export", _export, "write a dataset or a split in the file formats of STCR's authors", _export_options),
        ("overlap", _overlap, "list what two datasets share; exit code 1 if they do", _overlap_options),
        ("show", _show, "write some rows as a page of pictures, labels and texts", _show_options),
        ("refine", _refine, "list the pairs whose label a trained model contradicts in both orders", _refine_options),
    ):
        command(group, name, run, help=help, options=options)


def _build_options(parser: Parser) -> None:
    parser.add_argument("config", help="data config, YAML")
    parser.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help="override keys of the config")
    registry_option(parser)
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes (default: one per core); the result is the same"
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        nargs="?",
        const="local",
        help="build on a Ray cluster at ADDRESS (such as auto), without one on this machine",
    )


def _build(arguments: argparse.Namespace) -> None:
    from stcr_plugin.registry.build import build, load_data_config
    from stcr_plugin.registry.manifest import read_manifest
    from stcr_plugin.registry.workers import WorkerPool
    from stcr_plugin.report.check_words import build_text, camera_text

    config = load_data_config(arguments.config, arguments.overrides)
    if camera := camera_text(config.source):
        print(camera, flush=True)
    manifest = build(config, arguments.registry, WorkerPool(arguments.workers, arguments.ray))
    print(build_text(read_manifest(arguments.registry, config.name)))
    print(f"built: {manifest}")


def _check_options(parser: Parser) -> None:
    parser.add_argument("name", help=_NAME)
    registry_option(parser)


def _check(arguments: argparse.Namespace) -> int:
    from stcr_plugin.registry.check import check
    from stcr_plugin.report.check_words import check_text

    report = check(arguments.name, arguments.registry)
    print(check_text(report))
    return 0 if report.ok else 1


def _export_options(parser: Parser) -> None:
    parser.add_argument("name", help="name of a dataset, such as stcr_cot; with --split, name of a build")
    registry_option(parser)
    parser.add_argument("--split", help="export every pair of this split in both orders, as weak rows")
    parser.add_argument("--format", choices=["json", "csv"], required=True, help="their training or evaluation file")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")


def _export(arguments: argparse.Namespace) -> None:
    from stcr_plugin.registry.authors_rows import export

    done = export(arguments.name, arguments.registry, arguments.out, format=arguments.format, split=arguments.split)
    left_out = f"; {done.ties} left out, where neither image is closer" if done.ties else ""
    print(f"exported: {done.rows} rows to {done.path}{left_out}; its paths start from {arguments.registry}")


def _overlap_options(parser: Parser) -> None:
    parser.add_argument("trained", metavar="A", help="what is trained on: a build, BUILD:SPLIT or a dataset")
    parser.add_argument("evaluated", metavar="B", help="what is evaluated on, in the same form")
    registry_option(parser)
    seed_option(parser, "draws which pictures are compared for near duplicates")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file for the figures")


def _overlap(arguments: argparse.Namespace) -> int:
    from stcr_plugin.registry.overlap import overlap
    from stcr_plugin.report.overlap_words import overlap_text

    found = overlap(arguments.trained, arguments.evaluated, arguments.registry, seed=arguments.seed)
    print(overlap_text(found))
    if arguments.out:
        found.write(arguments.out)
    return 1 if found.leaks else 0


def _show_options(parser: Parser) -> None:
    parser.add_argument("name", help=f"{_NAME}, or of a dataset, such as stcr_cot")
    registry_option(parser)
    parser.add_argument("--split", help="show only rows of this split; its pairs, if no dataset uses it")
    parser.add_argument("--rows", type=int, default=48, metavar="N", help="rows to show (default: 48)")
    seed_option(parser, "draws the rows")
    parser.add_argument("--out", type=Path, metavar="FILE", help="HTML file to write (default: runs/show/NAME.html)")


def _show(arguments: argparse.Namespace) -> None:
    from stcr_plugin.report.contact_sheet import show

    name = f"{arguments.name}-{arguments.split}" if arguments.split else arguments.name
    out = arguments.out or Path("runs", "show", f"{name}.html")
    sheet = show(
        arguments.name, arguments.registry, out, split=arguments.split, rows=arguments.rows, seed=arguments.seed
    )
    print(f"sheet: {sheet.path}, {sheet.shown} of {sheet.rows} rows")


def _refine_options(parser: Parser) -> None:
    from stcr_plugin.registry.contradictions import DECISIONS

    parser.add_argument("dataset", metavar="BUILD", help=_NAME)
    registry_option(parser)
    model_option(parser)
    parser.add_argument("--split", default="train", help="split of the build (default: train)")
    parser.add_argument(
        "--decide",
        choices=DECISIONS,
        default="drop",
        help="decision written into each row: leave the pair out, teach it as a tie, or keep it (default: drop); a row "
        "that was changed by hand stays as it is",
    )
    where = "MODEL/refine/BUILD-SPLIT, without a model runs/refine/SERVED/BUILD-SPLIT"
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"folder of the results (default: {where})")
    parser.add_argument("--limit", type=int, metavar="N", help="use N pairs, spread over episodes (default: all)")
    seed_option(parser, "draws prompt variants and the bootstrap")
    ask_options(parser)
    engine_options(parser)


def _refine(arguments: argparse.Namespace) -> None:
    from stcr_plugin.evaluation.refinement import refine
    from stcr_plugin.evaluation.request import EvalRequest
    from stcr_plugin.registry.contradictions import Contradiction
    from stcr_plugin.report.refinement_page import refinement_words, write_refinement_page

    engine, settings = open_engine(arguments)
    request = EvalRequest(
        model=arguments.model,
        engine=engine,
        dataset=arguments.dataset,
        split=arguments.split,
        registry=arguments.registry,
        settings=settings,
        limit=arguments.limit,
        seed=arguments.seed,
    )
    out = results_folder(arguments, request, room="refine")
    found = refine(request, out, arguments.decide)
    print(refinement_words(found))
    print(f"page: {write_refinement_page(out, arguments.registry, found)}")
    print(f"rows: {out / Contradiction.file}")
