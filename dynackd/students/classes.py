"""The classes of students: for every family a config, and for each kind of head a model, made from the stock ones.

The stock model is built at its full geometry, and its layers are then cut to the sizes that the config lists.
"""

import functools
import inspect
from typing import Any

import transformers
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from dynackd.families.family import FULL_HIDDEN_KEY
from dynackd.families.table import FAMILIES, FAMILY_KEY
from dynackd.students.registration import MODEL_TYPE_PREFIX
from dynackd.students.shrink import full_hidden, full_size, shrink
from dynackd.tasks.kinds import KINDS

# Of a student's config, and False: the model has no pooler, which transformers would draw at random for a checkpoint
# without one.
POOLER_KEY = "dynackd_pooler"


def takes_pooler(model: type) -> bool:
    """Whether a model's class makes a pooler unless it is told not to."""
    return "add_pooling_layer" in inspect.signature(model).parameters


def auto_classes() -> list[str]:
    """transformers' Auto classes for which students are registered, as far as an architecture has them: those of the
    kinds, and what users may want."""
    common = ("AutoModelForTokenClassification", "AutoModelForQuestionAnswering", "AutoModel")
    return list(dict.fromkeys([*(kind.auto_class for kind in KINDS.values()), *common]))


def shrink_table(name: str) -> dict[str, Any]:
    """What `shrink` needs to know of a family, in plain values."""
    family = FAMILIES[name]
    linears = tuple((linear.path, linear.unit, linear.dim, linear.optional) for linear in family.linears)
    shared = tuple((bias.path, bias.reader, bias.argument) for bias in family.shared)
    hidden = tuple((own.path, own.dims) for own in family.hidden)
    names = (
        "layers", "layers_key", "layer_keys", "heads_key", "neurons_key", "hidden_key", "head_count", "head_width",
        "norms",
    )  # fmt: skip
    return {**{name: getattr(family, name) for name in names}, "linears": linears, "shared": shared, "hidden": hidden}


@functools.cache
def config_class(name: str) -> type[PreTrainedConfig]:
    """The config class of the students of the architecture `name`, registered with AutoConfig."""
    stock = CONFIG_MAPPING[name]

    def forget_code(config: PreTrainedConfig, auto_map: Any = None, **values: Any) -> None:
        """A student whose code travels with it (`auto_map`) is loaded by this class, which is not that code: saved
        again it must not point at a file that is not there."""
        stock.__post_init__(config, **values)

    def validate(config: PreTrainedConfig) -> None:
        """The stock config's own checks, of which some want the hidden size to be all heads together."""
        with full_hidden(config, {"hidden_key": FAMILIES[name].hidden_key}):
            stock.validate(config)  # type: ignore[attr-defined]

    lists, numbers = ("layer_heads", "layer_neurons", "kept_layers"), ("head_size", "full_layers")
    annotations: dict[str, Any] = dict.fromkeys(lists, list[int] | None) | dict.fromkeys(numbers, int | None)
    fields = {
        "model_type": MODEL_TYPE_PREFIX + name,
        **dict.fromkeys(annotations),
        FAMILY_KEY: name,
        FULL_HIDDEN_KEY: None,  # no field, so that a config of the full hidden size says nothing of it
        "__post_init__": forget_code,
        "validate": validate,
        "__module__": __name__,
        "__annotations__": annotations | {FAMILY_KEY: str},
    }
    made: Any = type(f"Dynackd{stock.__name__}", (stock,), fields)
    AutoConfig.register(made.model_type, made, exist_ok=True)
    return made


@functools.cache
def model_class(name: str, auto: str) -> type[PreTrainedModel]:
    """The students' class of an architecture for one of transformers' Auto classes, registered with that."""
    config, table = config_class(name), shrink_table(name)
    stock: Any = getattr(transformers, auto)._model_mapping[CONFIG_MAPPING[name]]
    has_pooler = takes_pooler(stock)

    class Student(stock):  # type: ignore[misc]
        def __init__(self, config: PreTrainedConfig, *args: Any, **options: Any) -> None:
            if has_pooler and getattr(config, POOLER_KEY, True) is False:
                options.setdefault("add_pooling_layer", False)
            with full_size(config, table):
                super().__init__(config, *args, **options)
            shrink(self, config, table)

    Student.config_class = config
    Student.config = config  # type: ignore[assignment]
    Student.__name__ = Student.__qualname__ = f"Dynackd{stock.__name__}"
    getattr(transformers, auto).register(config, Student, exist_ok=True)
    return Student


def auto_class_of(model_class_name: str, name: str) -> str:
    """The Auto class that makes the stock class, or the student's, of this name."""
    for auto in auto_classes():
        stock = getattr(transformers, auto)._model_mapping.get(CONFIG_MAPPING[name], None)
        if stock is not None and model_class_name in (stock.__name__, f"Dynackd{stock.__name__}"):
            return auto
    raise ValueError(f"no Auto class makes a {model_class_name}")


@functools.cache
def register(name: str) -> None:
    """Make the students of an architecture known to transformers' Auto classes, all of them: where its config is known,
    nothing asks for the classes of other heads any more."""
    for auto in auto_classes():
        if CONFIG_MAPPING[name] in getattr(transformers, auto)._model_mapping:
            model_class(name, auto)
