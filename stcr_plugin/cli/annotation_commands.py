"""`stcr annotate`: have a model describe the pairs of a build, and check what it writes."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from stcr_plugin import artefacts
from stcr_plugin.cli import review_command
from stcr_plugin.cli.options import (
    Actions,
    Commands,
    Parser,
    ask_options,
    asked,
    command,
    engine_options,
    model_option,
    open_engine,
    registry_option,
    seed_option,
    settings_from,
    settings_options,
)
from stcr_plugin.errors import ConfigError

if TYPE_CHECKING:
    from stcr_plugin.annotation.summary import Estimate
    from stcr_plugin.annotation.teachers import Teacher
    from stcr_plugin.engines.settings import AskSettings, Engine

_FIELDS = ("questions", "together", "language", "tries", "samples")
_JUDGE_KEY = "STCR_JUDGE_KEY"  # so that the key for one address is never sent to another one
_TOKENS = "max_new_tokens=512"  # of a description of two pictures, where --set does not say otherwise


def add_commands(commands: Commands) -> None:
    """Add the command of this module, and what may follow its name in place of a build."""
    help = "have a model describe the pairs of a build, and check every text"
    parser = command(commands, "annotate", _annotate, help=help, options=_annotate_options)
    parser.description = f"{help};\nstcr annotate review FILE shows them to a person"
    review_command.add_command(Actions(parser))


def _annotate_options(parser: Parser) -> None:
    from stcr_plugin.annotation.annotation_settings import AnnotateSettings
    from stcr_plugin.samples.annotations import CHECKS

    parser.add_argument("dataset", metavar="BUILD", help="name of a build, such as stcr")
    registry_option(parser)
    parser.add_argument("--split", default="train", help="split of the build (default: train)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the results (default: runs/annotate/BUILD-SPLIT)"
    )
    settings_options(parser, AnnotateSettings, _FIELDS)
    parser.add_argument(
        "--checks",
        type=lambda text: tuple(filter(None, text.split(","))),
        metavar="NAMES",
        help=f"checks to make, with commas between them (default: {','.join(CHECKS)})",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="use N pairs, spread over episodes (default: all)")
    seed_option(parser, "draws the pairs of --limit")
    parser.add_argument("--yes", action="store_true", help="go on after the estimate, with a server elsewhere too")
    model_option(parser)
    ask_options(parser, without=("mode", "generate", "language", "part", "style", "warn"))
    engine_options(parser, oracle=False)
    group = parser.add_argument_group("second model, which confirms each sentence and judges without pictures")
    group.add_argument(
        "--judge-model", metavar="NAME", help="its name at the server, or its folder (default: the same model)"
    )
    group.add_argument("--judge-url", metavar="URL", help="address of its server (default: that of the first model)")
    group.add_argument(
        "--judge-config", type=Path, metavar="FILE", help="YAML with its engine's settings, such as key_env and prices"
    )


def _annotate(arguments: argparse.Namespace) -> None:
    from stcr_plugin.annotation.annotate import AnnotateRequest, annotate
    from stcr_plugin.annotation.annotation_settings import AnnotateSettings
    from stcr_plugin.report.annotation_words import estimate_words, summary_warnings, summary_words
    from stcr_plugin.samples.annotations import Annotation

    settings = settings_from(AnnotateSettings, arguments, (*_FIELDS, "checks"))
    arguments.set = [_TOKENS, *arguments.set]
    engine, ask = open_engine(arguments)
    describer = _teacher(engine, dataclasses.replace(ask, language=settings.language), arguments.model)
    given = asked(arguments)  # a second model sizes pictures as it was trained, not as the first was
    most, least = given.image_max_pixels, given.image_min_pixels
    second = _second(arguments, engine, dataclasses.replace(ask, image_max_pixels=most, image_min_pixels=least))
    if second is None and {"confirmed", "blind"} & {*settings.checks} and settings.questions != "authors":
        print(f"WARNING: {describer.name} verifies its own texts; name a second model (--judge-model)")
    remote = any(_is_remote(one.engine) for one in (describer, second) if one)
    out = arguments.out or Path("runs", "annotate", f"{arguments.dataset}-{arguments.split}")

    def go_on(found: Estimate) -> bool:
        print(estimate_words(found), flush=True)
        return bool(arguments.yes) or not remote

    request = AnnotateRequest(
        registry=arguments.registry,
        dataset=arguments.dataset,
        split=arguments.split,
        describer=describer,
        second=second,
        settings=settings,
        limit=arguments.limit,
        seed=arguments.seed,
    )
    found = annotate(request, out, go_on=go_on)
    print(summary_words(found))
    for line in summary_warnings(found):
        print(f"WARNING: {line}")
    print(f"texts: {out / Annotation.file}")
    if not found.finished:
        print("stopped after the estimate: run the same command with --yes to go on, nothing is asked twice")


def _teacher(engine: Engine, ask: AskSettings, folder: Path | None) -> Teacher:
    from stcr_plugin.annotation.teachers import Teacher

    identity = engine.identity()
    served = str(identity.get("model") or identity["engine"])
    return Teacher(Path(folder).resolve().name if folder else served, engine, ask)


def _is_remote(engine: Engine) -> bool:
    from stcr_plugin.engines.server import ServerEngine

    return isinstance(engine, ServerEngine) and not engine.server.loopback


def _second(arguments: argparse.Namespace, first: Engine, ask: AskSettings) -> Teacher | None:
    """The second model, None where none is named.

    At a server where one is named. A folder with a model is loaded here, also beside a first model at a server, since a
    server may answer to any name with the one model that it has. Else of the first model's kind.
    """
    from stcr_plugin.config import read_yaml
    from stcr_plugin.engines.open import engine_for
    from stcr_plugin.engines.server import ServerEngine

    name, url = arguments.judge_model, arguments.judge_url
    if name is None:
        if url or arguments.judge_config:
            raise ConfigError("", "--judge-url and --judge-config require --judge-model")
        return None
    own: dict[str, Any] = read_yaml(arguments.judge_config) if arguments.judge_config else {}
    given = own | ({"url": url} if url else {})
    beside_server = isinstance(first, ServerEngine)
    if "url" not in given and (not beside_server or _is_model(Path(name))):
        kind = "local" if beside_server else arguments.engine or "local"
        folder, options = Path(name), given
        if not folder.is_dir():
            raise ConfigError(name, "no such folder", "give the second model's folder, or its server (--judge-url)")
    else:
        kind, folder, options = "server", None, _served(name, given, first)
    engine, second_ask = engine_for(kind, folder, arguments.registry, ask=ask, options=options)
    return _teacher(engine, second_ask, folder)


def _is_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("config.json", artefacts.ADAPTER_CONFIG))


def _served(name: str, given: dict[str, Any], first: Engine) -> dict[str, Any]:
    """Settings of the second model's server: those of the first one but its prices, and its key at its address only."""
    from stcr_plugin.engines.server import ServerEngine

    shared: dict[str, Any] = {}
    if isinstance(first, ServerEngine):
        shared = dataclasses.asdict(first.server) | {"price_in": None, "price_out": None}
        if _address(given.get("url", first.server.url)) != _address(first.server.url):
            shared["key_env"] = _JUDGE_KEY
            del shared["extra_body"]
        elif name == first.server.model:
            shared |= {"price_in": first.server.price_in, "price_out": first.server.price_out}
    else:
        shared["key_env"] = _JUDGE_KEY
    return shared | given | {"model": name}


def _address(url: str) -> tuple[str, str]:
    parts = urlsplit(str(url))
    return parts.scheme, parts.netloc
