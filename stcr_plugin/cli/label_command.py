"""`stcr label`: write the progress of every frame of a dataset for LeRobot, with success and controls."""

from __future__ import annotations

import argparse
from pathlib import Path

from stcr_plugin.cli.options import (
    Commands,
    Parser,
    ask_options,
    command,
    engine_options,
    engine_settings,
    exclude,
    model_option,
    seed_option,
    settings_from,
    settings_options,
)
from stcr_plugin.errors import ConfigError

_SETTINGS = ("every", "goal", "reference_frames", "success", "controls")


def add_commands(commands: Commands) -> None:
    """Add the command of this module."""
    help = "write the progress of every frame of a LeRobot dataset, for RA-BC training"
    command(commands, "label", _label, help=help, options=_label_options)


def _label_options(parser: Parser) -> None:
    from stcr_plugin.robotics.label_settings import LabelSettings

    parser.add_argument("dataset", type=Path, metavar="DATASET", help="LeRobot folder, or a data config of any source")
    model_option(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the files (default: the LeRobot folder)")
    parser.add_argument("--overwrite", action="store_true", help="replace the labels that are in the folder")
    parser.add_argument("--camera", metavar="KEY", help="camera of a LeRobot folder (default: the first in colour)")
    parser.add_argument(
        "--reference", nargs="+", metavar="EPISODE", help="episodes that succeed, on whose scale all are read"
    )
    settings_options(parser, LabelSettings, _SETTINGS)
    parser.add_argument(
        "--video", nargs="+", default=(), metavar="EPISODE", help="draw the curve beside the pictures of these episodes"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes, each with the model (default: 1)")
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        nargs="?",
        const="local",
        help="label on a Ray cluster at ADDRESS (such as auto), without one on this machine",
    )
    seed_option(parser, "draws prompt variants, the episodes of the controls and the bootstrap")
    ask_options(parser)
    engine_options(parser)


def _label(arguments: argparse.Namespace) -> None:
    from stcr_plugin.registry.workers import WorkerPool
    from stcr_plugin.report.progress_words import progress_words
    from stcr_plugin.robotics.label_files import PROGRESS, LabelRecord
    from stcr_plugin.robotics.label_settings import JudgeSettings, LabelRequest, LabelSettings
    from stcr_plugin.robotics.labelled_data import LabelledData
    from stcr_plugin.robotics.labels import label

    exclude(arguments, "reference", ("goal",))
    data = LabelledData(arguments.dataset, arguments.camera)
    out = arguments.out or (arguments.dataset if arguments.dataset.is_dir() else None)
    if out is None:
        raise ConfigError("", "a data configuration requires --out, the folder of the labels")
    asks_a_model = arguments.model or arguments.oracle or arguments.engine == "server"
    if not asks_a_model and arguments.video and (out / PROGRESS).is_file():
        record = LabelRecord.read(out / LabelRecord.file)
    else:
        ask, options = engine_settings(arguments)
        judge = JudgeSettings(arguments.engine or "local", arguments.model, ask, options, arguments.oracle or "")
        settings = settings_from(LabelSettings, arguments, (*_SETTINGS, "reference"))
        request = LabelRequest(data, judge, out, settings, arguments.seed, overwrite=arguments.overwrite)
        workers = arguments.workers if arguments.ray or arguments.workers is not None else 1
        record = label(request, WorkerPool(workers, arguments.ray))
    print(
        progress_words(record.counts, record.figures, record.controls, relative=record.relative, skipped=record.skipped)
    )
    if arguments.video:
        from stcr_plugin.robotics.overlay import overlays

        for path in overlays(data, out, arguments.video):
            print(f"video: {path}")
    print(f"labels: {out / PROGRESS}")
