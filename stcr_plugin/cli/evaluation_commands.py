"""`stcr eval`, `controls`, `multi-image`, `comparator`, `rank` and `guard`: measure a model."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stcr_plugin.cli.options import (
    PAIRS,
    Commands,
    Parser,
    ask_options,
    calibration,
    calibration_option,
    command,
    engine_options,
    exclude,
    given,
    model_option,
    open_engine,
    registry_option,
    require,
    results_folder,
    seed_option,
    settings_from,
    settings_options,
    split_options,
)
from stcr_plugin.errors import ConfigError

if TYPE_CHECKING:
    from stcr_plugin.evaluation.comparators import Comparator
    from stcr_plugin.evaluation.request import EvalRequest
    from stcr_plugin.evaluation.strips import Strip
    from stcr_plugin.types import Pair

_GROUPS = ("pictures", "ask", "per_episode", "rotations")


def add_commands(commands: Commands) -> None:
    """Add the commands of this module."""
    for name, run, help, options in (
        ("eval", _eval, "measure accuracy in both orders, and the gap between them, on a split", _eval_options),
        ("controls", _controls, "check what a model's accuracy rests on, with a verdict each", _controls_options),
        ("multi-image", _multi_image, "evaluate on groups of 3 to 8 pictures in every rotation", _multi_image_options),
        ("comparator", _comparator, "evaluate with a method that needs no training", _comparator_options),
        ("rank", _rank, "order frames by progress, and draw the progress curve", _rank_options),
        ("guard", _guard, "measure what training cost, by yes/no questions as in POPE", _guard_options),
    ):
        command(commands, name, run, help=help, options=options)


def _eval_options(parser: Parser) -> None:
    split_options(parser, "eval")
    ask_options(parser)
    engine_options(parser)


def _eval(arguments: argparse.Namespace, comparator: Comparator | None = None) -> None:
    from stcr_plugin.evaluation.evaluate import evaluate
    from stcr_plugin.report.calibration_words import calibration_words
    from stcr_plugin.report.comparator_words import comparator_words
    from stcr_plugin.report.evaluation_page import write_evaluation_page
    from stcr_plugin.report.factuality_words import claim_words
    from stcr_plugin.report.lost_words import lost_words
    from stcr_plugin.report.overlap_words import overlap_words
    from stcr_plugin.report.tables import console_table

    request = _request(arguments)
    out = results_folder(arguments, request, comparator.name if comparator else "")
    found = evaluate(request, out, comparator=comparator)
    write_evaluation_page(out, arguments.registry, found)
    print(console_table([(found.name, found.figures)]))
    for line in lost_words(found.figures, found.settings):
        print(f"WARNING: {line}")
    if found.comparator:
        print(comparator_words(found.comparator, found.figures))
    if found.calibration:
        print(calibration_words(found.calibration))
    if found.overlap:
        print(overlap_words(found.overlap))
    if found.claims:
        print(claim_words(found.claims))
    print(f"results: {out}")


def _request(
    arguments: argparse.Namespace, pictures: Path | None = None, pairs: Sequence[Pair] | None = None
) -> EvalRequest:
    """What to evaluate, with the engine that the options name; `pictures` and `pairs` as in `open_engine`."""
    from stcr_plugin.evaluation.request import EvalRequest

    engine, settings = open_engine(arguments, pictures, pairs)
    names = {field.name for field in dataclasses.fields(EvalRequest)} - {"engine", "settings"}
    values = {name: value for name, value in vars(arguments).items() if name in names and value is not None}
    return EvalRequest(engine=engine, settings=settings, **values)


def _comparator_options(parser: Parser) -> None:
    parser.add_argument("comparator", metavar="NAME", help="swap_ensemble, warned, ritual, m3id or calibrated")
    parser.add_argument("--weight", type=float, metavar="X", help="of the changed prompt (default: its source's)")
    _eval_options(parser)


def _comparator(arguments: argparse.Namespace) -> None:
    from stcr_plugin.evaluation.comparators import comparator

    _eval(arguments, comparator(arguments.comparator, arguments.weight))


def _controls_options(parser: Parser) -> None:
    from stcr_plugin.evaluation.control_list import CONTROLS

    split_options(parser, "controls")
    names = ", ".join(CONTROLS)
    parser.add_argument("--only", metavar="A,B", help=f"run only these controls (default: all that apply): {names}")
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="NAME:SPLIT=LABEL",
        help="add a row for other data, such as stcr_regress:regress=non_monotone; may be given several times",
    )
    parser.add_argument(
        "--pictures", type=int, metavar="N", help="group size of the multi-image row (default: 3, no row with --only)"
    )
    ask_options(parser)
    engine_options(parser)


def _controls(arguments: argparse.Namespace) -> None:
    from stcr_plugin.evaluation.controls import CONTROLS_MD, controls
    from stcr_plugin.report.controls_table import controls_console, write_controls_pages

    only = None if arguments.only is None else [name for name in arguments.only.split(",") if name]
    request = _request(arguments)
    out = results_folder(arguments, request, room="controls")
    found = controls(request, out, only=only, also=arguments.also, pictures=arguments.pictures)
    write_controls_pages(out, arguments.registry, found.rows)
    print(controls_console(found.rows))
    print(f"controls: {out / CONTROLS_MD}")


def _multi_image_options(parser: Parser) -> None:
    from stcr_plugin.figures import GroupSettings

    settings_options(parser, GroupSettings, _GROUPS)
    split_options(parser, "eval", limit="groups")
    ask_options(parser)
    engine_options(parser)


def _multi_image(arguments: argparse.Namespace) -> None:
    from stcr_plugin.evaluation.multi_image import evaluate_groups
    from stcr_plugin.figures import GroupSettings
    from stcr_plugin.report.groups_table import groups_line, write_groups_page

    groups = settings_from(GroupSettings, arguments, _GROUPS)
    request = _request(arguments)
    out = results_folder(arguments, request, f"{groups.pictures}-{groups.ask}")
    found = evaluate_groups(request, out, groups)
    write_groups_page(out, found)
    print(groups_line(found))
    print(f"results: {out}")


# ---- on frames, and on other questions


def _rank_options(parser: Parser) -> None:
    parser.add_argument(
        "picture", type=Path, nargs="*", default=[], metavar="PICTURE", help="picture files, or one video file"
    )
    registry_option(parser)
    model_option(parser)
    parser.add_argument("--task", help="the task in a few words; of an episode only if it has several")
    parser.add_argument("--dataset", metavar="NAME", help="name of a build, such as stcr, instead of pictures")
    parser.add_argument("--split", help="split of the build (default: heldout)")
    parser.add_argument("--episode", metavar="ID", help="rank the frames of this episode of the split")
    parser.add_argument("--voc", action="store_true", help="measure value-order correlation over episodes of the split")
    parser.add_argument("--episodes", type=int, metavar="N", help="with --voc: use N episodes (default: all)")
    parser.add_argument(
        "--frames", type=int, metavar="N", help="frames of an episode or a video, evenly spaced (default: 16)"
    )
    parser.add_argument(
        "--method",
        choices=("pairs", "gvl", "topreward"),
        default="pairs",
        help="compare pairs; or, without training, gvl: percentages of shuffled frames, topreward: log-probability "
        "that the task is done at each frame (default: pairs)",
    )
    parser.add_argument(
        "--comparisons", type=int, metavar="N", help="pairs to compare, each in both orders (default: n log2 n)"
    )
    parser.add_argument(
        "--group", type=int, metavar="N", help="ask for the order of N frames at a time, 3 to 8 (default: pairs)"
    )
    calibration_option(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the results")
    seed_option(parser, "draws prompt variants, first comparisons, episodes and the bootstrap")
    ask_options(parser)
    engine_options(parser)


def _rank(arguments: argparse.Namespace) -> None:
    from stcr_plugin.evaluation import rank, zero_shot
    from stcr_plugin.report import ranking_words

    found, out, method = _strips(arguments), arguments.out, arguments.method
    request = _request(arguments, found[0].root, [pair for strip in found for pair in strip.pairs()])
    if arguments.voc:
        answering = arguments.model or arguments.oracle or (request.engine and request.engine.identity().get("model"))
        request = dataclasses.replace(request, name=str(answering or arguments.engine))
        if method == "pairs":
            order = rank.value_order(request, found, out)
        else:
            order = zero_shot.order_values(request, found, out, method=method)
        ranking_words.draw_value_order(out, order)
        print(ranking_words.value_order_words(order))
        print(ranking_words.cost_words(order))
    else:
        if method == "pairs":
            ranking = rank.rank_frames(
                request,
                found[0],
                out,
                comparisons=arguments.comparisons,
                group=arguments.group,
                calibration=calibration(arguments),
            )
        else:
            ranking = zero_shot.rank_values(request, found[0], out, method=method)
        ranking_words.draw_ranking(out, ranking)
        print(ranking.words)
        print(ranking_words.cost_words(ranking))
    print(f"results: {out}")


def _strips(arguments: argparse.Namespace) -> list[Strip]:
    """The frames to rank: of pictures, a video, an episode, or with --voc of every episode."""
    from stcr_plugin.evaluation import strips

    exclude(arguments, "picture", ("dataset", "split", "episode", "voc"))
    exclude(arguments, "voc", ("episode", "comparisons", "group", "task", "calibration"))
    exclude(arguments, "group", ("calibration",))  # the order of a group is written, and has no probability
    exclude(arguments, "method", ("comparisons", "group", "calibration"))
    require(arguments, "picture", "task")
    require(arguments, "episodes", "voc")
    pictures, task = arguments.picture, arguments.task
    frames = strips.FRAMES if arguments.frames is None else arguments.frames
    if len(pictures) > 1:
        if arguments.frames is not None:
            raise ConfigError("", "--frames and several pictures exclude each other", "leave --frames out")
        return [strips.of_pictures(pictures, task)]
    if pictures:
        return [strips.of_video(pictures[0], task, arguments.out / "frames", frames=frames)]
    if not arguments.dataset:
        raise ConfigError("stcr rank", "no frames given", "name picture files or a video, or give --dataset")
    build = arguments.registry, arguments.dataset, arguments.split or "heldout"
    if arguments.voc:
        return strips.of_split(*build, frames=frames, episodes=arguments.episodes, seed=arguments.seed)
    if not arguments.episode:
        raise ConfigError("", "--dataset requires --episode or --voc")
    return [strips.of_episode(*build, episode_id=arguments.episode, frames=frames, task=task)]


def _guard_options(parser: Parser) -> None:
    model_option(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the results")
    parser.add_argument("--name", help="the model's name in tables (default: that of its stage)")
    parser.add_argument("--episodes", type=int, metavar="N", help="simulated scenes to evaluate on (default: 200)")
    seed_option(parser, "draws scenes, questions and the bootstrap")
    parser.add_argument(
        "--pope", type=Path, nargs="+", default=(), metavar="FILE", help="use POPE's own question files instead"
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of the pictures that POPE's files name")
    parser.add_argument(
        "--compare", type=Path, nargs="+", metavar="RUN", help="compare finished runs instead of evaluating a model"
    )
    ask_options(parser, without=PAIRS)
    engine_options(parser, oracle=False)


def _guard(arguments: argparse.Namespace) -> None:
    from stcr_plugin.evaluation import guard
    from stcr_plugin.report import guard_table

    exclude(arguments, "compare", sorted(given(arguments) - {"compare", "out"}))
    if arguments.compare:
        print(guard_table.compare_guards(arguments.compare, arguments.out))
        return
    exclude(arguments, "pope", ("episodes",))
    require(arguments, "pope", "images")
    require(arguments, "images", "pope")
    if arguments.out is None:
        raise ConfigError("", "stcr guard requires --out, the folder of the results")
    found = guard.guard(
        _request(arguments, arguments.images or arguments.out),
        arguments.out,
        episodes=guard.EPISODES if arguments.episodes is None else arguments.episodes,
        pope=arguments.pope,
        images=arguments.images,
    )
    guard_table.write_guard_page(arguments.out, found)
    print(guard_table.guard_lines(found))
    print(f"results: {arguments.out}")
