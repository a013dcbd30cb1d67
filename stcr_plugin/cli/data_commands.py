"""`stcr data`: build, check, export, compare and show training sets."""

from __future__ import annotations

import argparse
from pathlib import Path

from stcr_plugin.cli.options import Commands, command


def _data_build(arguments: argparse.Namespace) -> None:
    from stcr_plugin.registry.build import build, load_data_config
    from stcr_plugin.registry.manifest import read_manifest, summary
    from stcr_plugin.registry.workers import WorkerPool

    config = load_data_config(arguments.config, arguments.overrides)
    manifest = build(config, arguments.registry, WorkerPool(arguments.workers, arguments.ray))
    print(summary(read_manifest(arguments.registry, config.name)))
    print(f"built: {manifest}")


def _data_check(arguments: argparse.Namespace) -> int:
    from stcr_plugin.registry.check import check

    report = check(arguments.name, arguments.registry)
    print(report)
    return 0 if report.ok else 1


def _data_export(arguments: argparse.Namespace) -> None:
    from stcr_plugin.registry.authors_rows import export

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
    from stcr_plugin.report.contact_sheet import show

    name = f"{arguments.name}-{arguments.split}" if arguments.split else arguments.name
    out = arguments.out or Path("runs", "show", f"{name}.html")
    sheet = show(
        arguments.name, arguments.registry, out, split=arguments.split, rows=arguments.rows, seed=arguments.seed
    )
    print(f"sheet: {sheet.path}, {sheet.shown} of {sheet.rows} rows")


def add_commands(commands: Commands) -> None:
    data = commands.add_parser("data", help="build and check training sets").add_subparsers(required=True)
    build = command(data, "build", _data_build, "write frames, training sets, pairs and manifest of a data config")
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
    check = command(data, "check", _data_check, "decode every picture, check counts, paths, lengths and labels")
    check.add_argument("name", help="name of a build, such as stcr")
    export = command(data, "export", _data_export, "write a dataset or a split in the files of STCR's authors")
    export.add_argument("name", help="name of a dataset, such as stcr_cot, or with --split of a build")
    export.add_argument("--split", help="every pair of this split in both orders, as weak rows")
    export.add_argument("--format", choices=["json", "csv"], required=True, help="their training or evaluation file")
    export.add_argument("--out", type=Path, required=True, help="file to write")

    overlap = command(data, "overlap", _data_overlap, "what two datasets share; exit code 1: episodes or pictures")
    overlap.add_argument("trained", metavar="A", help="what is trained on: a build, build:split or a dataset")
    overlap.add_argument("evaluated", metavar="B", help="what is evaluated, named likewise")
    overlap.add_argument("--seed", type=int, default=0, help="draws which pictures are looked at for near ones")
    overlap.add_argument("--out", type=Path, help="JSON file to write the figures into")

    show = command(data, "show", _data_show, "draw rows and write them as a page of pictures, labels and texts")
    show.add_argument("name", help="name of a build, such as stcr, or of a dataset, such as stcr_cot")
    show.add_argument("--split", help="rows of this split alone; its pairs, where no dataset is drawn from it")
    show.add_argument("--rows", type=int, default=48, help="how many to show (default: 48)")
    show.add_argument("--seed", type=int, default=0, help="draws the rows")
    show.add_argument("--out", type=Path, help="HTML file to write (default: runs/show/NAME.html)")
