"""Options that several commands share, and the settings, engines and folders made from them."""

from __future__ import annotations

import argparse
import dataclasses
import textwrap
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from stcr_plugin.errors import ConfigError

if TYPE_CHECKING:
    from stcr_plugin.calibration_results import Temperature
    from stcr_plugin.engines.settings import AskSettings, Engine
    from stcr_plugin.evaluation.request import EvalRequest
    from stcr_plugin.types import Pair

Settings = TypeVar("Settings")
Commands: TypeAlias = "argparse._SubParsersAction[Parser] | Actions"

REGISTRY = "folder of the training sets"
_WIDTH = 98  # of the list of keys in a help text; argparse wraps its own part by the terminal
_ENGINE = "engine."
# Fields of AskSettings with an option of their own; the others are keys of --set.
_PROMPT = ("mode", "generate", "batch_size", "image_max_pixels")
# Fields of ServerSettings with an option of their own -> its destination.
_SERVER = {"url": "url", "model": "server_model", "key_env": "key_env"}
_BY_ENGINE = ("engine", "engine_config", *_SERVER.values())
PAIRS = frozenset({"mode", "part", "style", "warn"})
"""Fields of AskSettings that only apply to questions about pairs."""


class Parser(argparse.ArgumentParser):
    """The parser of one command. Its options are made when it runs: no command imports the settings of another."""

    options: Callable[[Parser], None] | None = None
    actions: Mapping[str, Parser] = types.MappingProxyType({})
    """Word -> the parser that reads what follows it, in place of the arguments of this one."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", partial(argparse.RawDescriptionHelpFormatter, max_help_position=26))
        super().__init__(**kwargs)
        self.register("type", Path, _path)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if args and args[0] in self.actions:
            return self.actions[args[0]].parse_known_args(args[1:], namespace)
        if self.options is not None:
            options, self.options = self.options, None
            options(self)
        return super().parse_known_args(args, namespace)


class Actions:
    """A group of commands whose names may follow that of `parser` in place of its arguments."""

    def __init__(self, parser: Parser) -> None:
        self._parser = parser

    def add_parser(self, name: str, **kwargs: Any) -> Parser:
        """As `add_parser` of what `add_subparsers` returns."""
        kwargs.pop("help", None)  # of a list of commands, which there is none of
        made = Parser(prog=f"{self._parser.prog} {name}", **kwargs)
        self._parser.actions = {**self._parser.actions, name: made}
        return made


def _path(text: str) -> Path:
    """A path of an option; an empty text, as of a variable that is not set, would be the working directory."""
    if not text:
        raise argparse.ArgumentTypeError("is empty; name a file or a folder")
    return Path(text)


def command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int | None],
    *,
    help: str,
    options: Callable[[Parser], None],
) -> Parser:
    """Add a command to a group of commands.

    Args:
        commands: What `add_subparsers` returned, or `Actions`.
        name: The command's name.
        run: Called with the arguments; returns the exit code, None for 0.
        help: One line, verb first.
        options: Adds the command's options to its parser.

    Returns:
        The command's parser.
    """
    parser = commands.add_parser(name, help=help, description=help)
    parser.options = options
    parser.set_defaults(run=run, command=name, parser=parser)
    return parser


def given(arguments: argparse.Namespace) -> frozenset[str]:
    """The destinations of all options whose value is not the default."""
    parser: Parser = arguments.parser
    return frozenset(name for name, value in vars(arguments).items() if value and value != parser.get_default(name))


def check_output(arguments: argparse.Namespace) -> None:
    """Raise DataError before anything is done where --out cannot be written: it is a device, too long and the like."""
    from stcr_plugin.artefacts import destination

    actions: dict[str, argparse.Action] = {action.dest: action for action in arguments.parser._actions}
    if getattr(arguments, "out", None) is not None:
        destination(arguments.out, "folder" if actions["out"].metavar == "DIR" else "file")


def exclude(arguments: argparse.Namespace, option: str, others: Sequence[str]) -> None:
    """Raise ConfigError if `option` and one of `others` are given, all named by their destinations."""
    found = given(arguments)
    for other in others:
        if option in found and other in found:
            raise ConfigError("", f"{_flag(option)} and {_flag(other)} exclude each other")


def require(arguments: argparse.Namespace, option: str, other: str) -> None:
    """Raise ConfigError if `option` is given without `other`."""
    found = given(arguments)
    if option in found and other not in found:
        raise ConfigError("", f"{_flag(option)} requires {_flag(other)}")


def _flag(option: str) -> str:
    return option.upper() if option.isupper() or option == "picture" else f"--{option.replace('_', '-')}"


# ---- options that are fields of a settings class


def settings_options(
    parser: argparse._ActionsContainer, cls: type, fields: Collection[str], *, names: Mapping[str, str] | None = None
) -> None:
    """Add an option for each of `fields` of a settings class, with the field's type, default and help.

    An option that is not given is None, so that the class's own default applies.

    Args:
        parser: A parser or a group of its options.
        cls: A dataclass whose fields have `metadata["help"]`.
        fields: Names of the fields to add.
        names: Field -> the option's destination, where it is not the field's name.
    """
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if field.name in fields:
            name = (names or {}).get(field.name, field.name)
            parser.add_argument(_flag(name), help=_help(field).replace("%", "%%"), **_kind(hints[field.name], name))


def _kind(hint: Any, name: str) -> dict[str, Any]:
    """What argparse needs to know of a field's type."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        hint = next(one for one in typing.get_args(hint) if one is not type(None))
    if hint is bool:
        return {"action": "store_const", "const": True}
    if typing.get_origin(hint) is typing.Literal:
        return {"choices": typing.get_args(hint)}
    return {"type": hint, "metavar": {int: "N", float: "X"}.get(hint, name.rpartition("_")[2].upper())}


def _help(field: dataclasses.Field[Any]) -> str:
    """The field's help, with its default where the help does not name it."""
    text = str(field.metadata.get("help", ""))
    if any(field.default is one for one in (None, False, dataclasses.MISSING)) or "(default" in text:
        return text
    return f"{text} (default: {field.default})"


def settings_from(cls: type[Settings], arguments: argparse.Namespace, fields: Iterable[str]) -> Settings:
    """The settings made from the options of these names; what is not given keeps its default."""
    from stcr_plugin.config import from_mapping

    values = {field: value for field in fields if (value := getattr(arguments, field, None)) is not None}
    return from_mapping(cls, values, "the options")


# ---- questions and engines


def seed_option(parser: argparse.ArgumentParser, help: str) -> None:
    """Add --seed, at least 0."""

    def seed(text: str) -> int:
        if int(text) < 0:
            raise argparse.ArgumentTypeError(f"{text}: must be at least 0")
        return int(text)

    parser.add_argument("--seed", type=seed, default=0, metavar="N", help=f"{help} (default: 0)")


def registry_option(parser: argparse.ArgumentParser) -> None:
    """Add --registry."""
    default = Path("data_registry")
    parser.add_argument(
        "--registry", type=Path, default=default, metavar="DIR", help=f"{REGISTRY} (default: {default})"
    )


def split_option(parser: argparse.ArgumentParser) -> None:
    """Add --split, by default heldout."""
    parser.add_argument("--split", default="heldout", help="split of the build (default: heldout)")


def model_option(parser: argparse.ArgumentParser) -> None:
    """Add --model."""
    parser.add_argument("--model", type=Path, metavar="DIR", help="folder of a model; a server needs none")


def calibration_option(parser: argparse.ArgumentParser) -> None:
    """Add --calibration."""
    help = "temperature.json of `stcr calibrate`: scale the model's probabilities with it"
    parser.add_argument("--calibration", type=Path, metavar="FILE", help=help)


def calibration(arguments: argparse.Namespace) -> Temperature | None:
    """What --calibration names. Raises DataError for a file that is none."""
    from stcr_plugin.calibration_results import Temperature

    return Temperature.read(arguments.calibration) if arguments.calibration else None


def split_options(parser: argparse.ArgumentParser, room: str, limit: str = "pairs") -> None:
    """Add the options of an evaluation on a split; results go below `room` in the model's folder."""
    registry_option(parser)
    model_option(parser)
    parser.add_argument("--dataset", required=True, metavar="NAME", help="name of a build, such as stcr")
    split_option(parser)
    where = f"MODEL/{room}/DATASET-SPLIT, without a model runs/{room}/SERVED/DATASET-SPLIT"
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"folder of the results (default: {where})")
    parser.add_argument("--name", help="the model's name in tables (default: that of its stage)")
    parser.add_argument("--limit", type=int, metavar="N", help=f"use N {limit}, spread over episodes (default: all)")
    seed_option(parser, "draws prompt variants and the bootstrap")


def ask_options(parser: Parser, without: Collection[str] = (), engine: bool = True) -> None:
    """Add the options of prompts: the fields of AskSettings, except those in `without`.

    The common ones have options of their own, the others are keys of --set, as are an engine's (`engine.KEY`).
    """
    from stcr_plugin.engines.settings import AskSettings

    fields = [field for field in dataclasses.fields(AskSettings) if field.name not in without]
    settings_options(parser, AskSettings, [field.name for field in fields if field.name in _PROMPT])
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change another setting, listed below; may be given several times",
    )
    settable = {"keys of --set": {field.name: _help(field) for field in fields if field.name not in _PROMPT}}
    if engine:
        settable["keys of --set with --engine server"] = _server_keys()
    parser.set_defaults(settable=frozenset(key for keys in settable.values() for key in keys))
    parser.epilog = "\n\n".join(_listed(head, keys) for head, keys in settable.items())


def _server_keys() -> dict[str, str]:
    """Key of --set -> help, for the server's settings that have no option of their own."""
    from stcr_plugin.engines.server_settings import ServerSettings

    own = [one for one in dataclasses.fields(ServerSettings) if one.name not in _SERVER]
    return {f"{_ENGINE}{one.name}": _help(one) for one in own}


def _listed(head: str, keys: Mapping[str, str]) -> str:
    """A head and a wrapped line per key, as argparse prints options."""
    width = max(map(len, keys)) + 4
    lines = [
        textwrap.fill(f"  {key:<{width - 2}}{text}".rstrip(), _WIDTH, subsequent_indent=" " * width)
        for key, text in keys.items()
    ]
    return "\n".join([f"{head}:", *lines])


def setting(arguments: argparse.Namespace, name: str) -> str | None:
    """The key of --set for a field's name; None where the command has none."""
    known = getattr(arguments, "settable", ())
    return next((key for key in (name, _ENGINE + name) if key in known), None)


def engine_options(parser: argparse.ArgumentParser, oracle: bool = True) -> None:
    """Add the options that `open_engine` reads besides --model, --set and --registry."""
    from stcr_plugin.engines.server_settings import ServerSettings

    group = parser.add_argument_group("engine, which answers the prompts")
    if oracle:
        names = "position-only, coin, right or chronological"
        group.add_argument("--oracle", metavar="NAME", help=f"answer without a model, by a known rule: {names}")
    group.add_argument(
        "--engine",
        choices=["local", "server"],
        help="transformers in this process, or an OpenAI-compatible server such as vLLM (default: local)",
    )
    group.add_argument(
        "--engine-config", type=Path, metavar="FILE", help="YAML with the engine's settings; options override it"
    )
    settings_options(group, ServerSettings, _SERVER, names=_SERVER)


def _values(arguments: argparse.Namespace) -> dict[str, Any]:
    """Key -> value of all --set options, the values read as YAML."""
    from stcr_plugin.config import nearest, override_value

    values = {}
    for text in getattr(arguments, "set", ()):
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text}", "has no value", "write KEY=VALUE, such as language=zh")
        if key not in arguments.settable:
            raise ConfigError(f"--set {text}", f"unknown key {key!r}, {nearest(key, sorted(arguments.settable))}")
        values[key] = override_value(f"--set {text}", value)
    return values


def asked(arguments: argparse.Namespace) -> AskSettings:
    """The settings of the prompts, from the options that `ask_options` added."""
    from stcr_plugin.config import from_mapping
    from stcr_plugin.engines.settings import AskSettings

    values = {field: value for field in _PROMPT if (value := getattr(arguments, field, None)) is not None}
    values |= {key: value for key, value in _values(arguments).items() if not key.startswith(_ENGINE)}
    return from_mapping(AskSettings, values, "the options")


def open_engine(
    arguments: argparse.Namespace, pictures: Path | None = None, pairs: Sequence[Pair] | None = None
) -> tuple[Engine, AskSettings]:
    """Make the engine that the options name.

    Args:
        arguments: With the options of `ask_options` and `engine_options`.
        pictures: Folder of the pictures (default: the registry).
        pairs: What an oracle is asked about (default: the pairs of the split).

    Returns:
        The engine, and the settings of the prompts, completed by the model's stage.
    """
    from stcr_plugin.engines.open import engine_for
    from stcr_plugin.engines.oracles import Oracle
    from stcr_plugin.registry.manifest import read_pairs

    ask, options = engine_settings(arguments)
    if getattr(arguments, "oracle", None):
        pairs = read_pairs(arguments.registry, arguments.dataset, arguments.split) if pairs is None else pairs
        return Oracle(arguments.oracle, pairs, seed=arguments.seed, generates=ask.generate), ask
    pictures = pictures or arguments.registry
    return engine_for(arguments.engine or "local", arguments.model, pictures, ask=ask, options=options)


def engine_settings(arguments: argparse.Namespace) -> tuple[AskSettings, dict[str, Any]]:
    """How to ask, and the engine's own settings, which an oracle has none of, as the options name them."""
    from stcr_plugin.config import read_yaml

    ask = asked(arguments)
    own = {key.removeprefix(_ENGINE): value for key, value in _values(arguments).items() if key.startswith(_ENGINE)}
    if getattr(arguments, "oracle", None):
        exclude(arguments, "oracle", ("model", *_BY_ENGINE))
        if own:
            raise ConfigError("", f"--oracle and --set {_ENGINE}{next(iter(own))} exclude each other")
        return ask, {}
    options = read_yaml(arguments.engine_config) if arguments.engine_config else {}
    options |= own
    options |= {field: value for field, name in _SERVER.items() if (value := getattr(arguments, name)) is not None}
    return ask, options


def results_folder(arguments: argparse.Namespace, request: EvalRequest, how: str = "", room: str = "eval") -> Path:
    """Where results go: --out, else the default folder for these settings."""
    from stcr_plugin import api

    return Path(arguments.out) if arguments.out else api.results_folder(request, asked(arguments), how, room=room)
