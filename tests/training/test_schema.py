"""The JSON Schema of a recipe says what the models say, and an editor finds it."""

import copy
import json
import re
from pathlib import Path

import pytest
from conftest import tiny_recipe

from dynackd.cli.command_line import main
from dynackd.errors import UserError
from dynackd.system.settings import alternatives, checked
from dynackd.system.yamltext import read_yaml
from dynackd.training.arguments import OWN_WORDS
from dynackd.training.recipe import make_recipe
from dynackd.training.schema import RecipeFile, recipe_schema

RECIPES = Path(__file__).parents[2] / "recipes"
SHIPPED = sorted(RECIPES.rglob("*.yaml"))
SCHEMA = recipe_schema()
TYPES = {"object": dict, "array": list, "string": str, "integer": int, "number": int | float, "boolean": bool,
         "null": type(None)}  # fmt: skip
LIMITS = {"minimum": lambda x, y: x >= y, "exclusiveMinimum": lambda x, y: x > y, "maximum": lambda x, y: x <= y,
          "exclusiveMaximum": lambda x, y: x < y, "minLength": lambda x, y: len(x) >= y,
          "pattern": lambda x, y: re.search(y, x)}  # fmt: skip


def fits(value, schema):
    """Whether a value is what a JSON Schema says, as far as ours go."""
    return any(fits_one(value, kind) for kind in alternatives(schema, SCHEMA))


def fits_one(value, kind):
    if "not" in kind or ("const" in kind and (type(value), value) != (type(kind["const"]), kind["const"])):
        return False
    if "type" in kind and (not isinstance(value, TYPES[kind["type"]]) or
                           (isinstance(value, bool) and kind["type"] != "boolean")):  # fmt: skip
        return False
    if "enum" in kind and value not in kind["enum"]:
        return False
    if not all(holds(value, kind[name]) for name, holds in LIMITS.items() if name in kind):
        return False
    if isinstance(value, list) and "items" in kind:
        return all(fits(item, kind["items"]) for item in value)
    if isinstance(value, dict):
        own, others = kind.get("properties", {}), kind.get("additionalProperties", True)
        names = kind.get("propertyNames", {})
        return set(kind.get("required", ())) <= set(value) and all(
            fits(inner, own[key]) if key in own else fits_one(key, names) and (others is True or (
                others is not False and fits(inner, others))) for key, inner in value.items()
        )  # fmt: skip
    return True


def keys(schema=SCHEMA, path=()):
    """(path, schema) of every key."""
    for kind in alternatives(schema, SCHEMA):
        for name, inner in kind.get("properties", {}).items():
            yield (*path, name), inner
            yield from keys(inner, (*path, name))


KEYS = list(keys())


def with_value(content, path, value):
    """The recipe with one key set, the sections above it made where they are missing."""
    content = place = copy.deepcopy(content)
    for key in path[:-1]:
        if not isinstance(place.get(key), dict):
            place[key] = {}
        place = place[key]
    place[path[-1]] = value
    return content


def test_the_shipped_schema_is_what_the_command_prints(capsys):
    assert main(["schema"]) == 0
    shipped = (RECIPES / "recipe.schema.json").read_text(encoding="utf-8")
    assert capsys.readouterr().out == shipped, "run: dynackd schema > recipes/recipe.schema.json"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(RECIPES)))
def test_every_shipped_recipe_names_the_schema_and_is_what_it_says(path):
    text = path.read_text(encoding="utf-8")
    head = [line for line in text.splitlines() if line.startswith("# yaml-language-server: $schema=")]
    assert len(head) == 1
    assert json.loads((path.parent / head[0].partition("=")[2]).read_text(encoding="utf-8")) == SCHEMA
    assert fits(read_yaml(text), SCHEMA)


def test_every_key_is_described():
    assert len(KEYS) > 300
    assert [".".join(path) for path, schema in KEYS if not schema.get("description")] == []


@pytest.mark.parametrize(
    "change",
    [
        {"model": 3}, {"modle": "x"}, {"task": "sst3"}, {"task": {"kind": "classification"}}, {"output_dir": " "},
        {"grid": {"widths": [2.0]}}, {"grid": {"widths": ["66%"]}}, {"grid": {"kept_layers": "first"}}, {"grid": 3},
        {"distillation": {"weights": {"wr_par": 1}}}, {"distillation": {"weights": {"wr_pair": -1}}},
        {"training": {"lr": 1}}, {"training": {"hub_token": "x"}}, {"training": {"bf16": "yes"}}, {"paths": "here"},
        {"training": {"max_steps": 0}}, {"training": {"report_to": ["none"]}}, {"stages": {"dept": {}}},
        {"stages": {"depth": {"dropout": 1}}}, {"stages": {"finetune": {"distillation": {"signal": "ckd"}}}},
        {"data": {"train_rows": 0}}, {"data": [1]}, {"augmentation": {"probability": 0}}, {"importance": {"rows": 0}},
    ],
    ids=str,
)  # fmt: skip
def test_what_the_schema_refuses_is_refused_by_the_recipe(tmp_path, change):
    content = tiny_recipe(tmp_path)
    assert fits(content, SCHEMA)
    assert not fits({**content, **change}, SCHEMA)
    with pytest.raises(UserError):
        make_recipe({**content, **change})


# A task's keys are checked by its kind, and a stage's training is the recipe's.
OWN_KEYS = [path for path, _ in KEYS if path[0] != "task" and path[2:3] != ("training",)]


@pytest.mark.parametrize("path", OWN_KEYS, ids=".".join)
def test_no_value_is_converted_to_the_type_that_a_key_wants(tmp_path, path):
    schema = next(inner for own, inner in KEYS if own == path)
    kinds = {kind.get("type") for kind in alternatives(schema, SCHEMA)}
    wrong = {"string": 3, "boolean": 1, "integer": "1", "number": "1"}
    values = [value for kind, value in wrong.items() if kind in kinds and not fits(value, schema)]
    values += [True] * (bool(kinds & {"integer", "number"}) and not fits(True, schema))
    for value in values:
        with pytest.raises(UserError, match=re.escape(".".join(path))):
            checked(RecipeFile, with_value(tiny_recipe(tmp_path), path, value))


def test_every_default_is_a_value_that_may_be_written():
    wrong = [path for path, schema in KEYS if "default" in schema and not fits(schema["default"], schema)]
    assert [path for path in wrong if path[-1] not in OWN_WORDS and "not" not in dict(KEYS)[path]] == []
