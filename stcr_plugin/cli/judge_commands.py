"""`stcr judge`: which of some pictures is closest to completion."""

from __future__ import annotations

import argparse
from pathlib import Path

from stcr_plugin.cli.options import (
    Commands,
    Parser,
    ask_options,
    calibration,
    calibration_option,
    command,
    engine_options,
    open_engine,
)
from stcr_plugin.errors import ConfigError


def add_commands(commands: Commands) -> None:
    """Add the command of this module."""
    help = "find which of 2 to 8 pictures of one task is closest to completion"
    command(commands, "judge", _judge, help=help, options=_judge_options)


def _judge_options(parser: Parser) -> None:
    parser.add_argument(
        "named",
        nargs="+",
        metavar="MODEL PICTURE",
        help="a model's folder (none with a server), then picture files or VIDEO@SECONDS, counted from its first frame",
    )
    parser.add_argument("--task", required=True, help="the task in a few words")
    parser.add_argument("--json", action="store_true", help="print the whole judgement as JSON")
    parser.add_argument("--ties", action="store_true", help='offer the answer "neither", as builds that teach ties do')
    calibration_option(parser)
    parser.set_defaults(seed=0)  # of the oracles
    ask_options(parser)
    engine_options(parser)


def _judge(arguments: argparse.Namespace) -> None:
    import dataclasses
    import json

    from stcr_plugin.evaluation.judge import ROOT, judge
    from stcr_plugin.report.judgement_words import judgement_warnings, judgement_words

    # A server or an oracle needs no model: then all words name pictures.
    named, local = list(arguments.named), arguments.engine != "server" and not arguments.oracle
    arguments.model = Path(named.pop(0)) if local or Path(named[0]).is_dir() else None
    if local and not arguments.model.is_dir():
        raise ConfigError(arguments.model, "no such folder", "name a model's folder first, then the pictures")
    opened = open_engine(arguments, ROOT, [])
    found = judge(opened, named, arguments.task, ties=arguments.ties, calibration=calibration(arguments))
    if arguments.json:
        row = dataclasses.asdict(found) | {"warnings": judgement_warnings(found), "engine": dict(opened[0].identity())}
        print(json.dumps(row, indent=2, ensure_ascii=False))
    else:
        print(judgement_words(found))
