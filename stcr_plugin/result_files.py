"""Frozen dataclasses <-> JSON files: the format of every result, without a word about what the results mean."""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union

from stcr_plugin import artefacts
from stcr_plugin.errors import DataError

T = TypeVar("T")
R = TypeVar("R", bound="Result")

_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


_INLINE, _OMITTED = object(), object()
Inline = Annotated[T, _INLINE]
"""A dataclass whose keys are in the JSON object of its owner; None, where it may be, has none."""
Omitted = Annotated[T, _OMITTED]
"""A value whose key is left out of the file where it is the default."""


@dataclasses.dataclass(frozen=True)
class Key:
    """The key of a field in the file, where it is not the field's name: `Annotated[str, Key("mends")]`."""

    name: str


class Result:
    """A result that is one JSON file. Subclasses are frozen dataclasses; their fields are the file's keys, in order.

    Attributes:
        file: The file's name.
        command: The command that writes it, for errors.
    """

    file: ClassVar[str]
    command: ClassVar[str]

    @classmethod
    def read(cls: type[R], path: str | Path) -> R:
        """Read a file of this or an earlier version: unknown keys are ignored, missing ones have their defaults.

        Raises:
            DataError: The file is missing, or a field is missing or has the wrong type; the error names it.
        """
        return cls.from_row(artefacts.read_json(path), path)

    @classmethod
    def read_rows(cls: type[R], path: str | Path) -> Iterator[R]:
        """The results of a file with one per line, one at a time.

        Raises:
            DataError: For a line that is not one; the error names the line and the field.
        """
        for number, row in artefacts.numbered_jsonl(path):
            if isinstance(row, DataError):
                raise row
            yield cls.from_row(row, f"{path}, row {number}")

    @classmethod
    def from_row(cls: type[R], row: Any, path: str | Path) -> R:
        """The result in the JSON value `row` of the file `path`. Raises DataError as `read` does."""
        try:
            return decode(cls, row)
        except _WrongError as error:
            raise DataError(path, f"not what `{cls.command}` writes ({error})", "run it again") from None

    def write(self, path: str | Path) -> None:
        """Write the file, whole or not at all."""
        artefacts.write_json(path, self.row())

    def row(self) -> dict[str, Any]:
        """The values of the file, as JSON has them."""
        found: dict[str, Any] = encode(self)
        return found


def encode(value: Any) -> Any:
    """`value` as JSON has it: dataclasses as objects, tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        row: dict[str, Any] = {}
        for field, _, mark in _fields(type(value)):
            own = getattr(value, field.name)
            if mark is _INLINE:
                row |= {} if own is None else encode(own)
            elif mark is not _OMITTED or own != field.default:
                row[_key(field, mark)] = encode(own)
        return row
    if isinstance(value, Mapping):
        return {key: encode(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [encode(one) for one in value]
    return value


class _WrongError(Exception):
    """Where in a JSON value, and what is wrong there."""


def decode(kind: type[T], value: Any) -> T:
    """The dataclass `kind` from JSON values. Numbers stay as they are: a whole number may be in a field of floats."""
    return typing.cast(T, _decoded(kind, value, ""))


def _decoded(kind: Any, value: Any, at: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return _of_union(arguments, value, at)
    if origin is Literal:
        return value if value in arguments else _wrong(at, f"one of {', '.join(map(str, arguments))}", value)
    if dataclasses.is_dataclass(kind):
        return _of_object(kind, value, at)
    if origin is tuple:
        return _of_list(arguments, value, at)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            _wrong(at, "an object", value)
        return {key: _decoded(arguments[1], one, _below(at, key)) for key, one in value.items()}
    allowed = (int, float) if kind is float else (kind,)
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        _wrong(at, _NAMES.get(kind, kind.__name__), value)
    if isinstance(value, int | float) and not abs(value) <= sys.float_info.max:  # NaN too
        _wrong(at, "a finite number", value)
    return value


def _of_union(kinds: tuple[Any, ...], value: Any, at: str) -> Any:
    if value is None and types.NoneType in kinds:
        return None
    *others, last = [kind for kind in kinds if kind is not types.NoneType]
    for kind in others:
        try:
            return _decoded(kind, value, at)
        except _WrongError:
            continue
    return _decoded(last, value, at)


def _of_list(kinds: tuple[Any, ...], value: Any, at: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        _wrong(at, "a list", value)
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        _wrong(at, f"a list of {len(kinds)}", value)
    return tuple(_decoded(kind, one, _below(at, i)) for i, (kind, one) in enumerate(zip(kinds, value, strict=True)))


def _of_object(cls: Any, value: Any, at: str) -> Any:
    if not isinstance(value, dict):
        _wrong(at, "an object", value)
    given: dict[str, Any] = {}
    for field, hint, mark in _fields(cls):
        if mark is _INLINE:
            kinds = [kind for kind in (typing.get_args(hint) or (hint,)) if kind is not types.NoneType]
            absent = hint is not kinds[0] and not any(one.name in value for one, _, _ in _fields(kinds[0]))
            given[field.name] = None if absent else _decoded(kinds[0], value, at)
        elif (key := _key(field, mark)) in value:
            given[field.name] = _decoded(hint, value[key], _below(at, key))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise _WrongError(f"{_below(at, key)!r} is missing")
    try:
        return cls(**given)
    except ValueError as error:
        raise _WrongError(f"{at}: {error}" if at else str(error)) from None


@cache
def _fields(cls: Any) -> list[tuple[dataclasses.Field[Any], Any, object]]:
    """(field, type, _INLINE, _OMITTED, a Key or None) of each field."""
    hints = typing.get_type_hints(cls, include_extras=True)
    found = []
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        kind, mark = typing.get_args(hint) if typing.get_origin(hint) is Annotated else (hint, None)
        found.append((field, kind, mark))
    return found


def _key(field: dataclasses.Field[Any], mark: object) -> str:
    return mark.name if isinstance(mark, Key) else field.name


def _below(at: str, key: object) -> str:
    return f"{at}.{key}" if at else str(key)


def _wrong(at: str, expected: str, value: Any) -> typing.NoReturn:
    shown = repr(value) if len(repr(value)) < 60 else f"{repr(value)[:60]} ..."
    raise _WrongError(f"{at or 'the file'}: expected {expected}, got {shown}")
