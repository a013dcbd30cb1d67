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
    """A frozen dataclass that may be loaded from YAML; unknown keys and infinite numbers are refused."""
    cls.__pydantic_config__ = {"extra": "forbid", "allow_inf_nan": False}  # type: ignore[attr-defined]
    return dataclasses.dataclass(frozen=True)(cls)


def from_mapping(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build the dataclass `cls` (and those nested in it) from `values`; `where` names them in errors.

    Raises:
        ConfigError: for a missing key, a value of the wrong type, any ValueError of a class's own __post_init__, and
            in settings for an unknown key. All problems are named at once.
    """
    import pydantic

    try:
        return pydantic.TypeAdapter(cls).validate_python(dict(values))
    except ConfigError as error:  # of a part that finds its own settings class, such as `source`
        raise ConfigError(f"{where}, {error.where}", error.problem, error.fix) from None
    except pydantic.ValidationError as error:
        problems = [
            _describe(cls, problem["loc"], kind=problem["type"], message=problem["msg"]) for problem in error.errors()
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
    import yaml

    if bad := [text for text in overrides if "=" not in text]:
        raise ConfigError(path, f"an override reads key=value, got {bad[0]!r}")
    try:
        values = None if resolve else yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        if resolve or (overrides and isinstance(values, dict)):
            values = _merged(path, values, overrides, resolve=resolve)
    except FileNotFoundError:
        raise ConfigError(path, "no such file", "give the path of a YAML configuration") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(path, f"cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(path, f"expected `key: value` lines at the top, found {type(values).__name__}")
    return values


def _merged(path: str | Path, values: Any, overrides: Sequence[str], *, resolve: bool) -> Any:
    """`values`, or what OmegaConf reads from `path` where it shall resolve, with the overrides laid over it."""
    import yaml
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    read = OmegaConf.load(path) if resolve else OmegaConf.create(values)
    if not isinstance(read, DictConfig):
        return OmegaConf.to_container(read)
    try:
        merged = OmegaConf.merge(read, OmegaConf.from_dotlist(list(overrides)))
        return OmegaConf.to_container(merged, resolve=resolve)
    except (OmegaConfBaseException, yaml.YAMLError) as error:
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
