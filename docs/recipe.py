"""Write `docs/recipe.md` from the JSON Schema of recipes:  python docs/recipe.py

`tests/test_documents.py` compares the file with what this makes.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dynackd.system.settings import alternatives, in_words
from dynackd.training.schema import recipe_schema

FILE = Path(__file__).with_name("recipe.md")
HEAD = """# Recipe reference

Every key of a recipe, written by `python docs/recipe.py` from the schema that checks it. A recipe is one YAML file:

```yaml
model: google-bert/bert-base-uncased
task: sst2
data: {hub: glue/sst2, max_length: 128}
grid: {widths: [0.25, 0.5, 0.75, 1.0], depths: [0.5, 0.75, 1.0]}
training: {num_train_epochs: 3, learning_rate: 2e-5}
stages: {depth: {training: {num_train_epochs: 4}}}
output_dir: runs/sst2
```

- It is read as YAML 1.2: `no` is a word, `false` a truth value, `2e-5` a number. Values are not converted: `'3'` is no
  number.
- Any key can be set on the command line: `--set training.learning_rate=3e-5`, as often as you like.
- A recipe is checked whole, for all stages, before a model or data is loaded. An unknown key is answered with the
  nearest one.
- `dynackd schema` prints the JSON Schema. With it an editor completes and checks a recipe that has, at its head, the
  line `# yaml-language-server: $schema=PATH-OF-THE-SCHEMA`.
- The recipe as it was run lies beside every result (`recipe.yaml`).
"""
AFTER = {
    "training": "Where the default is not transformers' own, it is dynackd's. A stage's own values stand under "
    "`stages.<stage>.training`.",
}
REFUSED = "Not possible: "
Json = Mapping[str, Any]


def page() -> str:
    """The text of `docs/recipe.md`."""
    schema = recipe_schema()
    sections = _mappings(schema, schema)
    parts = ["## The keys at the top", _table(schema, schema, sections)]
    for name, kinds in sections.items():
        parts += [f"## `{name}`"]
        for kind in kinds:
            parts += [str(kind.get("description", "")).partition("\n")[0], AFTER.get(name, "")]
            parts += [_table(kind, schema, sections), *_refused(kind)]
    return HEAD + "\n" + "\n\n".join(part for part in parts if part) + "\n"


def _mappings(kind: Json, schema: Json, path: str = "") -> dict[str, list[Json]]:
    """Path -> JSON Schemas of the mappings with keys of their own that may stand there; what several keys share is
    under the first."""
    found: dict[str, list[Json]] = {}
    for key, value in kind["properties"].items():
        own = f"{path}.{key}" if path else key
        for inner in alternatives(value, schema):
            if "properties" in inner:
                found.setdefault(own, []).append(inner)
                found |= _mappings(inner, schema, own)
    return {own: inner for i, (own, inner) in enumerate(found.items()) if inner not in list(found.values())[:i]}


def _table(kind: Json, schema: Json, sections: Mapping[str, Sequence[Json]]) -> str:
    rows = []
    for key, value in kind["properties"].items():
        if "not" not in value and ("const" not in value or key in kind.get("required", ())):
            default = "needed" if kind is schema and key in schema["required"] else _default(value)
            takes = _takes(alternatives(value, schema), sections)
            rows.append([f"`{key}`", takes, default, _short(value.get("description", ""))])
    return _rows(["key", "takes", "default", ""], rows)


def _refused(kind: Json) -> list[str]:
    """What is refused with its reason, and names that other tools or older libraries have."""
    told = {key: str(value.get("description", "")) for key, value in kind["properties"].items()}
    refused = [[f"`{key}`", text.removeprefix(REFUSED)] for key, text in told.items() if text.startswith(REFUSED)]
    renamed = [[f"`{key}`", told[key]] for key, value in kind["properties"].items() if "not" in value]
    parts = ["Refused, with the reason that is told:", _rows(["key", "why"], refused)] if refused else []
    return parts + (["Names from elsewhere, and the answer:", _rows(["key", ""], renamed)] if renamed else [])


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [" | ".join(cell.replace("|", "\\|") for cell in cells) for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(f"| {line} |" for line in lines)


def _takes(kinds: Sequence[Json], sections: Mapping[str, Sequence[Json]]) -> str:
    own = [kind for kind in kinds if "properties" in kind]
    links = [f"[a mapping](#{name.replace('.', '')})" for name, some in sections.items() if own and own == some]
    parts = [_words(kind) for kind in kinds if "properties" not in kind and not (links and kind.get("type") == "null")]
    return " or ".join([*dict.fromkeys(parts), *links])


def _words(kind: Json) -> str:
    if names := kind.get("propertyNames", {}).get("enum"):
        return f"a mapping with the keys {', '.join(names)}"
    return "a mapping" if kind.get("type") == "object" else in_words([kind])


def _default(value: Json) -> str:
    default = value.get("default")
    return "" if default is None else f"`{json.dumps(default)}`"


def _short(text: str) -> str:
    """The first sentence of the library's paragraphs; what is short is told whole."""
    text = " ".join(text.split())
    return text if len(text) <= 160 else re.split(r"(?<=[.;])\s", text)[0].rstrip(";")


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
