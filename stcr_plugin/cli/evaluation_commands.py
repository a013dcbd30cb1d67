"""`stcr eval`, `controls`, `rank` and `guard`: measure a model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stcr_plugin.cli.options import (
    SIZES,
    Commands,
    ask_options,
    asked,
    command,
    engine_options,
    open_engine,
    results_folder,
    settings_from,
    split_options,
)

if TYPE_CHECKING:
    from stcr_plugin.engines.settings import AskSettings, Engine
    from stcr_plugin.evaluation.comparators import Comparator


def _eval(arguments: argparse.Namespace) -> None:
    from stcr_plugin.evaluation.comparators import words
    from stcr_plugin.evaluation.evaluate import evaluate
    from stcr_plugin.evaluation.leakage import overlap_words
    from stcr_plugin.report.tables import console_table

    engine, ask = open_engine(arguments, asked(arguments))
    if arguments.control:
        return _put_controls(arguments, engine, ask, [arguments.control], ())
    if arguments.pictures is not None:
        return _eval_groups(arguments, engine, ask)
    chosen = _comparator(arguments)
    results = evaluate(
        arguments.model,
        arguments.dataset,
        arguments.split,
        arguments.out or results_folder(arguments, engine, chosen.name if chosen else ""),
        arguments.registry,
        ask,
        arguments.limit,
        arguments.seed,
        name=arguments.name,
        engine=engine,
        comparator=chosen,
    )
    print(console_table([(str(results.row["name"]), results.figures)]))
    if chosen:
        print(words(results.row))
    print(overlap_words(results.row["overlap"]))
    print(f"results: {results.out}")


def _comparator(arguments: argparse.Namespace) -> Comparator | None:
    from stcr_plugin.evaluation.comparators import comparator

    return comparator(arguments.comparator, arguments.weight) if arguments.comparator else None


def _controls(arguments: argparse.Namespace) -> None:
    engine, ask = open_engine(arguments, asked(arguments))
    only = None if arguments.only is None else [name for name in arguments.only.split(",") if name]
    _put_controls(arguments, engine, ask, only, arguments.also, arguments.pictures)


def _put_controls(
    arguments: argparse.Namespace,
    engine: Engine,
    ask: AskSettings,
    only: Sequence[str] | None,
    also: Sequence[str],
    pictures: int | None = None,
) -> None:
    from stcr_plugin.evaluation.controls import CONTROLS_MD, console, controls

    out = arguments.out or results_folder(arguments, engine, room="controls")
    rows = controls(
        arguments.model,
        arguments.dataset,
        arguments.split,
        out,
        arguments.registry,
        ask,
        only,
        arguments.limit,
        arguments.seed,
        also=also,
        engine=engine,
        name=arguments.name,
        pictures=pictures,
    )
    print(console(rows))
    print(f"controls: {out / CONTROLS_MD}")


def _eval_groups(arguments: argparse.Namespace, engine: Engine, ask: AskSettings) -> None:
    from stcr_plugin.evaluation.multi_image import GroupSettings, evaluate_groups, summary

    asked = settings_from(GroupSettings, arguments, ("pictures", "ask", "per_episode", "rotations"))
    results = evaluate_groups(
        arguments.model,
        arguments.dataset,
        arguments.split,
        arguments.out or results_folder(arguments, engine, f"{asked.pictures}-{asked.ask}"),
        arguments.registry,
        ask,
        asked,
        arguments.limit,
        arguments.seed,
        name=arguments.name,
        engine=engine,
    )
    print(summary(results.row))
    print(f"results: {results.out}")


def _rank(arguments: argparse.Namespace) -> None:
    from stcr_plugin.errors import ConfigError
    from stcr_plugin.evaluation import rank, strips

    out, paths = arguments.out, arguments.pictures
    build = arguments.registry, arguments.dataset, arguments.split or "heldout"
    if bool(arguments.dataset) == bool(paths):
        raise ConfigError("give either --dataset with --episode or --voc, or pictures or a video file with --task")
    if arguments.dataset and bool(arguments.episode) == arguments.voc:
        raise ConfigError("with --dataset: give either --episode, to rank its frames, or --voc")
    if paths and (arguments.voc or arguments.episode or not arguments.task):
        raise ConfigError("pictures and videos are ranked with --task, and without --episode and --voc")
    if len(paths) > 1 and arguments.frames is not None:
        raise ConfigError("--frames is of an episode or a video; of pictures all that are named are ranked")
    frames = strips.FRAMES if arguments.frames is None else arguments.frames
    if arguments.voc:
        found = strips.of_split(*build, frames, arguments.episodes, arguments.seed)
    elif arguments.dataset:
        found = [strips.of_episode(*build, arguments.episode, frames, arguments.task)]
    elif len(paths) == 1:
        found = [strips.of_video(paths[0], arguments.task, out / "frames", frames)]
    else:
        found = [strips.of_pictures(paths, arguments.task)]
    pairs = [pair for strip in found for pair in strip.pairs()]
    engine, ask = open_engine(arguments, asked(arguments), found[0].root, pairs)
    if arguments.voc:
        name = str(arguments.model or arguments.oracle or engine.identity().get("model") or arguments.engine)
        print(rank.value_order(engine, found, out, ask, arguments.seed, name=name).words)
    else:
        print(rank.rank_frames(engine, found[0], out, ask, arguments.comparisons, arguments.seed).words)
    print(f"results: {out}")


def _guard(arguments: argparse.Namespace) -> None:
    from stcr_plugin.errors import ConfigError
    from stcr_plugin.evaluation import guard

    if arguments.compare:
        print(guard.compare(arguments.compare, arguments.out))
        return
    if arguments.out is None or arguments.oracle:
        raise ConfigError("give --out, the folder of the results; and no --oracle, which knows of pairs alone")
    episodes = guard.EPISODES if arguments.episodes is None else arguments.episodes
    engine, ask = open_engine(arguments, asked(arguments), arguments.images if arguments.pope else arguments.out)
    row = guard.guard(
        arguments.model,
        arguments.out,
        episodes,
        arguments.seed,
        ask,
        arguments.pope,
        arguments.images,
        name=arguments.name,
        engine=engine,
    )
    print(guard.words(row))
    print(f"results: {arguments.out}")


def add_commands(commands: Commands) -> None:
    evaluate = command(commands, "eval", _eval, "measure the forward/backward gap of a model on a split")
    split_options(evaluate, "eval")
    evaluate.add_argument("--control", metavar="NAME", help="one of `stcr controls` alone, against the plain run")
    ask_options(evaluate)
    _comparator_options(evaluate)
    _group_options(evaluate)
    engine_options(evaluate)

    controls = command(commands, "controls", _controls, "put a model's figures to the test, a verdict a control")
    split_options(controls, "controls")
    controls.add_argument("--only", metavar="A,B", help="these controls alone (default: all that apply)")
    controls.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="NAME:SPLIT=LABEL",
        help="a row for other data, such as stcr_regress:regress=non_monotone; may be given several times",
    )
    controls.add_argument(
        "--pictures",
        type=int,
        metavar="N",
        help="a row of groups of 3 to 8 pictures (default: 3, none with --only)",
    )
    ask_options(controls)
    engine_options(controls)

    rank = command(commands, "rank", _rank, "order frames by how far along they are, and draw the progress curve")
    rank.add_argument("pictures", type=Path, nargs="*", metavar="PICTURE", help="picture files, or one video file")
    rank.add_argument("--model", type=Path, help="folder of a model, such as a stage's output; a server needs none")
    rank.add_argument("--task", help="what is being done, in a few words; of an episode only where it has several")
    rank.add_argument("--dataset", help="name of a build, such as stcr, instead of pictures")
    rank.add_argument("--split", help="split of the build (default: heldout)")
    rank.add_argument("--episode", help="rank the frames of this episode of the split")
    rank.add_argument("--voc", action="store_true", help="how well values agree with time, over episodes of the split")
    rank.add_argument("--episodes", type=int, help="with --voc: so many episodes, drawn by the seed (default: all)")
    rank.add_argument("--frames", type=int, help="of an episode or a video, evenly spread (default: 16)")
    rank.add_argument("--comparisons", type=int, help="pairs to ask, each in both orders (default: n log2 n)")
    rank.add_argument("--out", type=Path, required=True, help="folder of the results")
    rank.add_argument("--seed", type=int, default=0, help="draws wordings, first comparisons, episodes, the bootstrap")
    ask_options(rank)
    engine_options(rank)

    guard = command(
        commands, "guard", _guard, "what training cost: yes/no questions about one picture, as in POPE", False
    )
    guard.add_argument("--model", type=Path, help="folder of a model, such as a stage's output; a server needs none")
    guard.add_argument("--out", type=Path, help="folder of the results")
    guard.add_argument("--name", help="the model's name in tables (default: that of its stage)")
    guard.add_argument("--episodes", type=int, help="simulated scenes to ask about (default: 200)")
    guard.add_argument("--seed", type=int, default=0, help="draws the scenes, the questions and the bootstrap")
    guard.add_argument("--pope", type=Path, nargs="+", default=(), metavar="FILE", help="ask POPE's own files instead")
    guard.add_argument("--images", type=Path, help="folder of the pictures that POPE's files name")
    guard.add_argument("--compare", type=Path, nargs="+", metavar="RUN", help="ask nothing; finished runs side by side")
    ask_options(guard, SIZES, generate="let it write its answer, and parse that")
    engine_options(guard)


def _comparator_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to try before training")
    group.add_argument(
        "--comparator",
        metavar="NAME",
        help="swap_ensemble, warned, ritual, m3id or calibrated: ask otherwise, weights of the model as they are",
    )
    group.add_argument("--weight", type=float, metavar="W", help="of the changed prompt (default: its source's)")


def _group_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("groups of pictures instead of pairs")
    group.add_argument("--pictures", type=int, metavar="N", help="3 to 8 pictures in every rotation; --limit: groups")
    group.add_argument("--ask", choices=["closest", "order"], help="name the closest, or list all (default: closest)")
    group.add_argument("--per-episode", type=int, metavar="N", help="groups of an episode at most (default: 4)")
    group.add_argument("--rotations", type=int, metavar="N", help="arrangements of a group (default: all)")
