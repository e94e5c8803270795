"""The one Python file that travels with a student on request, so that it loads where dynackd is not installed.

It is written for one family from the rule of slicing, imports torch and transformers only, and runs only where its
user says `trust_remote_code=True`.
"""

from pathlib import Path

from transformers import PreTrainedModel

from dynackd.families.family import FAMILY_KEY, family_of
from dynackd.students.student import STUDENT_CLASSES
from dynackd.version import __version__

CODE_FILE = "modeling_dynackd.py"

_TEMPLATE = '''"""A sliced {family} student, written by dynackd {version}: the stock model with smaller linear layers.

    AutoModelForSequenceClassification.from_pretrained(directory, trust_remote_code=True)
"""

from torch import nn
from transformers import {stock_config}, {stock_model}

LAYERS = {layers!r}
# The linear layers of a Transformer layer: path, what its sliced dimension counts, that dimension (0 rows, 1 columns).
LINEARS = {linears!r}
# Attributes that hold a layer's number of heads.
HEAD_COUNTS = {head_counts!r}


class {config}({stock_config}):
    model_type = {model_type!r}

    head_size: int | None = None
    layer_heads: list[int] | None = None
    layer_neurons: list[int] | None = None
    kept_layers: list[int] | None = None
    {family_key}: str = {family!r}


class {model}({stock_model}):
    config_class = {config}

    def __init__(self, config):
        super().__init__(config)
        totals = {{"head": config.{heads_key}, "neuron": config.{neurons_key}}}
        for index, layer in enumerate(self.base_model.get_submodule(LAYERS)):
            counts = {{"head": config.layer_heads[index], "neuron": config.layer_neurons[index]}}
            for path, unit, dim in LINEARS:
                old = layer.get_submodule(path)
                sizes = [old.out_features, old.in_features]
                sizes[dim] = sizes[dim] * counts[unit] // totals[unit]
                new = nn.Linear(sizes[1], sizes[0], old.bias is not None, old.weight.device, old.weight.dtype)
                layer.set_submodule(path, new)
            for path in HEAD_COUNTS:
                holder, _, attribute = path.rpartition(".")
                setattr(layer.get_submodule(holder), attribute, counts["head"])
'''


def code_of(student: PreTrainedModel) -> str:
    """The text of the file for this student's family."""
    name, family = getattr(student.config, FAMILY_KEY), family_of(student.config)
    config_class, model_class = STUDENT_CLASSES[name]
    return _TEMPLATE.format(
        family=name,
        version=__version__,
        stock_config=config_class.__base__.__name__,  # type: ignore[union-attr]
        stock_model=model_class.__base__.__name__,  # type: ignore[union-attr]
        config=config_class.__name__,
        model=model_class.__name__,
        model_type=config_class.model_type,
        family_key=FAMILY_KEY,
        layers=family.layers,
        linears=tuple((linear.path, linear.unit, linear.dim) for linear in family.linears),
        head_counts=family.head_count,
        heads_key=family.heads_key,
        neurons_key=family.neurons_key,
    )


def add_code(student: PreTrainedModel, directory: Path) -> None:
    """Write the file into a student directory and let the config, before it is saved, name its classes."""
    module = Path(CODE_FILE).stem
    config_class, model_class = STUDENT_CLASSES[getattr(student.config, FAMILY_KEY)]
    student.config.auto_map = {  # type: ignore[attr-defined]
        "AutoConfig": f"{module}.{config_class.__name__}",
        "AutoModelForSequenceClassification": f"{module}.{model_class.__name__}",
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CODE_FILE).write_text(code_of(student), encoding="utf-8")
