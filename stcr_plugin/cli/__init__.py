"""`stcr`: the one door to the plugin. Every command is a plain function of the room that does the work."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence

from stcr_plugin import __version__
from stcr_plugin.cli import data_commands, evaluation_commands, judge_commands, sharing_commands, training_commands
from stcr_plugin.cli.options import ENGINE, SIZES
from stcr_plugin.errors import StcrError

_BY_HAND = ("engine", "engine_config", *ENGINE)  # which engine it is, and how it is set
_GROUPS = ("ask", "per_episode", "rotations")
# Command -> option -> the options that it would make no use of. Both together are refused.
_APART: dict[str, dict[str, tuple[str, ...]]] = {
    "eval": {
        "control": ("comparator", "weight", "pictures", *_GROUPS),
        "pictures": ("comparator", "weight"),
        "oracle": _BY_HAND,
    },
    "controls": {"oracle": _BY_HAND},
    "rank": {
        "voc": ("comparisons", "task"),
        "pictures": ("split",),
        "oracle": _BY_HAND,
    },
    "guard": {
        "compare": ("model", "name", "episodes", "pope", "images", "oracle", *_BY_HAND, "generate", *SIZES),
        "pope": ("episodes",),
    },
    "judge": {"oracle": _BY_HAND},
}
# Command -> option -> the one without which it would say nothing.
_OF: dict[str, dict[str, str]] = {
    "eval": {"weight": "comparator", **dict.fromkeys(_GROUPS, "pictures")},
    "rank": {"episodes": "voc"},
    "guard": {"images": "pope", "pope": "images"},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 done, 1 an error of the input or a failed check, 130 interrupted."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and not (hasattr(arguments, "overrides") and all(re.match(r"[\w.]+=", text) for text in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:  # argparse takes none behind an option
        arguments.overrides = [*arguments.overrides, *rest]
    run: Callable[[argparse.Namespace], int | None] = arguments.run
    try:
        _agree(arguments)
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


def _agree(arguments: argparse.Namespace) -> None:
    """Raises ConfigError for options that would be taken and not used, and for a seed that nothing can be drawn by."""
    from stcr_plugin.errors import ConfigError

    def given(option: str) -> bool:
        return getattr(arguments, option, None) not in (None, [], ()) and getattr(arguments, option) is not False

    def dashed(option: str) -> str:
        return "PICTURE" if (arguments.command, option) == ("rank", "pictures") else f"--{option.replace('_', '-')}"

    for option, others in _APART.get(arguments.command, {}).items():
        for other in others if given(option) else ():
            if given(other):
                raise ConfigError(f"{dashed(option)} makes no use of {dashed(other)}; leave one of the two out")
    for option, other in _OF.get(arguments.command, {}).items():
        if given(option) and not given(other):
            raise ConfigError(f"{dashed(option)} is of {dashed(other)}; give that with it, or neither")
    if getattr(arguments, "seed", 0) < 0:
        raise ConfigError(f"--seed {arguments.seed}: must be at least 0")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stcr", description="Cure a vision-language model of order bias, and prove it."
    )
    parser.add_argument("--version", action="version", version=f"stcr_plugin {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in (data_commands, training_commands, evaluation_commands, sharing_commands, judge_commands):
        group.add_commands(commands)
    return parser
