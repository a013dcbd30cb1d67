"""`stcr`: the one door to the plugin. Every command is a plain function of the room that does the work."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from stcr_plugin import __version__
from stcr_plugin.errors import StcrError

Settings = TypeVar("Settings")

if TYPE_CHECKING:
    from stcr_plugin.engines.settings import AskSettings, Engine
    from stcr_plugin.evaluation.comparators import Comparator
    from stcr_plugin.types import Pair

# Options that are fields of AskSettings: field -> how argparse is told of it. A command may have some of them alone.
_ASK: dict[str, dict[str, Any]] = {
    "mode": {"choices": ["cot", "direct"], "help": "let it reason, or not (default: as it was trained)"},
    "generate": {"action": "store_const", "const": True, "help": "generate in direct mode too, and parse"},
    "batch_size": {"type": int},
    "max_new_tokens": {"type": int},
    "image_max_pixels": {"type": int, "help": "as in training (default: the stage's, else 768*768)"},
    "image_min_pixels": {"type": int},
    "other_image_size": {"action": "store_const", "const": True, "help": "sizes may be others than in training"},
    "language": {"choices": ["en", "zh"]},
    "part": {"choices": ["train", "heldout"], "help": "wordings seen in training, or never"},
    "style": {"metavar": "NAME", "help": "what pictures are called: img, letters, ordinals or frames (default: img)"},
    "warn": {"action": "store_const", "const": True, "help": "say that the pictures may stand in either order"},
}
# Those that are about pictures and how much is asked at once, not about how two pictures are named and asked about.
_SIZES = ("batch_size", "max_new_tokens", "image_max_pixels", "image_min_pixels", "other_image_size", "language")
# Options that are settings of an engine: option -> its name there. All others are set in a file (--engine-config).
_ENGINE = {
    "url": "url",
    "server_model": "model",
    "key_env": "key_env",
    "concurrency": "concurrency",
    "timeout": "timeout",
    "requests_per_minute": "requests_per_minute",
    "price_in": "price_in",
    "price_out": "price_out",
}
_REGISTRY = "folder of the training sets"
_BY_HAND = ("engine", "engine_config", *_ENGINE)  # which engine it is, and how it is set
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
        "compare": ("model", "name", "episodes", "pope", "images", "oracle", *_BY_HAND, "generate", *_SIZES),
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
    sheet = show(arguments.name, arguments.registry, out, arguments.split, arguments.rows, arguments.seed)
    print(f"sheet: {sheet.path}, {sheet.shown} of {sheet.rows} rows")


def _base_build(arguments: argparse.Namespace) -> None:
    from stcr_plugin.embedded.base import build
    from stcr_plugin.frameworks.llamafactory.experiment import train

    print(f"base: {build(arguments.config, arguments.overrides, str(arguments.registry), train)}")


def _train(arguments: argparse.Namespace) -> None:
    from importlib import import_module

    backends = {"llamafactory": "llamafactory.experiment", "trl": "trl.sft"}
    import_module(f"stcr_plugin.frameworks.{backends[arguments.backend]}").train(
        arguments.recipe, _recipe_overrides(arguments)
    )


def _recipe_overrides(arguments: argparse.Namespace) -> list[str]:
    """The overrides of a recipe, in which --registry is `dataset_dir`."""
    from stcr_plugin.errors import ConfigError

    if arguments.registry is None:
        return list(arguments.overrides)
    if any(text.startswith("dataset_dir=") for text in arguments.overrides):
        raise ConfigError("--registry and dataset_dir= say the same; leave one of the two out")
    return [*arguments.overrides, f"dataset_dir={arguments.registry}"]


def _check(arguments: argparse.Namespace) -> int:
    from stcr_plugin.artefacts import write_json
    from stcr_plugin.preflight.checks import preflight
    from stcr_plugin.preflight.plan import Asked

    fields = ("gpus", "gpu_memory", "throughput", "tflops", "mfu", "images", "samples")
    report = preflight(
        arguments.recipe, _recipe_overrides(arguments), Asked(**{field: getattr(arguments, field) for field in fields})
    )
    print(report)
    if arguments.out:
        write_json(arguments.out, report.row())
    return 0 if report.passes(arguments.strict) else 1


def _eval(arguments: argparse.Namespace) -> None:
    from stcr_plugin.evaluation.comparators import words
    from stcr_plugin.evaluation.evaluate import evaluate
    from stcr_plugin.evaluation.leakage import overlap_words
    from stcr_plugin.report import console_table

    engine, ask = _engine(arguments, _asked(arguments))
    if arguments.control:
        return _put_controls(arguments, engine, ask, [arguments.control], ())
    if arguments.pictures is not None:
        return _eval_groups(arguments, engine, ask)
    chosen = _comparator(arguments)
    results = evaluate(
        arguments.model,
        arguments.dataset,
        arguments.split,
        arguments.out or _results_of(arguments, engine, chosen.name if chosen else ""),
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
    engine, ask = _engine(arguments, _asked(arguments))
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

    out = arguments.out or _results_of(arguments, engine, room="controls")
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

    asked = _settings(GroupSettings, arguments, ("pictures", "ask", "per_episode", "rotations"))
    results = evaluate_groups(
        arguments.model,
        arguments.dataset,
        arguments.split,
        arguments.out or _results_of(arguments, engine, f"{asked.pictures}-{asked.ask}"),
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
    engine, ask = _engine(arguments, _asked(arguments), found[0].root, pairs)
    if arguments.voc:
        name = str(arguments.model or arguments.oracle or engine.identity().get("model") or arguments.engine)
        print(rank.value_order(engine, found, out, ask, arguments.seed, name=name).words)
    else:
        print(rank.rank_frames(engine, found[0], out, ask, arguments.comparisons, arguments.seed).words)
    print(f"results: {out}")


def _settings(kind: type[Settings], arguments: argparse.Namespace, fields: Iterable[str]) -> Settings:
    """The settings that the options of these names give; those that a command does not have, or leaves out, stay."""
    from stcr_plugin.config import from_mapping

    given = {field: value for field in fields if (value := getattr(arguments, field, None)) is not None}
    return from_mapping(kind, given, "the options")


def _asked(arguments: argparse.Namespace) -> AskSettings:
    from stcr_plugin.engines.settings import AskSettings

    return _settings(AskSettings, arguments, _ASK)


def _engine(
    arguments: argparse.Namespace, ask: AskSettings, pictures: Path | None = None, pairs: Sequence[Pair] | None = None
) -> tuple[Engine, AskSettings]:
    """What `_engine_options` name, and `ask` as it is to be asked; `pictures` and `pairs` None: those of the split."""
    from stcr_plugin.config import read_yaml
    from stcr_plugin.engines.open import engine_for
    from stcr_plugin.engines.oracles import Oracle
    from stcr_plugin.errors import ConfigError
    from stcr_plugin.registry.manifest import read_pairs

    if arguments.oracle:
        if arguments.model:
            raise ConfigError("--oracle answers without a model; leave --model out")
        pairs = read_pairs(arguments.registry, arguments.dataset, arguments.split) if pairs is None else pairs
        return Oracle(arguments.oracle, pairs, seed=arguments.seed, generates=ask.generate), ask
    options = read_yaml(arguments.engine_config) if arguments.engine_config else {}
    options |= {
        field: getattr(arguments, name) for name, field in _ENGINE.items() if getattr(arguments, name) is not None
    }
    pictures = pictures or arguments.registry
    return engine_for(arguments.engine or "local", arguments.model, pictures, ask=ask, options=options)


def _results_of(arguments: argparse.Namespace, engine: Engine, how: str = "", room: str = "eval") -> Path:
    """Where results go unless --out says: beside the model, or for one that a server has below runs/eval.

    What is asked otherwise than by the defaults has a folder of its own, and writes over no other figures.
    """
    folder = _asked(arguments).folder(arguments.dataset, arguments.split, how)
    if arguments.model is None:
        served = re.sub(r"[^\w.-]+", "_", str(engine.identity().get("model") or arguments.oracle)).strip("._")
        return Path("runs", room, served or "model", folder)
    return Path(
        arguments.model, room, folder if arguments.engine in (None, "local") else f"{folder}-{arguments.engine}"
    )


def _study(arguments: argparse.Namespace) -> None:
    from stcr_plugin.config import load
    from stcr_plugin.study.runner import run_study
    from stcr_plugin.study.study_config import StudyConfig

    config = load(StudyConfig, arguments.config, arguments.overrides)
    print(f"study: {run_study(config, arguments.out or Path('runs', 'studies', config.name), arguments.jobs)}")


def _guard(arguments: argparse.Namespace) -> None:
    from stcr_plugin.errors import ConfigError
    from stcr_plugin.evaluation import guard

    if arguments.compare:
        print(guard.compare(arguments.compare, arguments.out))
        return
    if arguments.out is None or arguments.oracle:
        raise ConfigError("give --out, the folder of the results; and no --oracle, which knows of pairs alone")
    episodes = guard.EPISODES if arguments.episodes is None else arguments.episodes
    engine, ask = _engine(arguments, _asked(arguments), arguments.images if arguments.pope else arguments.out)
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


def _report(arguments: argparse.Namespace) -> None:
    from stcr_plugin.report import PAGE, report

    written = report(arguments.runs, arguments.out, arguments.registry, arguments.seed)
    print(f"report: {written} and {PAGE}")


def _export(arguments: argparse.Namespace) -> None:
    from stcr_plugin.release.export import export
    from stcr_plugin.release.server_commands import vllm_line

    done = export(
        arguments.run_folder,
        arguments.out,
        arguments.dtype,
        arguments.registry,
        arguments.name,
        arguments.base_model,
        arguments.license,
        tuple(arguments.datasets),
    )
    for line in done.missing:
        print(f"missing in the model card: {line}")
    print(f"exported: {done.out}, weights {done.how}, {done.dtype}, digest {done.digest}")
    print(f"serve: {vllm_line(str(done.out), done.name, done.dtype, done.limits)}")


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
    opened = _engine(arguments, _asked(arguments), ROOT, [])
    found = judge(opened, given, arguments.task, ties=arguments.ties)
    if arguments.json:
        row = dataclasses.asdict(found) | {"warnings": found.warnings, "engine": dict(opened[0].identity())}
        print(json.dumps(row, indent=2, ensure_ascii=False))
    else:
        print(found.words)


def _benchmark_export(arguments: argparse.Namespace) -> None:
    from stcr_plugin.benchmark.benchmark_files import export

    done = export(
        arguments.registry,
        arguments.name,
        arguments.split,
        arguments.out,
        arguments.format,
        _asked(arguments),
        arguments.seed,
    )
    print(f"exported: {done.rows} rows to {done.path}\nrun: {done.how}")


def _benchmark_read(arguments: argparse.Namespace) -> None:
    from stcr_plugin.benchmark.logs import read
    from stcr_plugin.report import console_table

    results = read(
        arguments.logs,
        arguments.dataset,
        arguments.split,
        arguments.out,
        arguments.registry,
        arguments.name,
        arguments.model,
    )
    print(console_table([(str(results.row["name"]), results.figures)]))
    print(f"results: {results.out}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stcr", description="Cure a vision-language model of order bias, and prove it."
    )
    parser.add_argument("--version", action="version", version=f"stcr_plugin {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    data = commands.add_parser("data", help="build and check training sets").add_subparsers(required=True)
    build = _command(data, "build", _data_build, "write frames, training sets, pairs and manifest of a data config")
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
    check = _command(data, "check", _data_check, "decode every picture, check counts, paths, lengths and labels")
    check.add_argument("name", help="name of a build, such as stcr")
    export = _command(data, "export", _data_export, "write a dataset or a split in the files of STCR's authors")
    export.add_argument("name", help="name of a dataset, such as stcr_cot, or with --split of a build")
    export.add_argument("--split", help="every pair of this split in both orders, as weak rows")
    export.add_argument("--format", choices=["json", "csv"], required=True, help="their training or evaluation file")
    export.add_argument("--out", type=Path, required=True, help="file to write")

    overlap = _command(data, "overlap", _data_overlap, "what two datasets share; exit code 1: episodes or pictures")
    overlap.add_argument("trained", metavar="A", help="what is trained on: a build, build:split or a dataset")
    overlap.add_argument("evaluated", metavar="B", help="what is evaluated, named likewise")
    overlap.add_argument("--seed", type=int, default=0, help="draws which pictures are looked at for near ones")
    overlap.add_argument("--out", type=Path, help="JSON file to write the figures into")

    show = _command(data, "show", _data_show, "draw rows and write them as a page of pictures, labels and texts")
    show.add_argument("name", help="name of a build, such as stcr, or of a dataset, such as stcr_cot")
    show.add_argument("--split", help="rows of this split alone; its pairs, where no dataset is drawn from it")
    show.add_argument("--rows", type=int, default=48, help="how many to show (default: 48)")
    show.add_argument("--seed", type=int, default=0, help="draws the rows")
    show.add_argument("--out", type=Path, help="HTML file to write (default: runs/show/NAME.html)")

    base = commands.add_parser("base", help="the embedded base").add_subparsers(required=True)
    base_build = _command(base, "build", _base_build, "make the tiny Qwen2.5-VL and give it the chronological prior")
    base_build.add_argument("config", help="base config, YAML")
    base_build.add_argument("overrides", nargs="*", help="key=value laid over the config")

    train = _command(
        commands, "train", _train, "train one stage through LLaMA-Factory's official functions, or TRL's", False
    )
    train.add_argument("recipe", help="recipe, YAML, as for llamafactory-cli train")
    train.add_argument("overrides", nargs="*", help="key=value laid over the recipe")
    train.add_argument("--registry", type=Path, help=f"{_REGISTRY} (default: the recipe's dataset_dir)")
    train.add_argument(
        "--backend",
        choices=["llamafactory", "trl"],
        default="llamafactory",
        help="whose trainer: LLaMA-Factory's own (default), or TRL's SFTTrainer, with the same samples and losses",
    )

    check = _command(
        commands, "check", _check, "what is wrong with a recipe, its model and data, before a GPU is paid", False
    )
    check.add_argument("recipe", help="recipe, YAML, as for stcr train")
    check.add_argument("overrides", nargs="*", help="key=value laid over the recipe")
    check.add_argument("--registry", type=Path, help=f"{_REGISTRY} (default: the recipe's dataset_dir)")
    check.add_argument("--gpus", type=int, default=1, metavar="N", help="processes of the run (default: 1)")
    check.add_argument("--gpu-memory", type=float, metavar="GIB", help="of one GPU; an estimate above it is an error")
    check.add_argument("--throughput", type=float, metavar="SAMPLES_PER_SECOND", help="of all GPUs, for the time")
    check.add_argument("--tflops", type=float, metavar="X", help="peak of one GPU, with --mfu, for the time")
    check.add_argument("--mfu", type=float, metavar="Y", help="share of the peak that is reached, such as 0.4")
    check.add_argument("--images", type=int, metavar="N", help="decode so many pictures (default: all)")
    check.add_argument("--samples", type=int, metavar="N", help="tokenise so many samples of a dataset (default: all)")
    check.add_argument("--out", type=Path, metavar="FILE.json", help="the verdicts and their figures")
    check.add_argument("--strict", action="store_true", help="warnings fail too (exit code 1)")

    evaluate = _command(commands, "eval", _eval, "measure the forward/backward gap of a model on a split")
    _split_options(evaluate, "eval")
    evaluate.add_argument("--control", metavar="NAME", help="one of `stcr controls` alone, against the plain run")
    _ask_options(evaluate)
    _comparator_options(evaluate)
    _group_options(evaluate)
    _engine_options(evaluate)

    controls = _command(commands, "controls", _controls, "put a model's figures to the test, a verdict a control")
    _split_options(controls, "controls")
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
    _ask_options(controls)
    _engine_options(controls)

    rank = _command(commands, "rank", _rank, "order frames by how far along they are, and draw the progress curve")
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
    _ask_options(rank)
    _engine_options(rank)

    study = _command(commands, "study", _study, "train and compare a grid of chains over several seeds", False)
    study.add_argument("config", help="study, YAML, such as recipes/studies/ablation.yaml")
    study.add_argument("overrides", nargs="*", help="key=value laid over the study, such as 'seeds=[5]'")
    study.add_argument("--out", type=Path, help="folder of all that is made (default: runs/studies/NAME)")
    study.add_argument("--jobs", type=int, default=1, help="commands at a time, each with its share of the cores")

    guard = _command(
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
    _ask_options(guard, _SIZES, generate="let it write its answer, and parse that")
    _engine_options(guard)

    report = _command(commands, "report", _report, "all that is known of a chain's runs, as one HTML file and Markdown")
    report.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders in the order to show them")
    report.add_argument("--out", type=Path, required=True, help="folder of report.html, report.md and the figures")
    report.add_argument("--seed", type=int, default=0, help="draws the pairs that are shown")

    exported = _command(commands, "export", _export, "a finished stage as a folder to share and serve, with its card")
    exported.add_argument("run_folder", type=Path, metavar="RUN", help="output folder of a stage; adapters are merged")
    exported.add_argument("--out", type=Path, required=True, help="folder to write, whole or not at all")
    exported.add_argument("--dtype", default="auto", help="float32, bfloat16 or float16 (default: as it was trained)")
    exported.add_argument("--name", help="the model's name at a server (default: that of its stage)")
    exported.add_argument("--base-model", metavar="ID", help="of the card: the Hub's name of the model at the bottom")
    exported.add_argument("--license", metavar="ID", help="of the card (default: what the base's own card says)")
    exported.add_argument("--datasets", nargs="+", default=(), metavar="ID", help="of the card: data on the Hub")

    judge = _command(commands, "judge", _judge, "which of 2 to 8 pictures of one task is closest to completion", False)
    judge.add_argument(
        "given", nargs="+", metavar="MODEL PICTURE", help="a model's folder (none with a server), then files or VIDEO@S"
    )
    judge.add_argument("--task", required=True, help="what is being done, in a few words")
    judge.add_argument("--json", action="store_true", help="print all that is known of the judgement")
    judge.add_argument("--ties", action="store_true", help='offer "neither", as builds that teach ties do')
    judge.set_defaults(seed=0)  # of the oracles
    _ask_options(judge)
    _engine_options(judge)

    benchmark = commands.add_parser("benchmark", help="a split for lmms-eval and VLMEvalKit, and their logs read back")
    benchmarks = benchmark.add_subparsers(required=True)
    shared = _command(benchmarks, "export", _benchmark_export, "write a split as another tool's benchmark")
    shared.add_argument("name", help="name of a build, such as stcr")
    shared.add_argument("--split", default="heldout", help="split of the build (default: heldout)")
    shared.add_argument("--format", choices=["lmms-eval", "vlmevalkit"], required=True, help="whose files to write")
    shared.add_argument("--out", type=Path, required=True, help="folder, which may hold other benchmarks")
    _ask_options(
        shared,
        ("language", "part", "style", "warn"),
        mode="let it reason, or not (default: direct)",
        max_new_tokens="where lmms-eval stops an answer (default: 256)",
    )
    shared.add_argument("--seed", type=int, default=0, help="draws the wordings")
    logged = _command(benchmarks, "read", _benchmark_read, "a log of a benchmark -> results as of stcr eval")
    logged.add_argument("logs", type=Path, metavar="LOGS", help="a log, or a folder that holds one of this split")
    logged.add_argument("--dataset", required=True, help="name of the build, such as stcr")
    logged.add_argument("--split", default="heldout", help="split of the build (default: heldout)")
    logged.add_argument("--out", type=Path, required=True, help="folder of the results")
    logged.add_argument("--name", help="the model's name in tables (default: that of its log)")
    logged.add_argument("--model", type=Path, help="the model's folder, to look at what it was trained on")
    return parser


def _ask_options(parser: argparse.ArgumentParser, fields: Iterable[str] = tuple(_ASK), **help: str) -> None:
    """The options of `fields`, and those that `help` words anew."""
    for field, how in _ASK.items():
        if field in help or field in fields:
            told = how | ({"help": help[field]} if field in help else {})
            parser.add_argument(f"--{field.replace('_', '-')}", **told)


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


def _split_options(parser: argparse.ArgumentParser, room: str) -> None:
    """What is asked of whom, and where the results go."""
    parser.add_argument("--model", type=Path, help="folder of a model, such as a stage's output; a server needs none")
    parser.add_argument("--dataset", required=True, help="name of a build, such as stcr")
    parser.add_argument("--split", default="heldout", help="split of the build (default: heldout)")
    parser.add_argument(
        "--out",
        type=Path,
        help=f"folder of the results (default: MODEL/{room}/DATASET-SPLIT[-ENGINE], without MODEL runs/{room}/SERVED/)",
    )
    parser.add_argument("--name", help="the model's name in tables (default: that of its stage)")
    parser.add_argument("--limit", type=int, help="so many pairs, spread evenly over the episodes (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="draws the wordings and the bootstrap")


def _engine_options(parser: argparse.ArgumentParser) -> None:
    """The options that `_engine` reads, besides --model."""
    group = parser.add_argument_group("the engine that asks the model")
    group.add_argument(
        "--oracle",
        metavar="NAME",
        help="ask no model, but position-only, coin, right or chronological, whose figures are known beforehand",
    )
    group.add_argument(
        "--engine",
        choices=["local", "server", "vllm"],
        help="transformers here, an OpenAI-compatible server (always left to write), or vLLM here (default: local)",
    )
    group.add_argument("--engine-config", metavar="FILE", help="YAML with the engine's settings; options go before it")
    group.add_argument("--url", help="of the server, up to its /v1")
    group.add_argument("--server-model", metavar="NAME", help="the model's name at the server")
    group.add_argument(
        "--key-env", metavar="VARIABLE", help="environment variable with the key, '' for none (default: OPENAI_API_KEY)"
    )
    group.add_argument("--concurrency", type=int, help="requests under way at once (default: 8)")
    group.add_argument("--timeout", type=float, metavar="SECONDS", help="for one request (default: 120)")
    group.add_argument(
        "--requests-per-minute", type=float, metavar="N", help="at most (default: as many as it answers)"
    )
    group.add_argument("--price-in", type=float, metavar="P", help="of a million tokens of the prompts, for the cost")
    group.add_argument("--price-out", type=float, metavar="P", help="of a million tokens of the answers")


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int | None],
    help: str,
    registry: bool = True,
) -> argparse.ArgumentParser:
    """`registry`: it reads or writes the folder of the training sets, which --registry names."""
    parser = commands.add_parser(name, help=help, description=help)
    parser.set_defaults(run=run, command=name)
    if registry:
        parser.add_argument("--registry", type=Path, default=Path("data_registry"), help=_REGISTRY)
    return parser


if __name__ == "__main__":
    sys.exit(main())
