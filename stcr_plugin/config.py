"""YAML into typed, frozen dataclasses. An unknown key fails and names the nearest match."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from stcr_plugin.errors import ConfigError

T = TypeVar("T")


def option(*, help: str, default: Any = dataclasses.MISSING) -> Any:
    """A field of a settings class with its help text, which the command line shows (`metadata["help"]`)."""
    return dataclasses.field(default=default, metadata={"help": help})


@typing.dataclass_transform(frozen_default=True, field_specifiers=(option, dataclasses.field))
def settings(cls: type[T]) -> type[T]:
    """A frozen dataclass that may be loaded from YAML; keys that it does not have are refused."""
    cls.__pydantic_config__ = {"extra": "forbid"}  # type: ignore[attr-defined]
    return dataclasses.dataclass(frozen=True)(cls)


def from_mapping(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build the settings class `cls` (and those nested in it) from `values`; `where` names them in errors.

    Raises ConfigError for an unknown key, a missing one, a value of the wrong type, and for any
    ValueError of a class's own __post_init__.
    """
    import pydantic

    try:
        return pydantic.TypeAdapter(cls).validate_python(dict(values))
    except pydantic.ValidationError as error:
        problems = [_describe(cls, problem["type"], problem["loc"], problem["msg"]) for problem in error.errors()]
        raise ConfigError(f"{where}: " + "; ".join(problems)) from None


def load(cls: type[T], path: str | Path, overrides: Sequence[str] = ()) -> T:
    """Read the YAML file `path` into `cls`, with `key=value` or `key.sub=value` strings laid over it."""
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    values = read_yaml(path)
    if overrides:
        bad = [text for text in overrides if "=" not in text]
        if bad:
            raise ConfigError(f"{path}: an override reads key=value, got {bad[0]!r}")
        try:
            merged = OmegaConf.merge(OmegaConf.create(values), OmegaConf.from_dotlist(list(overrides)))
            values = typing.cast(dict[str, Any], OmegaConf.to_container(merged))
        except (OmegaConfBaseException, yaml.YAMLError) as error:
            raise ConfigError(f"{path}: the overrides {list(overrides)} cannot be applied: {error}") from None
    return from_mapping(cls, values, str(path))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file, by safe loading. Raises ConfigError where there is none."""
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give the path of a YAML configuration") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected `key: value` lines at the top, found {type(values).__name__}")
    return values


def nearest(word: str, known: Sequence[str]) -> str:
    """How an error ends that names an unknown word: the nearest known one, or all of them."""
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {match[0]!r}?" if match else f"known are: {', '.join(sorted(known))}"


def _describe(cls: type, kind: str, loc: tuple[int | str, ...], message: str) -> str:
    key = ".".join(str(part) for part in loc)
    if kind == "unexpected_keyword_argument":
        known = [field.name for candidate in _classes_at(cls, loc[:-1]) for field in dataclasses.fields(candidate)]
        return f"unknown key {key!r}, {nearest(str(loc[-1]), known)}"
    if kind in ("missing", "missing_argument"):
        return f"key {key!r} is missing"
    return f"{key or 'the configuration'}: {message.removeprefix('Value error, ')}"


def _classes_at(cls: Any, loc: tuple[int | str, ...]) -> list[Any]:
    """The settings classes that may stand at `loc` inside `cls`, through mappings, lists, optionals and unions."""
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
