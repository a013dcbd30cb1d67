"""`stcr annotate review`: a person reads annotated texts and accepts, rejects or edits them."""

from __future__ import annotations

import argparse
from pathlib import Path

from stcr_plugin.cli.options import Commands, Parser, command, registry_option, seed_option
from stcr_plugin.errors import ConfigError


def add_command(commands: Commands) -> None:
    """Add the command to the group `stcr annotate`."""
    command(commands, "review", _review, help="accept, reject or edit annotated texts", options=_options)


def _options(parser: Parser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="annotations.jsonl of stcr annotate")
    registry_option(parser)
    parser.add_argument(
        "--rows", type=int, default=200, metavar="N", help="size of a random sample of each kind of row (default: 200)"
    )
    seed_option(parser, "draws the samples")
    how = parser.add_argument_group("instead of serving a page").add_mutually_exclusive_group()
    how.add_argument("--summary", action="store_true", help="print what was decided")
    how.add_argument("--html", type=Path, metavar="OUT", help="write a sample of all rows as one HTML file")
    how.add_argument("--to-label-studio", type=Path, metavar="OUT", help="write a sample of all rows as tasks, JSON")
    how.add_argument("--from-label-studio", type=Path, metavar="FILE", help="read decisions from its JSON export")
    parser.add_argument(
        "--port", type=int, default=0, metavar="N", help="port of the page on 127.0.0.1 (default: a free one)"
    )


def _review(arguments: argparse.Namespace) -> None:
    from stcr_plugin import artefacts
    from stcr_plugin.annotation.decisions import ReviewedRows, being_alone
    from stcr_plugin.annotation.strata import ALL, strata
    from stcr_plugin.cli.review_server import serve
    from stcr_plugin.report import label_studio, review_page

    path, registry = arguments.file, arguments.registry
    if arguments.rows < 1:
        raise ConfigError("--rows", f"{arguments.rows} is less than 1", "set it to 1 or more")
    if not path.is_file():
        raise ConfigError(str(path), "no such file", "name annotations.jsonl in a folder of stcr annotate")
    with being_alone(path):
        reviewed = ReviewedRows(path)
        if not reviewed.rows:
            raise ConfigError(str(path), "has no rows")
        reviewed.fold()
        found = strata(reviewed.rows, arguments.rows, arguments.seed)
        if arguments.html:
            artefacts.write_text(
                arguments.html, review_page.static_page(found[ALL], found, reviewed, registry=registry)
            )
            print(f"page: {arguments.html}, {len(found[ALL].sample)} of {len(reviewed.rows)} rows")
        elif out := arguments.to_label_studio:
            config = label_studio.export(reviewed, found[ALL].sample, registry, out=out)
            print(f"tasks: {out}, {len(found[ALL].sample)} of {len(reviewed.rows)} rows; labelling interface: {config}")
        else:
            if arguments.from_label_studio:
                decisions = label_studio.read(reviewed, arguments.from_label_studio)
                reviewed.decide(decisions)
                reviewed.fold()
                print(f"read: {len(decisions)} new decisions from {arguments.from_label_studio}")
            elif not arguments.summary:
                serve(reviewed, found, registry, port=arguments.port, ready=_ready)
            print("\n".join(review_page.summary(found, reviewed)))


def _ready(address: str) -> None:
    print(f"review: {address}\nThe address is a key: do not share it. End with Ctrl-C.", flush=True)
