"""Loading a student directory of unknown origin: everything is checked before it is built."""

from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from dynackd.errors import UserError, reason_of
from dynackd.families.table import FAMILIES, FAMILY_KEY, family_of, geometry_of
from dynackd.students.classes import auto_class_of, config_class, model_class, register
from dynackd.students.registration import MODEL_TYPE_PREFIX
from dynackd.supernet.checkpoints import check_safetensors_file, fit_tokenizer, load_model, neutral
from dynackd.supernet.network import CONFIG_KEY
from dynackd.system.places import read_json

MOST_LAYERS, MOST_HIDDEN = 1000, 2**20  # of any teacher
WEIGHTS_FILE = "model.safetensors"
# Keys by which a config.json makes transformers fetch or run something else than the model that it describes.
FOREIGN_KEYS = ("quantization_config", "attn_implementation", "experts_implementation", "per_layer_config")


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
        raise _refused(directory, f"its tokenizer cannot be read: {reason_of(error)}") from error
    return load_model(str(directory), config).eval(), fit_tokenizer(tokenizer, config, str(directory))


def _refused(directory: Path, reason: str) -> UserError:
    return UserError(f"{directory} is no intact student: {reason}")


def _class_of(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The students' class that a config names; any, where it names none."""
    name = config.model_type.removeprefix(MODEL_TYPE_PREFIX)
    named = (config.architectures or ["nothing"])[0]
    return model_class(name, auto_class_of(named, name))


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
    known = {f"{MODEL_TYPE_PREFIX}{name}": name for name in FAMILIES}
    if isinstance(model_type, str) and model_type in FAMILIES:
        about = content.get(CONFIG_KEY)
        supernet = isinstance(about, dict) and "grid" in about
        what = "a supernet, for dynackd.load_supernet" if supernet else "a stock model, for transformers alone"
        raise UserError(f"{directory} is no student of model type 'dynackd-{model_type}', but {what}")
    if not isinstance(model_type, str) or model_type not in known:
        raise _refused(directory, f"its config.json is of model type {model_type!r}, not one of {', '.join(known)}")
    family = known[model_type]
    if content.get(FAMILY_KEY, family) != family:
        raise _refused(directory, f"its config.json says both {model_type!r} and family {content[FAMILY_KEY]!r}")
    for key in content:
        if key.lstrip("_") in FOREIGN_KEYS:
            raise _refused(directory, f"its config.json has {key!r}, which no student needs")
    try:
        register(family)
        config = neutral(config_class(family).from_dict(content))
        problem = _impossible_sizes(config)
    except Exception as error:  # whatever a library makes of a tampered file is the user's one sentence
        raise _refused(directory, f"its config.json is not understood: {reason_of(error)}") from error
    if problem:
        raise _refused(directory, f"its config.json is impossible: {problem}")
    return config


def _impossible_sizes(config: PreTrainedConfig) -> str:
    """What is wrong with a student's sizes, or nothing."""
    geometry, family = geometry_of(config), family_of(config)
    whole, cut = geometry.hidden, config.full_hidden
    if cut is not None:
        if type(cut) is not int or not whole <= cut <= MOST_HIDDEN:
            return f"full_hidden {cut!r}, not a whole number from {whole} to {MOST_HIDDEN}"
        whole = cut
    sizes = (geometry.layers, geometry.heads, geometry.neurons, geometry.head_size, geometry.hidden)
    if min(sizes) < 1 or (not family.head_size_key and geometry.head_size * geometry.heads != whole):
        heads = f"hidden size {whole} over {geometry.heads} heads"
        return f"{heads}, {geometry.layers} layers, {geometry.neurons} neurons"
    if config.head_size not in (None, geometry.head_size):
        return f"head_size {config.head_size!r}, where the model's is {geometry.head_size}"
    if type(config.full_layers) is not int or not 1 <= config.full_layers <= MOST_LAYERS:
        return f"full_layers {config.full_layers!r}, not a whole number from 1 to {MOST_LAYERS}"
    allowed = {
        "layer_heads": range(1, geometry.heads + 1),
        "layer_neurons": range(1, geometry.neurons + 1),
        "kept_layers": range(config.full_layers),
    }
    for key, numbers in allowed.items():
        counts = getattr(config, key)
        if not isinstance(counts, list) or len(counts) != geometry.layers:
            return f"{key} must list one number for each of the {geometry.layers} layers"
        for count in counts:
            if type(count) is not int or count not in numbers:
                return f"{key} holds {count!r}, not a whole number from {numbers.start} to {numbers.stop - 1}"
    if sorted(set(config.kept_layers)) != config.kept_layers:
        return f"kept_layers {config.kept_layers} do not rise"
    return ""


def _check_weights(directory: Path, config: PreTrainedConfig) -> None:
    """Compare the names, shapes and types in the weights' header with what the config asks for, before loading."""
    file = directory / WEIGHTS_FILE
    check_safetensors_file(file)
    try:
        with torch.device("meta"):
            model = _class_of(config)(config)
    except Exception as error:  # see above
        raise _refused(directory, f"its config.json describes no model: {reason_of(error)}") from error
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
