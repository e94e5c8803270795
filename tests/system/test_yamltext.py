"""Settings are read as YAML 1.2 reads them, written so that any reader reads the same, and no text takes long."""

import pytest
import yaml

from dynackd.errors import UserError
from dynackd.system.yamltext import read_yaml, write_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((word, word) for word in ("no", "No", "yes", "on", "off", "OFF", "y", "n", "=", "NaN", "1:30", "2024-01-01")),
        *((word, word) for word in ("2/3", "66%", "0b11", "1.0.0", "_1")),
        ("true", True), ("FALSE", False), ("null", None), ("~", None), ("", None),
        ("017", 17), ("0o17", 15), ("0x1F", 31), ("1_000", 1000), ("+3", 3), ("-1", -1),
        (".5", 0.5), ("5.", 5.0), ("1e-3", 1e-3), ("5e5", 5e5), ("1.5E-3", 1.5e-3), ("-.inf", float("-inf")),
    ],
)  # fmt: skip
def test_a_plain_word_is_what_yaml_1_2_says(text, value):
    read = read_yaml(f"key: {text}")["key"]
    assert read == value
    assert type(read) is type(value)


def test_anchors_and_merge_keys_work_and_the_nearer_key_counts():
    nested = "nested:\n  deep: &deep\n    <<: *base\n    a: 4\nlast: {<<: *deep}"
    content = read_yaml("base: &base {a: 1, b: 2}\nown: {<<: *base, b: 3}\n" + nested)
    assert content["own"] == {"a": 1, "b": 3}
    assert content["last"] == {"a": 4, "b": 2}


def test_what_is_written_is_read_back_by_us_and_by_any_reader():
    words = ["no", "1e3", "2024-01-01", "1:30", "null", "2/3", "017", "0o17", "", "=", "<<", "5.", "1_0", ".5"]
    content = {"texts": words, "number": 1e-5, "yes": True, "none": None, "integer": 3}
    assert read_yaml(write_yaml(content)) == content
    assert yaml.safe_load(write_yaml(content)) == content


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{a: 1, a: 2}", "the key 'a' stands twice, in line 1 and line 1"),
        ("[1]: 2", "not valid YAML: line 1, column 1: while constructing a mapping, found unhashable key"),
        ("a: 1\n---\nb: 2", "line 2, column 1: expected a single document"),
        ("a: !!timestamp 2024-99-99", "could not determine a constructor"),
        ("a: !!int abc", "invalid literal for int"),
        ("a: " + "9" * 5000, "Exceeds the limit"),
        ("a: b: c", "line 1, column 5: mapping values are not allowed here"),
        ("{a: " * 3000, "nested too deep"),
        ("x" * 1_000_001, "more than 1,000,000 characters"),
    ],
)
def test_what_is_no_yaml_is_told_in_one_line(text, sentence):
    with pytest.raises(UserError) as error:
        read_yaml(text)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
