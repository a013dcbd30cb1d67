"""`stcr calibrate`: fit a temperature for a model's probabilities, or a threshold of success per task."""

from __future__ import annotations

import argparse
from pathlib import Path

from stcr_plugin.cli.options import Commands, Parser, command, exclude, require, seed_option


def add_commands(commands: Commands) -> None:
    """Add the command of this module."""
    help = "fit a temperature for a model's probabilities, or with --labels thresholds of success"
    command(commands, "calibrate", _calibrate, help=help, options=_calibrate_options)


def _calibrate_options(parser: Parser) -> None:
    parser.add_argument(
        "fitted",
        type=Path,
        metavar="RUN",
        help="folder of a finished `stcr eval` in mode direct on a split such as dev; with --labels the "
        "stcr_success.jsonl of `stcr label --success`",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the results")
    seed_option(parser, "draws the bootstrap, and with --labels the episodes to fit on")
    group = parser.add_argument_group("a temperature, for `stcr judge` and `stcr rank` (--calibration)")
    group.add_argument(
        "--on",
        type=Path,
        nargs="+",
        default=[],
        metavar="RUN",
        help="evaluations of the same model on other splits, to report the temperature on",
    )
    group = parser.add_argument_group("thresholds of success, one per task")
    group.add_argument(
        "--labels",
        type=Path,
        metavar="TABLE",
        help="table (.csv, .jsonl, .parquet) with the columns success (0 or 1), episode_id or episode_index, and "
        "optionally task and split (dev to fit on, heldout to report on; default: a hash of the id)",
    )
    group.add_argument(
        "--precision", type=float, metavar="X", help="share of predicted successes that must be some (default: 0.8)"
    )


def _calibrate(arguments: argparse.Namespace) -> None:
    exclude(arguments, "labels", ("on",))
    require(arguments, "precision", "labels")
    (_thresholds if arguments.labels else _temperature)(arguments)
    print(f"results: {arguments.out}")


def _temperature(arguments: argparse.Namespace) -> None:
    from stcr_plugin.evaluation.calibrate import fit_temperature
    from stcr_plugin.report.calibration_words import temperature_words, write_temperature_page

    found = fit_temperature(arguments.fitted, arguments.on, arguments.out, seed=arguments.seed)
    write_temperature_page(arguments.out, found)
    print(temperature_words(found))


def _thresholds(arguments: argparse.Namespace) -> None:
    from stcr_plugin.report.threshold_words import threshold_words, write_threshold_page
    from stcr_plugin.robotics.success_thresholds import PRECISION, fit_thresholds

    found = fit_thresholds(
        arguments.fitted,
        arguments.labels,
        arguments.out,
        precision=PRECISION if arguments.precision is None else arguments.precision,
        seed=arguments.seed,
    )
    write_threshold_page(arguments.out, found)
    print(threshold_words(found))
