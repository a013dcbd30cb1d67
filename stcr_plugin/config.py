"""YAML into typed, frozen dataclasses. An unknown key fails and names the nearest match."""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import math
import re
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from stcr_plugin.artefacts import file_bytes, refuse_lfs_pointer
from stcr_plugin.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pydantic

T = TypeVar("T")

MOST_VALUES = 100_000  # of a configuration, its aliases written out
_DEEPEST = 100  # of open brackets
MOST_DIGITS = 18  # of a whole number, which then fits into 64 bits


def option(*, help: str, default: Any = dataclasses.MISSING) -> Any:
    """A field of a settings class with its help text, which the command line shows (`metadata["help"]`)."""
    return dataclasses.field(default=default, metadata={"help": help})


@typing.dataclass_transform(frozen_default=True, field_specifiers=(option, dataclasses.field))
def settings(cls: type[T]) -> type[T]:
    """A frozen dataclass that may be loaded from YAML; unknown keys and infinite numbers are refused."""
    cls.__pydantic_config__ = {"extra": "forbid", "allow_inf_nan": False}  # type: ignore[attr-defined]
    return dataclasses.dataclass(frozen=True)(cls)


@cache  # making one takes up to 20 ms
def type_adapter(cls: type[Any]) -> pydantic.TypeAdapter[Any]:
    """Reads values into the dataclass `cls`."""
    import pydantic

    return pydantic.TypeAdapter(cls)


def from_mapping(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build the dataclass `cls` (and those nested in it) from `values`; `where` names them in errors.

    Raises:
        ConfigError: for a missing key, a value of the wrong type, any ValueError of a class's own __post_init__, and
            in settings for an unknown key. All problems are named at once.
    """
    import pydantic

    try:
        found: T = type_adapter(typing.cast(Any, cls)).validate_python(dict(values))
        return found
    except ConfigError as error:  # of a part that finds its own settings class, such as `source`
        raise ConfigError(f"{where}, {error.where}", error.problem, error.fix) from None
    except pydantic.ValidationError as error:
        problems = [
            _describe(cls, problem["loc"], kind=problem["type"], message=problem["msg"])
            + _as_yaml_reads(problem["type"], problem["input"])
            for problem in error.errors()
        ]
        raise ConfigError(where, "; ".join(problems)) from None


def load(cls: type[T], path: str | Path, overrides: Sequence[str] = ()) -> T:
    """Read the YAML file `path` into `cls`, with `key=value` or `key.sub=value` strings laid over it."""
    return from_mapping(cls, read_yaml(path, overrides), str(path))


def read_yaml(path: str | Path, overrides: Sequence[str] = (), *, resolve: bool = False) -> dict[str, Any]:
    """The mapping in a YAML file, by safe loading.

    Args:
        overrides: `key=value` or `key.sub=value` strings, laid over it in their order.
        resolve: Read as LLaMA-Factory does: `1e-5` is a number, `${key}` is replaced, no key may occur twice.

    Raises:
        ConfigError: where there is no such file, it does not hold a mapping, or an override cannot be applied.
    """
    for text in overrides:
        _refuse_bad_override(path, text)
    values = _parsed(path, dates=resolve)
    if resolve or (overrides and isinstance(values, dict)):
        values = _merged(path, values, overrides, resolve=resolve)
    if not isinstance(values, dict):
        raise ConfigError(path, f"expected `key: value` lines at the top, found {type(values).__name__}")
    return values


def _refuse_bad_override(path: str | Path, text: str) -> None:
    """Raises ConfigError for one that is not key=value, or whose value YAML reads as no reader would."""
    import yaml

    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(path, f"an override reads key=value, got {text[:80]!r}")
    try:
        _refuse_deep(value)
        node = yaml.SafeLoader(value).get_single_node()
        if node is not None:
            _refuse_traps(f"the override {text[:80]!r}", node, sizes={}, dates=True)
    except RecursionError:
        raise ConfigError(path, f"the override {text[:80]!r} is nested too deeply") from None
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(path, f"the override {text[:80]!r} cannot be applied: {reason}") from None


def override_value(where: str, text: str) -> Any:
    """What YAML reads in `text`, else the text itself. Raises ConfigError where a reader would read another value."""
    import yaml

    try:
        _refuse_deep(text)
        node = yaml.SafeLoader(text).get_single_node()
        if node is not None:
            _refuse_traps(where, node, sizes={}, dates=False)
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text


def _parsed(path: str | Path, *, dates: bool) -> Any:
    """What a YAML file holds. Raises ConfigError where it cannot be read or YAML reads it as no reader would.

    dates: OmegaConf reads the values, to which a date is a text; None is returned.
    """
    import yaml

    try:
        data = file_bytes(path)
        refuse_lfs_pointer(path, data)
        text = data.decode("utf-8")
        _refuse_deep(text)
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _refuse_traps(path, node, sizes={}, dates=dates)
        return None if dates else loader.construct_document(node)
    except FileNotFoundError:
        raise ConfigError(path, "no such file", "give the path of a YAML configuration") from None
    except DataError as error:
        raise ConfigError(path, error.problem, error.fix) from None
    except RecursionError:
        raise ConfigError(path, "its lists and mappings are nested too deeply, or hold themselves") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(path, f"cannot be read as YAML: {' '.join(str(error).split())}") from None


def _refuse_deep(text: str) -> None:
    """Raises RecursionError where brackets are nested too deeply, which PyYAML takes minutes to find out."""
    if max(accumulate({"[": 1, "{": 1, "]": -1, "}": -1}.get(one, 0) for one in text), default=0) > _DEEPEST:
        raise RecursionError


def _refuse_traps(path: str | Path, node: Any, *, sizes: dict[int, int], dates: bool) -> int:
    """How many values a YAML node holds, its aliases written out. dates: A date is read as a text.

    Raises ConfigError for more than MOST_VALUES, a key that occurs twice, and what YAML reads as another value than a
    reader does, such as the key `on`, which is true.
    """
    if id(node) in sizes:
        return sizes[id(node)]
    if node.id == "scalar":
        if problem := _misread(node.value, node.tag, dates=dates):
            raise ConfigError(
                f"{path}, line {node.start_mark.line + 1}", problem, f"write {node.value[:40]!r} in quotes"
            )
        return 1
    sizes[id(node)] = MOST_VALUES + 1  # for one that holds itself
    children = [one for pair in node.value for one in pair] if node.id == "mapping" else node.value
    seen: set[tuple[str, str]] = set()
    for key, _ in node.value if node.id == "mapping" else ():
        where = f"{path}, line {key.start_mark.line + 1}"
        word = {"tag:yaml.org,2002:bool": "true or false", "tag:yaml.org,2002:null": "nothing"}.get(key.tag)
        if word:
            raise ConfigError(
                where, f"the key `{key.value}` is read as {word} by YAML", f"write {key.value!r} in quotes"
            )
        if key.id == "scalar" and (key.tag, key.value) in seen:
            raise ConfigError(where, f"the key `{key.value}` is there twice", "delete one of them")
        seen.add((key.tag, str(key.value)))
    count = 1 + sum(_refuse_traps(path, one, sizes=sizes, dates=dates) for one in children)
    if count > MOST_VALUES:
        raise ConfigError(
            path, f"holds over {MOST_VALUES:,} values, its aliases written out", "write it without aliases"
        )
    sizes[id(node)] = count
    return count


def _misread(text: str, tag: str, *, dates: bool) -> str:
    """What YAML makes of a scalar that means something else to its reader, "" where it does not."""
    kind = tag.removeprefix("tag:yaml.org,2002:")
    shown = text if len(text) <= 40 else f"{text[:40]}..."
    if kind == "timestamp" and not dates:
        return f"{shown} is read as a date by YAML"
    if kind in ("int", "float") and ":" in text:
        return f"{shown} is read as a number to base 60 by YAML"
    if kind == "int" and re.fullmatch(r"[-+]?0[0-7_]+", text):
        return f"{shown} is read as an octal number by YAML, {int(text.replace('_', ''), 8)}"
    number = re.fullmatch(r"[-+]?[0-9_]*\.?[0-9_]*(?:[eE][-+]?[0-9]+)?", text)
    if kind == "int" and len(text) > 2 * MOST_DIGITS:  # in hexadecimal or binary digits too
        return f"{shown} is too large for a number"
    if kind in ("int", "float", "str") and number and any(map(str.isdigit, text)):
        most = MOST_DIGITS if kind == "int" else 1000
        if len(text) > most or math.isinf(float(text.replace("_", ""))):
            return f"{shown} is too large for a number"
    return ""


def _merged(path: str | Path, values: Any, overrides: Sequence[str], *, resolve: bool) -> Any:
    """`values`, or what OmegaConf reads from `path` where it shall resolve, with the overrides laid over it."""
    import yaml
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        read = OmegaConf.load(path) if resolve else OmegaConf.create(values)
        if not isinstance(read, DictConfig):
            return OmegaConf.to_container(read)
        merged = OmegaConf.merge(read, OmegaConf.from_dotlist(list(overrides)))
        return OmegaConf.to_container(merged, resolve=resolve)
    except (OmegaConfBaseException, yaml.YAMLError, OSError, TypeError, ValueError, RecursionError) as error:
        what = f"the overrides {list(overrides)} cannot be applied" if overrides else "cannot be resolved"
        raise ConfigError(path, f"{what}: {' '.join(str(error).split())}") from None


def nearest(word: str, known: Sequence[str]) -> str:
    """The end of an error about an unknown word: the nearest known one, or all of them."""
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {match[0]!r}?" if match else f"known are: {', '.join(sorted(known))}"


def _describe(cls: type, loc: tuple[int | str, ...], *, kind: str, message: str) -> str:
    key = ".".join(str(part) for part in loc)
    if kind == "unexpected_keyword_argument":
        known = [field.name for candidate in _classes_at(cls, loc[:-1]) for field in dataclasses.fields(candidate)]
        return f"unknown key {key!r}, {nearest(str(loc[-1]), known)}"
    if kind in ("missing", "missing_argument"):
        return f"key {key!r} is missing"
    text = message.removeprefix("Value error, ")
    return f"{key}: {text}" if key else text


def _as_yaml_reads(kind: str, value: Any) -> str:
    """What to know of a value that YAML does not read as the text that is expected; starts with a comma."""
    if kind not in ("string_type", "literal_error") or not isinstance(value, bool | int | float | datetime.date):
        return ""
    words = {True: "on, yes and true are read as true", False: "off, no and false are read as false"}
    read = words[value] if isinstance(value, bool) else f"it is read as {value}"
    return f", and {read} by YAML unless written in quotes"


def _classes_at(cls: Any, loc: tuple[int | str, ...]) -> list[Any]:
    """The settings classes possible at `loc` inside `cls`, through mappings, lists, optionals and unions."""
    found = _settings_in(cls)
    for part in loc:
        tagged = [candidate for candidate in found if getattr(candidate, "kind", None) == part]
        hints = [typing.get_type_hints(candidate) for candidate in found]
        inside = [inner for hint in hints if part in hint for inner in _settings_in(hint[str(part)])]
        found = tagged or inside or found  # neither: the part is a key of a mapping or an index of a list
    return found


def _settings_in(annotation: Any) -> list[Any]:
    if dataclasses.is_dataclass(annotation):
        return [annotation]
    return [cls for argument in typing.get_args(annotation) for cls in _settings_in(argument)]
