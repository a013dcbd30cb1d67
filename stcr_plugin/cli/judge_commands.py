"""`stcr judge`: which of some pictures is closest to completion."""

from __future__ import annotations

import argparse
from pathlib import Path

from stcr_plugin.cli.options import Commands, ask_options, asked, command, engine_options, open_engine


def _judge(arguments: argparse.Namespace) -> None:
    import dataclasses
    import json

    from stcr_plugin.errors import ConfigError
    from stcr_plugin.evaluation.judge import ROOT, judge

    # A model may be left out where another answers: then all that is named is pictures.
    given, asked_here = list(arguments.given), arguments.engine != "server" and not arguments.oracle
    arguments.model = Path(given.pop(0)) if given and (asked_here or Path(given[0]).is_dir()) else None
    if asked_here and not (arguments.model and arguments.model.is_dir()):
        raise ConfigError(
            f"{arguments.model or 'MODEL'}: no such folder; name a model's folder first, then the pictures"
        )
    opened = open_engine(arguments, asked(arguments), ROOT, [])
    found = judge(opened, given, arguments.task, ties=arguments.ties)
    if arguments.json:
        row = dataclasses.asdict(found) | {"warnings": found.warnings, "engine": dict(opened[0].identity())}
        print(json.dumps(row, indent=2, ensure_ascii=False))
    else:
        print(found.words)


def add_commands(commands: Commands) -> None:
    judge = command(commands, "judge", _judge, "which of 2 to 8 pictures of one task is closest to completion", False)
    judge.add_argument(
        "given", nargs="+", metavar="MODEL PICTURE", help="a model's folder (none with a server), then files or VIDEO@S"
    )
    judge.add_argument("--task", required=True, help="what is being done, in a few words")
    judge.add_argument("--json", action="store_true", help="print all that is known of the judgement")
    judge.add_argument("--ties", action="store_true", help='offer "neither", as builds that teach ties do')
    judge.set_defaults(seed=0)  # of the oracles
    ask_options(judge)
    engine_options(judge)
