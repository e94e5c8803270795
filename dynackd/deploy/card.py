"""The model card of a student directory: what the student is, what it costs and loses, and how each client loads it.

A client is one function and one line in `CLIENTS`. Its snippet runs as it stands in the directory above the student's
(a test executes all of them).
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from dynackd.data.origins import local_model
from dynackd.data.sources import DataSource
from dynackd.deploy.gates import worst_class
from dynackd.errors import UserError
from dynackd.subnet import Geometry, Subnet
from dynackd.supernet.network import Supernet
from dynackd.system.places import read_json
from dynackd.system.yamltext import read_yaml
from dynackd.tasks.clients import About, Client, clients_of, scored_js
from dynackd.tasks.kind import Kind, Task
from dynackd.tasks.kinds import KINDS

FRONT_MATTER = re.compile(r"---[ \t]*\n(.*?\n)---[ \t]*(?:\n|$)", re.DOTALL)
TWO_TEXTS = "text-classification"  # of what its texts are columns of a row, and the model reads both
CUTS_ITSELF = "token-classification"  # of transformers' pipelines; others read on, or fail, where a text is too long
OTHER_EXAMPLE = "a cold day"
TRAINED_ROWS = "On the validation data, when the supernet was trained"


def licence_of(models: Iterable[str | Path | None]) -> str | None:
    """The licence stated in the first card that states one, of those of these models that are here."""
    directories = [directory for model in models if model and (directory := local_model(str(model)))]
    for file in (directory / "README.md" for directory in directories):
        if not file.is_file():
            continue
        front = FRONT_MATTER.match(file.read_text(encoding="utf-8-sig", errors="replace"))
        try:
            head = read_yaml(front[1]) if front else None
        except UserError:
            continue  # somebody else's card; nothing depends on it
        if isinstance(head, dict) and isinstance(head.get("license"), str):
            return head["license"]
    return None


def facts_of_training(task: Task, data: DataSource, models: Iterable[str | Path | None]) -> dict[str, Any]:
    """What a card tells of a student's task, its data, without the places of this machine, and the licence; `models`:
    the teacher and what it came from, the nearest first."""
    name = "/".join(part for part in data.hub if part) if data.hub else Path(str(data.train)).name
    licence = licence_of(models)
    facts = {"task": task.name, "data": name, "trained_max_length": data.max_length}
    pairs = len(task.text_columns) == 2 and task.kind.pipeline_tag == TWO_TEXTS
    return {**facts, **({"texts": 2} if pairs else {}), **({"licence": licence} if licence else {})}


def known_metrics(supernet_directory: Path, supernet: Supernet, subnet: Subnet) -> dict[str, Any]:
    """The facts for `export_student` that the supernet's metrics.json holds of a trained sub-network, whatever the
    multipliers that name it, or none."""
    if not (supernet_directory / "metrics.json").is_file():
        return {}
    known = read_json(supernet_directory / "metrics.json")
    for row in known.get("subnetworks", []):
        hidden = row.get("hidden_size", supernet.geometry.hidden)  # rows of one hidden size, the full one, have none
        sizes = (row.get("heads"), row.get("neurons"), tuple(row.get("layers", ())), hidden)
        if sizes == (*subnet.sizes, subnet.indices, subnet.hidden):
            metrics = {"rows": TRAINED_ROWS, "student": row["metrics"], "teacher": known["teacher"]["metrics"]}
            return {"metrics": {**metrics, "fidelity": row.get("fidelity", {})}}
    return {}


def model_card(about: About, geometry: Geometry, full_parameters: int) -> str:
    """The text of README.md; `about` is the content of export.json, `geometry` that of the full network."""
    clients = {**CLIENTS, **_kind(about).clients}
    in_code = {**about, "name": _in_quotes(about["name"])}
    parts = [
        _front_matter(about),
        _what(about, geometry, full_parameters),
        _vocabulary(about),
        _quality(about),
        _files(about),
        _latency(about),
        _licence(about),
        "## Loading it",
        *(f"### {title}\n\n{snippet}" for title, write in clients.items() if (snippet := write(in_code))),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _kind(about: About) -> Kind:
    return KINDS[about["kind"]]


def _front_matter(about: About) -> str:
    head = {"library_name": "transformers", "pipeline_tag": _kind(about).pipeline_tag}
    head |= {"license": about["licence"]} if about.get("licence") else {}
    return "---\n" + yaml.safe_dump({**head, "tags": ["dynackd", "onnx", "transformers.js"]}, sort_keys=False) + "---"


def _what(about: About, geometry: Geometry, full_parameters: int) -> str:
    shape = ", ".join(str(layer) for layer in about["layers"])
    data = f", trained on {about['data']}" if about.get("data") else ""
    task = f" for the task {about['task']}" if about.get("task") else ""
    teacher = about["teacher"] or "an unnamed teacher"
    named = "width" in about  # else each layer has a size of its own
    shares = [f"{name} {about[name]:g}" for name in ("width", "depth", "hidden") if name in about]
    size = f"at {', '.join(shares)}" if named else "with a size for each layer"
    kept = about["subnet"]["hidden"]
    hidden = f"| hidden size | {kept} | {geometry.hidden} |\n" if kept < geometry.hidden else ""
    return f"""# Student {size}

A smaller {_kind(about).noun}{task}, cut by dynackd out of a supernet that was distilled from `{teacher}`{data}.

| | student | full network |
|---|---|---|
| layers | {len(about["layers"])} (0-based {shape}) | {geometry.layers} |
| heads per layer | {_sizes(about["heads"])} of size {geometry.head_size} | {geometry.heads} |
| FFN neurons per layer | {_sizes(about["neurons"])} | {geometry.neurons} |
{hidden}| parameters | {about["parameters"]:,} | {full_parameters:,} |
| FLOPs at {about["flops"]["length"]} tokens | {about["flops"]["student"] / 1e6:,.0f} M | {
        about["flops"]["full"] / 1e6:,.0f} M |"""


def _sizes(value: int | list[int]) -> str:
    """One number for all layers, or one for each."""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _quality(about: About) -> str:
    metrics = about.get("metrics")
    if not metrics:
        return "The student was not validated when it was exported."
    if not metrics["student"]:
        told = f"{metrics['rows']}, which have no labels to measure with"
        found = "".join(f"| {name} | {value:.4f} |\n" for name, value in metrics.get("fidelity", {}).items())
        return f"{told}, its fidelity to the teacher:\n\n| | |\n|---|---|\n{found}".strip() if found else f"{told}."
    columns = list(metrics["student"])
    rows = [f"| {who} | " + " | ".join(f"{metrics[who][name]:.4f}" for name in columns) + " |"
            for who in ("student", "teacher") if metrics.get(who)]
    head = f"| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}\n"
    return f"{metrics['rows']}:\n\n" + head + "\n".join(rows)


def _vocabulary(about: About) -> str:
    """Which words were left out, and what that is known to change."""
    words = about.get("vocabulary")
    if not words or "refused" in words:
        return ""
    held, files = words["held_out"], about["files"].items()
    text = (
        f"It knows {words['size']:,} of the {words['tokens']:,} tokens of the full network: {words['stays']}, and "
        f"those that texts like {words['texts']} use, of which they are {words['coverage']:.2%}. Of {held['texts']:,} "
        f"other texts of that source {held['differ']:.1%} become other tokens than before, {held['tokens_after']:.2f} "
        f"a text instead of {held['tokens_before']:.2f}; {compared_told(held)}"
    )
    if "unknown" in held:
        text += f". In {held['unknown']:.1%} more is unknown than before"
    if "drop" in words:
        text += f". The metric on the validation data changed by {0.0 - words['drop']:+.4f}"
    whole = [f"`{name}` {own['whole_size_bytes'] / 1e6:.1f}" for name, own in files if "whole_size_bytes" in own]
    return f"{text}. With all tokens the files would have, in MB: {', '.join(whole)}."


def compared_told(held: Mapping[str, Any]) -> str:
    """What was proved on held-out texts, as `vocabulary` of an export.json has it under "held_out"."""
    if not held["compared"]:
        return "none becomes the same, so that nothing could be compared"
    return f"{held['compared']:,} that become the same were run, and give exactly the same outputs"


def _files(about: About) -> str:
    columns = ["file", "MB", "largest difference from torch", "change of the metric", "worst class", "same label"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, facts in about["files"].items():
        if "max_abs_diff" in facts or name.endswith(".safetensors"):
            difference = f"{facts['max_abs_diff']:.1e}" if "max_abs_diff" in facts else ""
            change = f"{0.0 - facts['drop']:+.4f}" if "drop" in facts else ""
            same = f"{facts['agreement']:.1%}" if "agreement" in facts else ""
            size = f"{facts['size_bytes'] / 1e6:.1f}"
            lines.append(f"| `{name}` | {size} | {difference} | {change} | {_worst(facts)} | {same} |")
    text = "\n".join([*lines, *_saturation(about)])
    sizes = [f"{name} {about[key]}" for name, key in (("batch", "static_batch"), ("length", "static_length"))
             if about.get(key)]
    fixed = f" The ONNX inputs have a fixed {' and '.join(sizes)}." if sizes else ""
    text += f"\n\nInputs of the graph (opset {about['opset']}): {', '.join(about['inputs'])}.{fixed}"
    text += f" Texts are cut at {about['max_length']} tokens, on the {about['truncation_side']}{_as_trained(about)}."
    if compat := about.get("compat"):
        text += (
            f"\n\n`model.safetensors` is a plain stock checkpoint: heads are padded with zeros from size "
            f"{compat['head_size_from']} to {compat['head_size']} ({compat['heads']} heads). It holds "
            f"{compat['parameters']:,} parameters instead of {about['parameters']:,} and costs "
            f"{compat['flops'] / about['flops']['student']:.2f} times the FLOPs; the ONNX files are not padded."
        )
    return text


SATURATES = (
    "On an x86 processor without VNNI, ONNX Runtime's products of 8-bit numbers can saturate, so that results differ "
    "from these. There, measure it, set ONNX Runtime's session option `session.x64quantprecision` to `1`, which is "
    "slower, or take a file of 7-bit weights (`dynackd export --int7`)."
)


def _saturation(about: About) -> list[str]:
    """For each file of 8-bit products: on what processor it was measured, and what may be otherwise on others."""
    vnni = {True: ", which has VNNI", False: ", which has no VNNI", None: ""}
    measured = [(name, facts["measured_on"]) for name, facts in about["files"].items() if "measured_on" in facts]
    return [
        f"\n`{name}` was measured on {own['processor']}{vnni[own['vnni']]}. {SATURATES}" for name, own in measured
    ]


def _worst(facts: Mapping[str, Any]) -> str:
    """The change of the class that a file loses most of."""
    worst = worst_class(facts)
    return f"{0.0 - worst[1]:+.4f} ({worst[0]})".replace("|", "/") if worst else ""


def _as_trained(about: About) -> str:
    trained = about.get("trained_max_length")
    if trained is None:
        return ""
    return ", as in the training" if trained == about["max_length"] else f"; in the training they were at {trained}"


def _latency(about: About) -> str:
    if not about.get("latency"):
        return ""
    rows = [
        f"| {row['path']} | {row['runtime']} | {row['length']} | {row['p50_ms']:.2f} |"
        for row in about["latency"]["rows"]
    ]
    head = "| model | runtime | length | p50 ms |\n|---|---|---|---|\n"
    return f"Latency, one row at a time on one thread of {about['latency']['machine']}:\n\n{head}" + "\n".join(rows)


def _in_quotes(name: str) -> str:
    """A name as it stands between quotes of either sort, in Python and in JavaScript."""
    return json.dumps(name, ensure_ascii=False)[1:-1].replace("'", "\\u0027")


def _licence(about: About) -> str:
    licence = about.get("licence")
    return f"Licence: {licence}, inherited from the model that it was made from." if licence else ""


# --- clients ---------------------------------------------------------------------------------------------------------


def _pipeline(about: About) -> str:
    """The call of transformers' pipeline up to its end; nothing where it has none for the kind."""
    kind = _kind(about)
    return f'print(pipeline("{kind.pipeline}", "{about["name"]}"{kind.pipeline_options}' if kind.pipeline else ""


def _transformers(about: About, register: str, options: str) -> str:
    return _pipeline(about) and f"""```python
{register}from transformers import pipeline

{_pipeline(about)}{options})({_given(about)}))
```"""


def _given(about: About) -> str:
    """The arguments of transformers' pipeline."""
    first, *others = (f'"{text}"' for text in _examples(about))
    texts = f'{{"text": {first}, "text_pair": {others[0]}}}' if others else first
    return texts if _kind(about).pipeline == CUTS_ITSELF else f"{texts}, truncation=True"


def _names(about: About) -> list[str]:
    return _kind(about).judged


def _examples(about: About) -> list[str]:
    """What the snippets give to the model: one text, or the two that it reads."""
    kind = _kind(about)
    pair = kind.example_pair or (OTHER_EXAMPLE if about.get("texts") == 2 else None)
    return [kind.example, *([pair] if pair else [])]


def _texts(about: About) -> str:
    """The arguments of the tokenizer."""
    return ", ".join(f'"{text}"' for text in _examples(about))


def _feed(about: About) -> str:
    rows = f" * {about['static_batch']}" if about.get("static_batch") else ""
    return f"""encoded = Tokenizer.from_file("{about["name"]}/tokenizer.json").encode({_texts(about)})
values = {{"input_ids": encoded.ids, "attention_mask": encoded.attention_mask, "token_type_ids": encoded.type_ids}}
feed = {{name: np.array([values[name]]{rows}) for name in {about["inputs"]}}}"""


def _reading(about: About) -> tuple[str, str]:
    """The imports and the lines that print what outputs mean."""
    reading = _kind(about).reading
    imports = "".join(f"{line}\n" for line in reading.imports)
    return imports, reading.lines.replace("{name}", about["name"])


def _onnxruntime(about: About) -> str:
    imports, lines = _reading(about)
    return f"""```python
{imports}import numpy as np
from onnxruntime import InferenceSession
from tokenizers import Tokenizer

{_feed(about)}
session = InferenceSession("{about["name"]}/onnx/model.onnx")
outputs = [output[0] for output in session.run({_names(about)}, feed)]
{lines}
```"""


def _openvino(about: About) -> str:
    imports, lines = _reading(about)
    return "" if about["graph"] == "fused" else f"""```python
{imports}import numpy as np
import openvino
from tokenizers import Tokenizer

{_feed(about)}
exact = {{"INFERENCE_PRECISION_HINT": "f32"}}  # without it bfloat16 where the processor has that
model = openvino.compile_model("{about["name"]}/onnx/model.onnx", "CPU", exact)
found = model(feed)
outputs = [found[name][0] for name in {_names(about)}]
{lines}
```"""


def _transformers_js(about: About) -> str:
    pipeline = _kind(about).js_pipeline
    if about.get("static_batch") or about.get("static_length") or not pipeline:
        return ""  # it feeds dynamic sizes
    dtypes = {"onnx/model.onnx": "fp32", "onnx/model_quantized.onnx": "q8", "onnx/model_fp16.onnx": "fp16"}
    written = ", ".join(f"'{dtype}'" for file, dtype in dtypes.items() if file in about["files"])
    if about.get("texts") == 2:  # which its pipeline does not take
        return f"{scored_js(about, *_examples(about))}\n\n`dtype` is one of {written}."
    texts = ", ".join(f"'{text}'" for text in _examples(about))
    return f"""```js
import {{ AutoConfig, pipeline }} from '@huggingface/transformers';

const config = await AutoConfig.from_pretrained('{about["name"]}');
config.model_type = '{about["family"]}'; // the name under which transformers.js knows the architecture
const run = await pipeline('{pipeline}', '{about["name"]}', {{ config, dtype: 'fp32' }});
console.log(await run({texts}{_kind(about).js_options}));
```

`dtype` is one of {written}."""


CLIENTS: dict[str, Client] = {
    **clients_of("transformers", _transformers),
    "ONNX Runtime": _onnxruntime,
    "OpenVINO": _openvino,
    "transformers.js": _transformers_js,
}
