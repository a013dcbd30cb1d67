"""Options that several commands share, and what is made from them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

Settings = TypeVar("Settings")
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

if TYPE_CHECKING:
    from stcr_plugin.engines.settings import AskSettings, Engine
    from stcr_plugin.types import Pair

# Options that are fields of AskSettings: field -> how argparse is told of it. A command may have some of them alone.
ASK: dict[str, dict[str, Any]] = {
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
SIZES = ("batch_size", "max_new_tokens", "image_max_pixels", "image_min_pixels", "other_image_size", "language")
# Options that are settings of an engine: option -> its name there. All others are set in a file (--engine-config).
ENGINE = {
    "url": "url",
    "server_model": "model",
    "key_env": "key_env",
    "concurrency": "concurrency",
    "timeout": "timeout",
    "requests_per_minute": "requests_per_minute",
    "price_in": "price_in",
    "price_out": "price_out",
}
REGISTRY = "folder of the training sets"


def command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int | None],
    help: str,
    registry: bool = True,
) -> argparse.ArgumentParser:
    """`registry`: it reads or writes the folder of the training sets, which --registry names."""
    parser = commands.add_parser(name, help=help, description=help)
    parser.set_defaults(run=run, command=name)
    if registry:
        parser.add_argument("--registry", type=Path, default=Path("data_registry"), help=REGISTRY)
    return parser


def settings_from(kind: type[Settings], arguments: argparse.Namespace, fields: Iterable[str]) -> Settings:
    """The settings that the options of these names give; those that a command does not have, or leaves out, stay."""
    from stcr_plugin.config import from_mapping

    given = {field: value for field in fields if (value := getattr(arguments, field, None)) is not None}
    return from_mapping(kind, given, "the options")


def asked(arguments: argparse.Namespace) -> AskSettings:
    from stcr_plugin.engines.settings import AskSettings

    return settings_from(AskSettings, arguments, ASK)


def open_engine(
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
        return Oracle(arguments.oracle, pairs, arguments.seed, ask.generate), ask
    options = read_yaml(arguments.engine_config) if arguments.engine_config else {}
    options |= {
        field: getattr(arguments, name) for name, field in ENGINE.items() if getattr(arguments, name) is not None
    }
    return engine_for(arguments.engine or "local", arguments.model, pictures or arguments.registry, ask, options)


def results_folder(arguments: argparse.Namespace, engine: Engine, how: str = "", room: str = "eval") -> Path:
    """Where results go unless --out says: beside the model, or for one that a server has below runs/eval.

    What is asked otherwise than by the defaults has a folder of its own, and writes over no other figures.
    """
    folder = asked(arguments).folder(arguments.dataset, arguments.split, how)
    if arguments.model is None:
        served = re.sub(r"[^\w.-]+", "_", str(engine.identity().get("model") or arguments.oracle)).strip("._")
        return Path("runs", room, served or "model", folder)
    return Path(
        arguments.model, room, folder if arguments.engine in (None, "local") else f"{folder}-{arguments.engine}"
    )


def ask_options(parser: argparse.ArgumentParser, fields: Iterable[str] = tuple(ASK), **help: str) -> None:
    """The options of `fields`, and those that `help` words anew."""
    for field, how in ASK.items():
        if field in help or field in fields:
            told = how | ({"help": help[field]} if field in help else {})
            parser.add_argument(f"--{field.replace('_', '-')}", **told)


def split_options(parser: argparse.ArgumentParser, room: str) -> None:
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


def engine_options(parser: argparse.ArgumentParser) -> None:
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
