"""`stcr`, the command line. Each command is a thin function over the room that does the work."""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
from collections.abc import Sequence

from stcr_plugin import __version__
from stcr_plugin.cli import (
    annotation_commands,
    audit_command,
    calibrate_command,
    data_commands,
    evaluation_commands,
    init_command,
    judge_commands,
    label_command,
    sharing_commands,
    training_commands,
)
from stcr_plugin.cli.options import Parser, check_output, setting
from stcr_plugin.errors import ConfigError, StcrError

# Options of earlier versions of `stcr eval` -> the command that replaces them.
_MOVED = {
    "control": "stcr controls --only NAME",
    **dict.fromkeys(("comparator", "weight"), "stcr comparator NAME"),
    **dict.fromkeys(("pictures", "ask", "per_episode", "rotations"), "stcr multi-image"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The words after `stcr` (default: those of this process).

    Returns:
        The exit code: 0 done, 1 an error of the input or a failed check, 130 interrupted.
    """
    for stream in (sys.stdout, sys.stderr):  # a name that is not UTF-8, or a terminal of another encoding
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    try:
        if rest and not (hasattr(arguments, "overrides") and all(re.match(r"[\w.]+=", text) for text in rest)):
            _refuse_moved(arguments, rest)
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        if rest:  # argparse takes no positional argument after an option
            arguments.overrides = [*arguments.overrides, *rest]
        check_output(arguments)
        return arguments.run(arguments) or 0
    except StcrError as error:
        print(f"stcr: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("stcr: interrupted; run the same command again to go on", file=sys.stderr)
        return 130


def _refuse_moved(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Raise ConfigError for an option of an earlier version, and name what replaces it."""
    for option in (text.partition("=")[0] for text in rest if text.startswith("--")):
        key = option.removeprefix("--").replace("-", "_")
        now = _MOVED.get(key) if arguments.command == "eval" else None
        if now is None and (known := setting(arguments, key)):
            now = f"--set {known}=VALUE"
        if now:
            raise ConfigError(f"stcr {arguments.command} {option}", "has moved", f"use `{now}`")


def _parser() -> Parser:
    parser = Parser(prog="stcr", description="Remove order bias from vision-language models, and measure it.")
    parser.add_argument("--version", action="version", version=f"stcr_plugin {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    init_command.add_commands(commands)
    for group in (
        data_commands,
        annotation_commands,
        training_commands,
        evaluation_commands,
        judge_commands,
        label_command,
        calibrate_command,
        audit_command,
        sharing_commands,
    ):
        group.add_commands(commands)
    return parser
