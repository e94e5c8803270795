"""The one Python file that travels with a student on request, so that it loads where dynackd is not installed.

It is written for one family from the rule of slicing, imports torch and transformers only, and runs only where its
user says `trust_remote_code=True`.
"""

import inspect
from pathlib import Path

from transformers import PreTrainedModel

from dynackd.families.family import first_heads, head_dims
from dynackd.families.table import FAMILY_KEY
from dynackd.students import shrink
from dynackd.students.classes import POOLER_KEY, auto_class_of, config_class, model_class, shrink_table
from dynackd.version import __version__

CODE_FILE = "modeling_dynackd.py"

_TEMPLATE = '''"""A sliced {family} student, written by dynackd {version}: the stock model with smaller linear layers.

    {auto}.from_pretrained(directory, trust_remote_code=True)
"""

{shrink}

from transformers import {stock_config}, {stock_model}  # noqa: E402

FAMILY = {table!r}


class {config}({stock_config}):
    model_type = {model_type!r}

    head_size: int | None = None
    full_layers: int | None = None
    layer_heads: list[int] | None = None
    layer_neurons: list[int] | None = None
    kept_layers: list[int] | None = None
    {family_key}: str = {family!r}
    full_hidden = None

    def validate(self):
        with full_hidden(self, FAMILY):
            super().validate()


class {model}({stock_model}):
    config_class = {config}

    def __init__(self, config, *args, **options):
        with full_size(config, FAMILY):
            super().__init__(config, *args, **{{**{options}, **options}})
        shrink(self, config, FAMILY)
'''


def _classes(student: PreTrainedModel) -> tuple[type, type, str]:
    name = getattr(student.config, FAMILY_KEY)
    auto = auto_class_of(type(student).__name__, name)
    return config_class(name), model_class(name, auto), auto


def code_of(student: PreTrainedModel) -> str:
    """The text of the file for this student's family and head."""
    name = getattr(student.config, FAMILY_KEY)
    config, model, auto = _classes(student)
    imported = f"from {first_heads.__module__} import first_heads, head_dims\n"
    functions = "\n\n".join(inspect.getsource(function) for function in (first_heads, head_dims))
    source = inspect.getsource(shrink).replace(imported, f"\n{functions}")
    return _TEMPLATE.format(
        family=name,
        version=__version__,
        auto=auto,
        shrink=source[source.index("from collections") :].strip(),
        stock_config=config.__base__.__name__,  # type: ignore[union-attr]
        stock_model=model.__base__.__name__,  # type: ignore[union-attr]
        config=config.__name__,
        model=model.__name__,
        model_type=config.model_type,  # type: ignore[attr-defined]
        family_key=FAMILY_KEY,
        table=shrink_table(name),
        options={} if getattr(student.config, POOLER_KEY, True) else {"add_pooling_layer": False},
    )


def add_code(student: PreTrainedModel, directory: Path) -> None:
    """Write the file into a student directory and let the config, before it is saved, name its classes."""
    module = Path(CODE_FILE).stem
    config, model, auto = _classes(student)
    student.config.auto_map = {  # type: ignore[attr-defined]
        "AutoConfig": f"{module}.{config.__name__}",
        auto: f"{module}.{model.__name__}",
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CODE_FILE).write_text(code_of(student), encoding="utf-8")
