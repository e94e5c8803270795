"""Students: sliced models that `AutoModelForSequenceClassification.from_pretrained` loads once dynackd is imported.

For every family there is a config and a model class, made from the stock ones: the stock model is built at its full
geometry and its sliced linear layers are then replaced by smaller ones.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from dynackd.errors import UserError
from dynackd.families.family import FAMILIES, FAMILY_KEY, HEAD, NEURON, family_of, geometry_of, layer_list, unit_totals
from dynackd.students.registration import MODEL_TYPE_PREFIX
from dynackd.students.slicing import slice_model
from dynackd.subnet import ResolvedSubnet
from dynackd.supernet.checkpoints import check_safetensors_file, fit_tokenizer, load_classifier, neutral
from dynackd.supernet.network import CONFIG_KEY, Supernet
from dynackd.system.places import read_json

MOST_LAYERS = 1000  # of any teacher
WEIGHTS_FILE = "model.safetensors"
# Keys by which a config.json makes transformers fetch or run something else than the model that it describes.
FOREIGN_KEYS = ("quantization_config", "attn_implementation", "experts_implementation", "per_layer_config")


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

    def forget_code(config: PreTrainedConfig, auto_map: Any = None, **values: Any) -> None:
        """A student whose code travels with it (`auto_map`) is loaded by this class, which is not that code: saved
        again it must not point at a file that is not there."""
        stock_config.__post_init__(config, **values)

    fields: dict[str, Any] = {
        "model_type": MODEL_TYPE_PREFIX + name,
        "head_size": None,
        "layer_heads": None,
        "layer_neurons": None,
        "kept_layers": None,
        FAMILY_KEY: name,
        "__post_init__": forget_code,
        "__module__": __name__,
    }
    annotations: dict[str, Any] = dict.fromkeys(("layer_heads", "layer_neurons", "kept_layers"), list[int] | None)
    annotations |= {"head_size": int | None, FAMILY_KEY: str}
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
        head_size=supernet.geometry.head_size,
        layer_heads=[resolved.heads] * len(resolved.layers),
        layer_neurons=[resolved.neurons] * len(resolved.layers),
        kept_layers=list(resolved.layers),
    )
    size = {"width": resolved.spec.width, "depth": resolved.spec.depth}
    setattr(config, CONFIG_KEY, {**size, **supernet.origin.public_teacher()})
    return config



def load_student(path: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A student directory's model, in evaluation mode and float32, and its tokenizer.

    For directories of unknown origin: everything is checked before it is built, nothing in the directory is ever
    executed, nothing outside it is read. Raises `UserError`, one sentence, for a directory that is no student, or is
    truncated or tampered with.
    """
    directory = Path(path)
    _check_files(directory)
    config = _checked_config(directory)
    _check_weights(directory, config)
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # whatever a library makes of a tampered file is the user's one sentence
        raise _refused(directory, f"its tokenizer cannot be read: {_first_line(error)}") from error
    return load_classifier(str(directory), config).eval(), fit_tokenizer(tokenizer, config, str(directory))


def _refused(directory: Path, reason: str) -> UserError:
    return UserError(f"{directory} is no intact student: {reason}")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _check_files(directory: Path) -> None:
    """Refuse a directory that lacks a file, holds one that leads elsewhere, or would be loaded in another way."""
    if not directory.is_dir():
        raise UserError(f"there is no student directory {directory}")
    for name in ("config.json", WEIGHTS_FILE, "tokenizer_config.json"):
        if not (directory / name).is_file():
            raise _refused(directory, f"it holds no {name} (weights in other formats can run code and are not read)")
    allowed = [directory.resolve()]
    if directory.resolve().parent.name == "snapshots":  # the hub's cache is made of links to its own blobs
        allowed.append(directory.resolve().parent.parent / "blobs")
    for file in sorted(directory.iterdir()):
        if file.is_file() and not any(file.resolve().is_relative_to(place) for place in allowed):
            raise _refused(directory, f"{file.name} is a link to {file.resolve()}, outside it")
    if (directory / "adapter_config.json").exists():
        raise _refused(directory, "adapter_config.json would load another model's weights")


def _checked_config(directory: Path) -> PreTrainedConfig:
    """The config, of one of our students, its sizes possible."""
    try:
        content = read_json(directory / "config.json")
    except RecursionError as error:
        raise _refused(directory, "its config.json is nested without end") from error
    model_type = content.get("model_type") if isinstance(content, dict) else None
    known = {f"{MODEL_TYPE_PREFIX}{name}": name for name in STUDENT_CLASSES}
    if not isinstance(model_type, str) or model_type not in known:
        raise _refused(directory, f"its config.json is of model type {model_type!r}, not one of {', '.join(known)}")
    family = known[model_type]
    if content.get(FAMILY_KEY, family) != family:
        raise _refused(directory, f"its config.json says both {model_type!r} and family {content[FAMILY_KEY]!r}")
    for key in content:
        if key.lstrip("_") in FOREIGN_KEYS:
            raise _refused(directory, f"its config.json has {key!r}, which no student needs")
    try:
        config = neutral(STUDENT_CLASSES[family][0].from_dict(content))
        problem = _impossible_sizes(config)
    except Exception as error:  # whatever a library makes of a tampered file is the user's one sentence
        raise _refused(directory, f"its config.json is not understood: {_first_line(error)}") from error
    if problem:
        raise _refused(directory, f"its config.json is impossible: {problem}")
    return config


def _impossible_sizes(config: PreTrainedConfig) -> str:
    """What is wrong with a student's sizes, or nothing."""
    geometry, family = geometry_of(config), family_of(config)
    hidden = getattr(config, family.hidden_key)
    if min(geometry.layers, geometry.heads, geometry.neurons) < 1 or geometry.head_size * geometry.heads != hidden:
        return f"hidden size {hidden} over {geometry.heads} heads, {geometry.layers} layers, {geometry.neurons} neurons"
    if config.head_size not in (None, geometry.head_size):
        return f"head_size {config.head_size!r}, which is not hidden size / heads = {geometry.head_size}"
    allowed = {
        "layer_heads": range(1, geometry.heads + 1),
        "layer_neurons": range(1, geometry.neurons + 1),
        "kept_layers": range(MOST_LAYERS),
    }
    for key, numbers in allowed.items():
        counts = getattr(config, key)
        if not isinstance(counts, list) or len(counts) != geometry.layers:
            return f"{key} must list one number for each of the {geometry.layers} layers"
        for count in counts:
            if type(count) is not int or count not in numbers:
                return f"{key} holds {count!r}, not a whole number from {numbers.start} to {numbers.stop - 1}"
    return ""


def _check_weights(directory: Path, config: PreTrainedConfig) -> None:
    """Compare the names, shapes and types in the weights' header with what the config asks for, before loading."""
    file = directory / WEIGHTS_FILE
    check_safetensors_file(file)
    try:
        with torch.device("meta"):
            model = STUDENT_CLASSES[config.model_type.removeprefix(MODEL_TYPE_PREFIX)][1](config)
    except Exception as error:  # see above
        raise _refused(directory, f"its config.json describes no model: {_first_line(error)}") from error
    wanted = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    with safe_open(file, framework="pt") as tensors:
        found = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 (no mapping)
        shapes = {name: list(part.get_shape()) for name, part in found.items()}
        types = {name: part.get_dtype() for name, part in found.items()}
    for name, shape in wanted.items():
        if name not in shapes:
            raise _refused(directory, f"{WEIGHTS_FILE} lacks {name!r}")
        if shapes[name] != shape:
            raise _refused(directory, f"{name!r} is of shape {shapes[name]} instead of {shape}")
        if types[name] not in {"F32", "F16", "BF16"}:
            raise _refused(directory, f"{name!r} is of type {types[name]}, no floating-point number")
    if extra := sorted(shapes.keys() - wanted):
        raise _refused(directory, f"{WEIGHTS_FILE} holds {extra[0]!r}, which no such student has")
