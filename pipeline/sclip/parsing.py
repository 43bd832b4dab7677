"""Read YAML, JSON and CSV files, and check their content against dataclasses. Errors name the full key.

`where` is the file and the key that a value comes from, such as `params.yaml: presets.scenes.corpus`.
"""

import csv
import dataclasses
import difflib
import functools
import itertools
import json
import re
import reprlib
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from sclip.errors import UserError, one_line
from sclip.files import missing_file_reason

T = TypeVar("T")

LARGEST_INT = 2**63 - 1  # the limit of torch and numpy
MOST_NODES = 100_000  # in a YAML text with all aliases expanded; params.yaml has about 2,000
MERGE_TAG = "tag:yaml.org,2002:merge"  # of the key <<, which takes over the values of other tables
_UNNAMED = '"<unicode string>"'  # how PyYAML's errors call a text
_NAMES: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
MAX_CHARACTERS = 200  # the most characters of a value in an error


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `over`. Tables are merged at every level, and other values replaced."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def as_table(data: Any, where: str) -> Mapping[str, Any]:
    """Return `data`, or raise an error if it is not a table."""
    _expect(isinstance(data, Mapping), "a table", data, where)
    table: Mapping[str, Any] = data
    return table


def entry(table: Mapping[str, T], name: str, where: str) -> T:
    """Return the entry of a name, or raise an error that suggests valid names."""
    if name not in table:
        raise UserError(f"{where}: no {shortened(name)}; {_suggestion(name, table)}")
    return table[name]


def _suggestion(name: str, valid: Collection[str]) -> str:
    """Return the valid name that is spelled almost like `name`, or else all of them, as the end of an error."""
    near = difflib.get_close_matches(name, valid, n=1)
    return f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(valid) or 'none'}"


def read_text(path: Path) -> str:
    """Read UTF-8 text with or without a byte order mark, and with any line endings."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: {missing_file_reason(path)}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}: {not_utf8_reason(error, f'line {line}')}") from None


def not_utf8_reason(error: UnicodeDecodeError, place: str) -> str:
    """Return what a text is, probably, that is not UTF-8 at a place, and what to do, as the end of an error."""
    encoding = "UTF-16" if error.object.startswith((b"\xff\xfe", b"\xfe\xff")) else "Latin-1"
    byte = f"0x{error.object[error.start]:02x}"
    return f"not UTF-8: {place}: found the byte {byte}, perhaps of {encoding}; save the file as UTF-8"


def read_json(path: Path) -> Any:
    text = read_text(path)
    try:
        return parse_json(text)
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from None


def csv_records(path: Path, **form: Any) -> Iterator[tuple[int, list[str]]]:
    """Yield the records of a CSV file, each with the number of its last line. `form`: arguments of csv.reader.

    An error names the record's first line. If a quotation mark is missing there, the csv module notices it many lines
    later.
    """
    reader = csv.reader(StringIO(read_text(path)), **form)
    while True:
        first = reader.line_num + 1
        try:
            record = next(reader, None)
        except csv.Error as error:
            quotes = any(part in str(error) for part in ("field larger", "expected after", "end of data"))
            advice = "; check the row's quotation marks: is one missing or too many, or does a space follow one?"
            raise UserError(f"{path.name} line {first}: {error}{advice if quotes else ''}") from None
        if record is None:
            return
        yield reader.line_num, record


def read_table(path: Path) -> dict[str, object]:
    """Return the content of a JSON file with a table, and an empty table for anything else."""
    try:
        data = read_json(path) if path.is_file() else {}  # reading a pipe may never end
    except (UserError, OSError):
        return {}
    return data if isinstance(data, dict) else {}


def parse_json(text: str) -> Any:
    """Parse JSON into plain data. Every error in the text is a ValueError."""
    try:
        data = json.loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError:  # Python's limit for the digits of an int
        raise ValueError("a number of more than 4,300 digits") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if "\\ud" in text or "\\uD" in text:
        _check_surrogates(data)
    return data


def _check_surrogates(data: Any) -> None:
    """Refuse half of a surrogate pair, which JSON can write as an escape. No file and no terminal takes it as text."""
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair (\\ud800 to \\udfff) in a text") from None


class _YamlLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses duplicate keys. Errors name the line of what Python cannot represent."""

    def __init__(self, text: str, where: str):
        super().__init__(text)
        self.where = where

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Refuse a key that a table has twice. PyYAML would keep the later value and drop the other."""
        node = super().compose_mapping_node(anchor)
        first: dict[tuple[str, str], int] = {}  # the line of each key
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != MERGE_TAG:
                name, line = (key.tag, key.value), key.start_mark.line + 1
                if name in first:
                    raise UserError(
                        f"{self.where}: line {line}: the same table has the key {shortened(key.value)} in line "
                        f"{first[name]} already; remove one of the two"
                    )
                first[name] = line
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError) as error:  # such as 2024-99-99, 5,000 digits, !!bool maybe
            raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from None


def read_yaml(path: Path) -> Any:
    return parse_yaml(read_text(path), str(path))


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML into plain data. `where` names the text in errors."""
    try:
        loader = _YamlLoader(text, where)
        node = loader.get_single_node()
        too_large = node is not None and _expanded(node, {}) >= MOST_NODES
        data = None if node is None or too_large else loader.construct_document(node)
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not YAML: {one_line(error).replace(_UNNAMED, where)}") from None
    except RecursionError:
        raise UserError(f"{where}: nested too deeply") from None
    if too_large:
        raise UserError(f"{where}: more than {MOST_NODES:,} values with every alias (*name) written out")
    return data


def _expanded(node: yaml.Node, counts: dict[yaml.Node, int]) -> int:
    """Count `node` and the nodes below it, up to MOST_NODES, with all aliases expanded."""
    if node not in counts:
        counts[node] = MOST_NODES  # the count of a node that contains itself
        children = node.value if isinstance(node, yaml.CollectionNode) else ()
        if isinstance(node, yaml.MappingNode):
            children = itertools.chain.from_iterable(children)
        counts[node] = min(MOST_NODES, 1 + sum(_expanded(child, counts) for child in children))
    return counts[node]


def parse(kind: Any, data: Any, where: str) -> Any:
    """Parse plain data as `kind`, which is a dataclass or the type of a field. Errors name the key."""
    if kind is Any:
        return data
    if dataclasses.is_dataclass(kind):
        return _parse_dataclass(kind, data, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        _expect(data in arguments, _description(kind), data, where)
        return data
    if origin in (types.UnionType, typing.Union):
        return _parse_union(arguments, data, where)
    if origin is tuple:
        _expect(isinstance(data, list | tuple), _description(kind), data, where)
        return tuple(parse(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(data))
    if origin is dict:
        for key in as_table(data, where):
            _expect(isinstance(key, str), "a name in quotation marks", key, where)
        return {key: parse(arguments[1], value, key_path(where, key)) for key, value in data.items()}
    return _parse_float(data, where) if kind is float else _parse_scalar(kind, data, where)


def _parse_union(kinds: tuple[Any, ...], data: Any, where: str) -> Any:
    """Parse data of a type X | None, or of a union of dataclasses that their field `kind` distinguishes."""
    kinds_of_values = [kind for kind in kinds if kind is not types.NoneType]
    if len(kinds_of_values) > 1:
        return parse(_of_kind(kinds_of_values, data, where), data, where)
    return None if data is None else parse(kinds_of_values[0], data, where)


def _parse_float(data: Any, where: str) -> float:
    data = _number(data)
    _expect(isinstance(data, int | float) and not isinstance(data, bool), _NAMES[float], data, where)
    _expect(abs(data) < 1e308, "a finite number below 1e308", data, where)
    return float(data)


def _parse_scalar(kind: Any, data: Any, where: str) -> Any:
    if kind is int and isinstance(data, str):
        number = _number(data)  # such as 1e3
        data = int(number) if isinstance(number, float) and number.is_integer() else data
    _expect(isinstance(data, kind) and not (kind is int and isinstance(data, bool)), _NAMES[kind], data, where)
    if kind is int:
        _expect(abs(data) <= LARGEST_INT, f"a whole number up to {LARGEST_INT}", data, where)
    return data


def _number(data: Any) -> Any:
    """Convert text such as 1e-4 or 1.5e3 to a number. YAML 1.1 takes it for text: it expects 1.0e-4 and 1.5e+3."""
    if isinstance(data, str) and re.fullmatch(r"[-+]?(\d+(\.\d*)?|\.\d+)e[-+]?\d+", data, re.IGNORECASE):
        return float(data)
    return data


def _description(kind: Any) -> str:
    """Return what a value of a type looks like, for errors."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (types.UnionType, typing.Union):
        return _description(next(argument for argument in arguments if argument is not types.NoneType))
    if origin is tuple:
        return "a list"
    return _NAMES.get(kind, "a table")


def key_path(where: str, key: str) -> str:
    """Return the place of a key inside `where`, as `file: key.key.key`."""
    return f"{where}{'.' if ': ' in where else ': '}{key}"


def _expect(condition: bool, expected: str, value: Any, where: str) -> None:
    if not condition:
        raise UserError(f"{where}: expected {expected}, found {shortened(value)}")


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxdict, self.maxlist, self.maxtuple = 3, 5, 10, 10
        self.maxstring, self.maxlong, self.maxother = MAX_CHARACTERS, 40, MAX_CHARACTERS

    def repr_int(self, x: int, level: int) -> str:
        """Return the number; repr() refuses one of more than 4,300 digits."""
        return super().repr_int(x, level) if x.bit_length() < 10_000 else f"<a number of {x.bit_length():,} bits>"


def shortened(value: Any) -> str:
    """Return the repr of `value`, cut to a length that suits an error, however large `value` is."""
    text = _Short().repr(value)
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}..."


def _of_kind(kinds: list[Any], data: Any, where: str) -> Any:
    """Return the dataclass whose field `kind` has the value that `data` has."""
    names = {typing.get_args(typing.get_type_hints(kind)["kind"])[0]: kind for kind in kinds}
    if "kind" not in as_table(data, where):
        raise UserError(f"{key_path(where, 'kind')}: missing; expected one of {', '.join(names)}")
    return entry(names, parse(str, data["kind"], key_path(where, "kind")), key_path(where, "kind"))


def _expect_key(key: Any, fields: Mapping[str, Any], where: str) -> None:
    if key not in fields:
        printable = isinstance(key, str) and key.isprintable() and len(key) <= MAX_CHARACTERS
        name = key if printable else shortened(key)
        raise UserError(f"{key_path(where, name)}: no such key; {_suggestion(name, fields)}")


@functools.cache  # called for every row of a manifest
def _fields(kind: Any) -> tuple[dict[str, Any], list[str]]:
    """Return the types of a dataclass's fields, and the names of the fields that have no default."""
    missing = dataclasses.MISSING
    required = [f.name for f in dataclasses.fields(kind) if f.default is missing and f.default_factory is missing]
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}, required


def _parse_dataclass(kind: Any, data: Any, where: str) -> Any:
    hints, required = _fields(kind)
    for key in as_table(data, where):
        _expect_key(key, hints, where)
    values = {key: parse(hints[key], value, key_path(where, key)) for key, value in data.items()}
    for name in required:
        if name not in values:
            raise UserError(f"{key_path(where, name)}: missing; expected {_description(hints[name])}")
    try:
        return kind(**values)
    except ValueError as error:  # from __post_init__; its message may begin with the name of a field
        names_field = re.split(r"\W", str(error), maxsplit=1)[0] in hints
        raise UserError(key_path(where, str(error)) if names_field else f"{where}: {error}") from None
