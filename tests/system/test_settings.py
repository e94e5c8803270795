"""Settings: what pydantic refuses is told in one sentence with the path of the key and with what would be right."""

from dataclasses import FrozenInstanceError, replace
from typing import Annotated

import pytest
from pydantic import AfterValidator, Field

from dynackd.errors import UserError
from dynackd.system.settings import Among, Number, Settings, Whole, alternatives, checked, in_words, refused, section

RULES = {"first": 1, "last": 2}


def even(value):
    if value % 2:
        raise ValueError(f"is odd: {value}")
    return value


@section("shape")
class Shape:
    """Sizes."""

    sizes: tuple[Number, ...] = Field(default=(1.0, 0.5), description="The sizes")
    rule: Annotated[str, Among(lambda: RULES)] = Field(default="first", description="The rule")
    count: Annotated[Whole, Field(ge=0), AfterValidator(even)] | None = Field(default=None, description="How many")


class Part(Settings):
    name: str = Field(description="Its name")
    shape: Shape | None = Field(default=None, description="Its shape")
    weights: dict[Annotated[str, Among(lambda: RULES)], Annotated[float, Field(gt=0, le=1)]] = Field(default={})
    old: refused("is unknown; write name") = None
    off: refused("is not possible", False) = False
    steps: Annotated[float, Field(gt=0, lt=1)] | Annotated[int, Field(ge=1)] = 1


def sentence(content, kind=Part, where=""):
    with pytest.raises(UserError) as error:
        checked(kind, content, where)
    return str(error.value)


def test_settings_are_made_by_place_and_by_name_and_stay_as_they_are():
    shape = Shape([1, 0.25], rule="last")
    assert shape == Shape(sizes=(1.0, 0.25), rule="last") == checked(Shape, {"sizes": [1.0, 0.25], "rule": "last"})
    with pytest.raises(FrozenInstanceError):
        shape.rule = "first"


def test_a_copy_with_another_value_is_checked_like_the_first():
    with pytest.raises(UserError, match=r"^shape.rule: 'lats' is unknown, did you mean 'last'"):
        replace(Shape(), rule="lats")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({}, "'name' is missing; needed are name"),
        ({"nmae": "x"}, "unknown key 'nmae', did you mean 'name'?"),
        ({"name": "x", 3: 1}, "unknown key '3'; known: name, shape, weights, off, steps"),
        ({"name": 3}, "name must be a text, not 3; a number that is a name stands in quotes"),
        ({"name": True}, "name must be a text, not true"),
        ({"name": "x", "shape": "round"}, "shape must be a mapping, such as {key: value}, or null, not 'round'"),
        ({"name": "x", "shape": {"size": []}}, "unknown key 'shape.size', did you mean 'sizes'?"),
        ({"name": "x", "shape": {"sizes": 1}}, "shape.sizes must be a list, such as [1.0, 0.5], not 1"),
        ({"name": "x", "shape": {"sizes": [1, "2"]}}, "shape.sizes must be a number, not '2'"),
        ({"name": "x", "shape": {"sizes": [float("nan")]}}, "shape.sizes must be a number, not nan"),
        ({"name": "x", "shape": {"rule": ["last"]}}, "shape.rule must be one of first, last, not ['last']"),
        ({"name": "x", "shape": {"count": 3}}, "shape.count is odd: 3"),
        ({"name": "x", "shape": {"count": 2.0}}, "shape.count must be a whole number of 0 or more, or null, not 2.0"),
        ({"name": "x", "shape": {"count": 2**70}}, "shape.count is too large a number: 1180591620717411303424"),
        ({"name": "x", "weights": {"lst": 1}}, "unknown key 'weights.lst', did you mean 'last'?"),
        ({"name": "x", "weights": {"last": 2}}, "weights.last must be a number above 0 up to 1, not 2"),
        ({"name": "x", "old": 1}, "old is unknown; write name"),
        ({"name": "x", "off": 0}, "off is not possible"),
        ({"name": "x", "steps": 1.5},
         "steps must be a number above 0 to below 1, or a whole number of 1 or more, not 1.5"),
        ([1], "part must be"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(content, told):
    assert sentence(content, where="part" if isinstance(content, list) else "").startswith(told)


def test_a_section_of_its_own_is_told_with_its_name():
    assert sentence({"rule": "x"}, Shape, "stages.depth.shape").startswith("stages.depth.shape.rule: 'x' is unknown")


def test_what_asks_for_nothing_may_stand_there():
    assert checked(Part, {"name": "x", "off": False, "shape": None}).off is False


def test_a_registry_is_looked_at_when_a_value_is_checked(monkeypatch):
    monkeypatch.setitem(RULES, "middle", 3)
    assert Shape(rule="middle").rule == "middle"
    with pytest.raises(UserError, match="known: first, last, middle"):
        Shape(rule="x")


def test_types_in_words_follow_references():
    root = {"$defs": {"N": {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 8}, {"type": "null"}]}}}
    assert in_words(alternatives({"$ref": "#/$defs/N"}, root)) == "a whole number from 1 up to 8, or null"
