"""Settings that people write: pydantic checks them strictly, and its first error is told as our one sentence.

    @section("grid")                     # a pydantic dataclass; or class Grid(Settings), a model
    class Grid:
        widths: tuple[Number, ...] = Field(default=(1.0, 0.5), description="...")

    checked(Recipe, content)             # UserError: "unknown key 'grid.width', did you mean 'widths'?"

What a value must be is read from the JSON Schema, so that the sentence and an editor say the same. A validator of one's
own raises ValueError with what follows the key's path in the sentence.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Annotated, Any, NoReturn, TypeVar, dataclass_transform

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainValidator,
    Strict,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
)
from pydantic.dataclasses import dataclass
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from dynackd.errors import UserError, listed, nearest, one_of, shown

LARGEST = 2**63 - 1  # whole number that torch takes

T = TypeVar("T")
Json = dict[str, Any]  # a JSON Schema

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
# No `strict=True` there, with which a dataclass takes no mapping and a tuple no list; so a number says it itself.
Whole = Annotated[int, Strict(), Field(le=LARGEST)]
Number = Annotated[float, Strict()]


class Settings(BaseModel):
    """A section of a recipe: no conversions, no unknown keys."""

    model_config = STRICT | ConfigDict(frozen=True, strict=True)


class Among:
    """A text that is one of a registry's names; the registry is looked at when a value is checked."""

    def __init__(self, known: Callable[[], Iterable[str]]) -> None:
        self.known = known

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def check(value: str) -> str:
            if value not in self.known():
                raise ValueError("is unknown")
            return value

        return core_schema.no_info_after_validator_function(check, handler(source))

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> Json:
        return {**handler(schema), "enum": list(self.known())}


def refused(sentence: str, allowed: Any = ...) -> Any:
    """The type of a key that may not stand there, or only with the value that asks for nothing."""

    def check(value: Any) -> Any:
        if type(value) is type(allowed) and value == allowed:
            return value
        raise ValueError(sentence)

    schema: Json = {"not": {}} if allowed is ... else {"const": allowed}
    return Annotated[Any, PlainValidator(check), WithJsonSchema(schema)]


@dataclass_transform(frozen_default=True, field_specifiers=(Field,))
def section(where: str) -> Callable[[type[T]], type[T]]:
    """Makes a frozen dataclass that checks what it is made from; its `UserError` names keys of the section `where`."""

    def decorate(kind: type[T]) -> type[T]:
        made: Any = dataclass(frozen=True, config=STRICT)(kind)
        check = made.__init__

        @functools.wraps(check)
        def make(self: T, *values: Any, **named: Any) -> None:
            content = {**dict(zip(made.__dataclass_fields__, values, strict=False)), **named}
            try:
                check(self, **content)
            except ValidationError as error:
                _refuse(error, made, content, where)

        made.__init__ = make
        return made  # type: ignore[no-any-return]

    return decorate


def checked(kind: type[T], content: Any, where: str = "") -> T:
    """What `kind` makes of plain content, such as a recipe's; `UserError` in one sentence that names the key."""
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        _refuse(error, kind, content, where)


# --- pydantic's error in our words -----------------------------------------------------------------------------------

UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument", "invalid_key")
TYPES = {"boolean": "true or false", "integer": "a whole number", "number": "a number", "string": "a text",
         "array": "a list", "object": "a mapping, such as {key: value}", "null": "null"}  # fmt: skip
BOUNDS = {"minimum": " from {:,}", "exclusiveMinimum": " above {:,}", "maximum": " up to {:,}",
          "exclusiveMaximum": " to below {:,}"}  # fmt: skip


class _Untitled(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def schema_of(kind: Any) -> Json:
    """The JSON Schema of what settings are made from."""
    return TypeAdapter(kind).json_schema(schema_generator=_Untitled)


def _refuse(error: ValidationError, kind: Any, content: Any, where: str) -> NoReturn:
    # A key that is missing may be the one that is misspelt.
    first = min(error.errors(include_url=False), key=lambda one: one["type"] == "missing")
    schema = schema_of(kind)
    fault, last = first["type"], first["loc"][-1] if first["loc"] else ""
    path, name, value = where, "", content
    around, kinds = [], alternatives(schema, schema)
    for key in first["loc"]:
        try:
            inner = value[key]
        except (KeyError, IndexError, TypeError):  # the name of one of several types, or of a key that is missing
            break
        path, name = path if isinstance(value, list | tuple) else _join(path, key), str(key)
        value, around = inner, kinds
        kinds = [each for one in around for each in alternatives(_inside(one, key), schema)]
    names = [name for one in kinds for name in one.get("enum", ())]
    if fault == "missing":
        needed = listed([name for one in kinds for name in one.get("required", ())])
        raise UserError(f"'{_join(path, last)}' is missing; needed are {needed}")
    if fault in UNKNOWN or last == "[key]":
        known = [name for one in around for name in _keys(one)]
        if not known:
            raise UserError(f"the key {path} must be a text; put it in quotes")
        raise UserError(f"unknown key '{path}'{nearest(name, known) or '; known: ' + listed(known, 40)}")
    if isinstance(value, str) and names:
        one_of(path, value, names)
    if fault == "value_error":
        raise UserError(f"{path} {first['ctx']['error']}")
    if first.get("ctx", {}).get("le") == LARGEST:
        raise UserError(f"{path} is too large a number: {shown(value)}")
    texts = any(one.get("type") == "string" for one in kinds) and not names
    quotes = "; a number that is a name stands in quotes" if type(value) in (int, float) and texts else ""
    raise UserError(f"{path} must be {in_words(kinds)}, not {shown(value)}{quotes}")


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def in_words(kinds: Iterable[Json]) -> str:
    """What alternatives of a JSON Schema allow, such as "a whole number of 1 or more, or null"."""
    return ", or ".join(dict.fromkeys(map(_in_words, kinds)))


def _in_words(kind: Json) -> str:
    if "const" in kind:
        return shown(kind["const"])
    if "enum" in kind:
        return f"one of {listed(kind['enum'], 40)}"
    if kind.get("type") == "array" and kind.get("default"):
        return f"a list, such as {kind['default']}"
    bounds = {name: kind[name] for name in BOUNDS if kind.get(name, LARGEST) != LARGEST}
    if kind.get("type") == "integer" and list(bounds) == ["minimum"]:
        return f"a whole number of {bounds['minimum']:,} or more"
    between = "".join(BOUNDS[name].format(value) for name, value in bounds.items())
    return TYPES.get(kind.get("type", ""), "something else") + between


def alternatives(schema: Json | None, root: Json) -> list[Json]:
    """The types that a part of the JSON Schema `root` allows, with all references followed."""
    if schema and "$ref" in schema:
        return alternatives(root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root)
    inner = schema.get("anyOf") if schema else []
    return [kind for one in inner for kind in alternatives(one, root)] if inner else [schema] if schema else []


def _inside(kind: Json, key: Any) -> Json | None:
    """The schema of what stands under a key, or in a list."""
    if isinstance(key, int):
        return kind.get("items")
    others = kind.get("additionalProperties")
    return kind.get("properties", {}).get(key) or (others if isinstance(others, dict) else None)


def _keys(kind: Json) -> list[str]:
    """The keys that may stand in a mapping."""
    own = [name for name, schema in kind.get("properties", {}).items() if "not" not in schema]
    return own + kind.get("propertyNames", {}).get("enum", [])
