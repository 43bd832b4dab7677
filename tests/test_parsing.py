"""Files that anybody may have written end in one short line that names the file."""

import re

import pytest
import yaml

from sclip.errors import UserError
from sclip.parsing import entry, parse, parse_yaml, read_json, read_yaml, shortened


def line_of(error: UserError) -> str:
    text = str(error)
    assert "\n" not in text
    assert len(re.sub(r"/\S*pytest-of-\S+/", "", text)) < 400  # without TMPDIR, which may be long
    return text


def aliases(levels: int, form: str) -> str:
    """Return YAML in which each table names the one before it nine times."""
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{i}: &a{i} {form.format(', '.join([f'*a{i - 1}'] * 9))}" for i in range(1, levels)]
    return "\n".join(lines)


BAD_YAML = {
    "aliases of lists": (aliases(40, "[{}]"), "more than 100,000 values"),
    "merged tables": (aliases(40, "{{<<: [{}]}}"), "more than 100,000 values"),
    "a list in itself": ("a: &a [*a]", "more than 100,000 values"),
    "nested lists": ("[" * 2000, "nested too deeply"),
    "a long number": ("a: " + "1" * 5000, r"4300 digits.* line 1, column 4"),
    "no date": ("a: 1\nb: 2024-99-99", r"month must be in 1..12.* line 2, column 4"),
    "no truth value": ("a: !!bool maybe", r"not YAML: .*line 1"),
}


@pytest.mark.parametrize("fault", BAD_YAML)
def test_bad_yaml_is_one_line(fault, tmp_path):
    text, message = BAD_YAML[fault]
    path = tmp_path / "some.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"some\.yaml: .*{message}") as error:
        read_yaml(path)
    line_of(error.value)


@pytest.mark.parametrize("again", ["  steps: 9\n", "  'steps': 9\n"])
def test_a_repeated_key_of_yaml_is_an_error(again, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(f"one: {{steps: 1}}\ntraining:\n  steps: 300\n  batch: 4\n{again}")
    with pytest.raises(UserError, match=r"params\.yaml: line 5: the same table has the key 'steps' in line 3 already"):
        read_yaml(path)


def test_yaml_may_repeat_a_part_by_name():
    assert parse_yaml("a: &a {x: 1}\nb: [*a, *a]\nc: {<<: *a, y: 2}", "here") == {
        "a": {"x": 1},
        "b": [{"x": 1}, {"x": 1}],
        "c": {"x": 1, "y": 2},
    }


def test_numbers_that_yaml_takes_for_text_are_numbers():
    for text in ("1e-4", "1e3", "1.5e3", "2.E-2", ".5e1", "-1.0e-4"):
        assert parse(float, yaml.safe_load(text), "here") == float(text)
    assert parse(int, "1.5e3", "here") == 1500
    for text in ("1.5e0", "1e-4", "1e400", "15"):
        with pytest.raises(UserError, match="here: expected a whole number"):
            parse(int, text, "here")
    for text in ("e3", ".e1", "1.5.2e3", "1e", "inf"):
        with pytest.raises(UserError, match="here: expected a number"):
            parse(float, text, "here")


BAD_JSON = {
    "nested lists": ("[" * 100_000, "nested too deeply"),
    "nested tables": ('{"a":' * 100_000, "nested too deeply"),
    "a long number": ("1" * 5000, "a number of more than 4,300 digits"),
    "half a table": ("{", "Expecting property name"),
}


@pytest.mark.parametrize("fault", BAD_JSON)
def test_bad_json_is_one_line(fault, tmp_path):
    text, message = BAD_JSON[fault]
    path = tmp_path / "some.json"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"some\.json: not JSON: {message}") as error:
        read_json(path)
    line_of(error.value)


LARGE = {
    "int for float": (float, 10**400, "expected a finite number below 1e308, found 1000"),
    "text for float": (float, "1e400", "expected a finite number below 1e308, found inf"),
    "not a number": (float, float("nan"), "expected a finite number below 1e308, found nan"),
    "int": (int, 10**400, "expected a whole number up to 9223372036854775807, found 1000"),
    "int of 12,042 digits": (int, 1 << 40_000, "up to 9223372036854775807, found <a number of 40,001 bits>"),
    "text for int": (int, "1" * 100_000, "expected a whole number, found '111"),
    "table for text": (str, {"key": [["x" * 1000] * 1000] * 1000}, "expected text, found {'key': [['xxx"),
}


@pytest.mark.parametrize("name", LARGE)
def test_an_error_shows_the_start_of_a_large_value(name):
    kind, value, message = LARGE[name]
    with pytest.raises(UserError, match=rf"here: key: .*{re.escape(message)}") as error:
        parse(kind, value, "here: key")
    line_of(error.value)


def test_deep_nesting_is_shown_short():
    nested: list = []
    for _ in range(900):
        nested = [nested]
    assert shortened(nested) == "[[[[...]]]]"


def test_only_a_near_name_is_suggested():
    names = {"parallel": 1, "cascaded": 2}
    for name, message in (
        ("paralel", "here: no 'paralel'; did you mean 'parallel'?"),
        ("zzz", "here: no 'zzz'; expected one of parallel, cascaded"),
    ):
        with pytest.raises(UserError) as error:
            entry(names, name, "here")
        assert str(error.value) == message
    with pytest.raises(UserError, match="expected one of none"):
        entry({}, "zzz", "here")
