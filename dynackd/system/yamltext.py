"""YAML as people write it. PyYAML reads YAML 1.1, where `no` and `off` are truth values, `1:30` is a number in base 60,
`017` one in base 8, `2024-01-01` a date, and `5e-5` a text. Here they are what YAML 1.2 says: only `true` and `false`
are truth values, and what looks like a number to a reader is one.

    read_yaml("save_strategy: no")    # {"save_strategy": "no"}
"""

import re
from collections.abc import Sequence
from typing import Any, ClassVar

import yaml

from dynackd.errors import UserError

MAX_CHARACTERS = 1_000_000
MAX_VALUES = 100_000  # with each alias written out: a few lines of aliases can stand for billions

CORE = "tag:yaml.org,2002:"
# tag -> (what a plain text of it looks like, the letters that it can begin with, "" where it can be empty); the first
# that fits counts.
PLAIN: dict[str, tuple[str, Sequence[str]]] = {
    "null": (r"~|null|Null|NULL|", ("~", "n", "N", "")),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "merge": (r"<<", "<"),
}


class _Loader(yaml.SafeLoader):
    # Its own, so that nothing of YAML 1.1 is left: no dates, no base 60, no sets.
    yaml_implicit_resolvers = {}  # type: ignore[var-annotated]  # noqa: RUF012
    yaml_constructors: ClassVar[dict[Any, Any]] = {}

    def construct_int(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node)).replace("_", "")
        return int(text, 0) if text.startswith(("0o", "0x")) else int(text)


class _Dumper(yaml.SafeDumper):
    """Quotes every text that YAML 1.1 or 1.2 would take for something else."""


for _tag, (_pattern, _letters) in PLAIN.items():
    for _side in (_Loader, _Dumper):
        _side.add_implicit_resolver(CORE + _tag, re.compile(f"^(?:{_pattern})$"), list(_letters))
for _tag, _construct in (
    ("null", _Loader.construct_yaml_null),
    ("bool", _Loader.construct_yaml_bool),
    ("int", _Loader.construct_int),
    ("float", _Loader.construct_yaml_float),
    ("str", _Loader.construct_yaml_str),
    ("seq", _Loader.construct_yaml_seq),
    ("map", _Loader.construct_yaml_map),
):
    _Loader.add_constructor(CORE + _tag, _construct)
_Loader.add_constructor(None, _Loader.construct_undefined)  # type: ignore[type-var]


def read_yaml(text: str) -> Any:
    """What the text holds; `UserError` that names the line where it is no YAML, a key stands twice, or it is huge."""
    if len(text) > MAX_CHARACTERS:
        raise UserError(f"it has more than {MAX_CHARACTERS:,} characters, too many for settings; is it a data file?")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count_values(node, {})
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise UserError(f"not valid YAML: {_reason(error)}") from error
    except RecursionError as error:
        raise UserError("not valid YAML: it is nested too deep") from error
    except (ValueError, KeyError) as error:  # an explicit tag that does not fit, a number of thousands of digits
        raise UserError(f"not valid YAML: {str(error)[:120]}") from error


def write_yaml(content: Any) -> str:
    """YAML that `read_yaml`, and any other reader, reads back as the same."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _count_values(node: yaml.Node, counted: dict[int, int]) -> int:
    """How many values the node holds with every alias written out; refuses too many, and a key that stands twice."""
    known = counted.get(id(node))
    if known == 0:
        raise UserError(f"not valid YAML: {_place(node)}: the alias stands inside what it stands for")
    if known is not None:
        return known
    counted[id(node)] = 0
    inside: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        _refuse_repeated_keys(node)
        inside = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        inside = node.value
    total = 1 + sum(_count_values(part, counted) for part in inside)
    if total > MAX_VALUES:
        raise UserError(f"{_place(node)}: it stands for more than {MAX_VALUES:,} values, too many for settings")
    counted[id(node)] = total
    return total


def _refuse_repeated_keys(node: yaml.MappingNode) -> None:
    lines: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != CORE + "merge":
            line = key.start_mark.line + 1
            if (key.tag, key.value) in lines:
                first = lines[key.tag, key.value]
                raise UserError(f"the key {key.value!r} stands twice, in line {first} and line {line}")
            lines[key.tag, key.value] = line


def _place(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}, column {node.start_mark.column + 1}"


def _reason(error: yaml.YAMLError) -> str:
    """The error in one line, with the place in front, and what to do about a tab."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem is None:
        return " ".join(str(error).split())
    mark = error.problem_mark or error.context_mark
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    context = f"{error.context}, " if error.context else ""
    hint = "; indent with spaces, not with tabs" if "'\\t'" in error.problem else ""
    return f"{place}{context}{error.problem}{hint}"
