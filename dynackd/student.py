"""Students: sliced models that `AutoModelForSequenceClassification.from_pretrained` loads once dynackd is imported.

For every family there is a config and a model class, made from the stock ones: the stock model is built at its full
geometry and its sliced linear layers are then replaced by smaller ones.
"""

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from dynackd.families import FAMILIES, FAMILY_KEY, HEAD, NEURON, family_of, geometry_of, layer_list, unit_totals
from dynackd.slicing import slice_model
from dynackd.spec import ResolvedSubnet
from dynackd.supernet import CONFIG_KEY, Supernet

MODEL_TYPE_PREFIX = "dynackd-"


def shrink(model: PreTrainedModel, config: PreTrainedConfig) -> None:
    """Replace the sliced linear layers of a freshly built model by ones of the sizes that `config` lists per layer."""
    family, totals = family_of(config), unit_totals(geometry_of(config))
    for index, layer in enumerate(layer_list(model)):
        counts = {HEAD: config.layer_heads[index], NEURON: config.layer_neurons[index]}
        for linear in family.linears:
            old = layer.get_submodule(linear.path)
            assert isinstance(old, nn.Linear)
            sizes = [old.out_features, old.in_features]
            sizes[linear.dim] = sizes[linear.dim] * counts[linear.unit] // totals[linear.unit]
            new = nn.Linear(sizes[1], sizes[0], old.bias is not None, old.weight.device, old.weight.dtype)
            layer.set_submodule(linear.path, new)
        for path in family.head_count:
            holder, _, attribute = path.rpartition(".")
            setattr(layer.get_submodule(holder), attribute, counts[HEAD])


def _student_classes(name: str) -> tuple[type[PreTrainedConfig], type[PreTrainedModel]]:
    """The config and model class of one family's students, registered with transformers' Auto classes."""
    stock_config = CONFIG_MAPPING[name]
    stock_model: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[stock_config]
    fields: dict[str, Any] = {
        "model_type": MODEL_TYPE_PREFIX + name,
        "layer_heads": None,
        "layer_neurons": None,
        "kept_layers": None,
        FAMILY_KEY: name,
        "__module__": __name__,
    }
    annotations: dict[str, Any] = dict.fromkeys(("layer_heads", "layer_neurons", "kept_layers"), list[int] | None)
    annotations[FAMILY_KEY] = str
    fields["__annotations__"] = annotations
    config_class: Any = type(f"Dynackd{stock_config.__name__}", (stock_config,), fields)

    class Student(stock_model):  # type: ignore[misc]
        def __init__(self, config: PreTrainedConfig) -> None:
            super().__init__(config)
            shrink(self, config)

    Student.config_class = config_class
    Student.config = config_class  # type: ignore[assignment]
    Student.__name__ = Student.__qualname__ = f"Dynackd{stock_model.__name__}"
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoModelForSequenceClassification.register(config_class, Student, exist_ok=True)
    return config_class, Student


STUDENT_CLASSES = {name: _student_classes(name) for name in FAMILIES}


def cut(supernet: Supernet, resolved: ResolvedSubnet) -> PreTrainedModel:
    """The student: the sub-network as a model of its own, in evaluation mode, that saves and loads like any other."""
    sliced = slice_model(supernet.model, resolved)
    config = _student_config(supernet, resolved)
    _, student_class = STUDENT_CLASSES[supernet.model.config.model_type]
    with torch.device("meta"):
        student = student_class(config)
    student.load_state_dict(sliced.state_dict(), strict=True, assign=True)
    # Buffers that no state dict holds (position ids) are still on the meta device.
    buffers = dict(sliced.named_buffers())
    for name, buffer in list(student.named_buffers()):
        if buffer.is_meta:
            path, _, leaf = name.rpartition(".")
            student.get_submodule(path).register_buffer(leaf, buffers[name].clone(), persistent=False)
    return student.eval()


def _student_config(supernet: Supernet, resolved: ResolvedSubnet) -> PreTrainedConfig:
    """The supernet's config, with what was kept in it."""
    stock = supernet.model.config
    family = family_of(stock)
    config_class: Any = STUDENT_CLASSES[stock.model_type][0]
    values = {
        key: value
        for key, value in stock.to_dict().items()
        if key not in {"model_type", "architectures", "transformers_version", CONFIG_KEY}
    }
    values[family.layers_key] = len(resolved.layers)
    config = config_class(
        **values,
        layer_heads=[resolved.heads] * len(resolved.layers),
        layer_neurons=[resolved.neurons] * len(resolved.layers),
        kept_layers=list(resolved.layers),
    )
    origin = {"width": resolved.spec.width, "depth": resolved.spec.depth, "teacher": supernet.origin.teacher}
    setattr(config, CONFIG_KEY, origin)
    return config

