"""Plain data, out of YAML or JSON, as dataclasses. What is wrong is said with the key's full name.

`where` is the place read so far: `params.yaml: presets.scenes.corpus`.
"""

import dataclasses
import difflib
import functools
import json
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from sclip.errors import UserError

T = TypeVar("T")


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Tables key by key, all the way down; anything else is replaced."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def as_table(data: Any, where: str) -> Mapping[str, Any]:
    _expect(isinstance(data, Mapping), "a table", data, where)
    found: Mapping[str, Any] = data
    return found


def entry(table: Mapping[str, T], name: str, where: str) -> T:
    if name not in table:
        near = difflib.get_close_matches(name, table, n=1, cutoff=0)
        raise UserError(f"{where}: no {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    return table[name]


def check_keys(kind: Any, data: Any, where: str) -> None:
    """Part of a table: what is missing may be elsewhere, what is there must have a place."""
    fields = typing.get_type_hints(kind)
    for key, value in as_table(data, where).items():
        _expect_key(key, fields, where)
        inner = [k for k in (fields[key], *typing.get_args(fields[key])) if dataclasses.is_dataclass(k)]
        if inner and value is not None:
            check_keys(inner[0], value, inside(where, key))


def read_text(path: Path) -> str:
    """With or without a byte order mark, whatever ends its lines."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8: {error}") from None


def read_json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON: {error}") from None


def parse(kind: Any, data: Any, where: str) -> Any:
    """Plain data as `kind`, a dataclass or a type that its fields use; errors name the key they concern."""
    if kind is Any:
        return data
    if dataclasses.is_dataclass(kind):
        return _parse_dataclass(kind, data, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        choices = f"one of {', '.join(map(str, arguments))}"
        _expect(data in arguments, choices, data, where)
        return data
    if origin in (types.UnionType, typing.Union):  # X | None, or dataclasses told apart by their `kind`
        present = [a for a in arguments if a is not types.NoneType]
        if len(present) > 1:
            return parse(_of_kind(present, data, where), data, where)
        return None if data is None else parse(present[0], data, where)
    if origin is tuple:
        _expect(isinstance(data, list | tuple), "a list", data, where)
        return tuple(parse(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(data))
    if origin is dict:
        for key in as_table(data, where):
            _expect(isinstance(key, str), "a name in quotation marks", key, where)
        return {key: parse(arguments[1], value, inside(where, key)) for key, value in data.items()}
    if kind is float:
        data = _number(data)
        _expect(isinstance(data, int | float) and not isinstance(data, bool), "a number", data, where)
        return float(data)
    names = {int: "a whole number", bool: "true or false", str: "text"}
    _expect(isinstance(data, kind) and not (kind is int and isinstance(data, bool)), names[kind], data, where)
    return data


def _number(data: Any) -> Any:
    """YAML 1.1 reads 1e-4 as text: it wants a point before the e."""
    if isinstance(data, str) and re.fullmatch(r"[-+]?\d+e[-+]?\d+", data, re.IGNORECASE):
        return float(data)
    return data


def inside(where: str, key: str) -> str:
    """`file: key.key.key`"""
    return f"{where}{'.' if ': ' in where else ': '}{key}"


def _expect(condition: bool, expected: str, found: Any, where: str) -> None:
    if not condition:
        raise UserError(f"{where}: expected {expected}, found {found!r}")


def _of_kind(kinds: list[Any], data: Any, where: str) -> Any:
    names = {typing.get_args(typing.get_type_hints(kind)["kind"])[0]: kind for kind in kinds}
    if "kind" not in as_table(data, where):
        raise UserError(f"{inside(where, 'kind')}: missing; one of {', '.join(names)}")
    return entry(names, parse(str, data["kind"], inside(where, "kind")), inside(where, "kind"))


def _expect_key(key: Any, fields: Mapping[str, Any], where: str) -> None:
    if key not in fields:
        near = difflib.get_close_matches(str(key), fields, n=1, cutoff=0)
        raise UserError(f"{inside(where, key)}: no such key; did you mean {near[0]!r}?")


@functools.cache  # a manifest asks it of every row
def _fields(kind: Any) -> tuple[dict[str, Any], list[str]]:
    """The types of a dataclass's fields, and those that have no default."""
    missing = dataclasses.MISSING
    required = [f.name for f in dataclasses.fields(kind) if f.default is missing and f.default_factory is missing]
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}, required


def _parse_dataclass(kind: Any, data: Any, where: str) -> Any:
    _expect(isinstance(data, Mapping), "a table", data, where)
    hints, required = _fields(kind)
    for key in data:
        _expect_key(key, hints, where)
    values = {key: parse(hints[key], value, inside(where, key)) for key, value in data.items()}
    for name in required:
        if name not in values:
            raise UserError(f"{inside(where, name)}: missing")
    try:
        return kind(**values)
    except UserError:
        raise
    except ValueError as error:  # of __post_init__, which names a field first or speaks of the whole
        names_field = re.split(r"\W", str(error), maxsplit=1)[0] in hints
        raise UserError(inside(where, str(error)) if names_field else f"{where}: {error}") from None
