"""How each client of a student turns starts and ends into an answer: snippets for its model card.

They take the best span of one window; a context that is cut off wants several, which `dynackd.answer` reads.
"""

from collections.abc import Mapping
from typing import Any

About = Mapping[str, Any]

QUESTION, CONTEXT = "Who wrote the book?", "Ada wrote the book on one warm day. The film was made by Max."
TEXTS = f'question = "{QUESTION}"\ncontext = "{CONTEXT}"'
# `start` and `end` are lists of logits, `inside` says of each token whether it is one of the context.
BEST = """tokens = [i for i, own in enumerate(inside) if own]
spans = [(i, j) for i in tokens for j in tokens if i <= j < i + 30]
first, last = max(spans, key=lambda span: start[span[0]] + end[span[1]])
print(context[offsets[first][0] : offsets[last][1]])"""


def with_dynackd(about: About) -> str:
    return f"""Contexts of any length, read in windows:

```python
import dynackd

{TEXTS}
model, tokenizer = dynackd.load_student("{about["name"]}")
print(dynackd.answer(model, tokenizer, question, context).text)
```""" if not about.get("compat") else ""


def transformers(about: About) -> str:
    register = "" if about.get("compat") else "import dynackd  # registers the students with the Auto classes\n"
    return _transformers(about, register)


def transformers_with_code(about: About) -> str:
    if not about.get("with_code"):
        return ""
    told = f"Without dynackd, running the `{about['with_code']}` that lies here:\n\n"
    return told + _transformers(about, options=", trust_remote_code=True")


def _transformers(about: About, register: str = "", options: str = "") -> str:
    name = about["name"]
    return f"""```python
{register}import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

{TEXTS}
tokenizer = AutoTokenizer.from_pretrained("{name}"{options})
model = AutoModelForQuestionAnswering.from_pretrained("{name}"{options}).eval()
encoded = tokenizer(
    question, context, truncation="only_second", return_offsets_mapping=True, return_tensors="pt"
)
offsets = encoded.pop("offset_mapping")[0].tolist()
inside = [sequence == 1 for sequence in encoded.sequence_ids(0)]
with torch.no_grad():
    output = model(**encoded)
start, end = output.start_logits[0].tolist(), output.end_logits[0].tolist()
{BEST}
```"""


def _feed(about: About) -> str:
    rows = f" * {about['static_batch']}" if about.get("static_batch") else ""
    return f"""{TEXTS}
encoded = Tokenizer.from_file("{about["name"]}/tokenizer.json").encode(question, context)
offsets, inside = encoded.offsets, [sequence == 1 for sequence in encoded.sequence_ids]
values = {{"input_ids": encoded.ids, "attention_mask": encoded.attention_mask, "token_type_ids": encoded.type_ids}}
feed = {{name: np.array([values[name]]{rows}) for name in {about["inputs"]}}}"""


def onnxruntime(about: About) -> str:
    return f"""```python
import numpy as np
from onnxruntime import InferenceSession
from tokenizers import Tokenizer

{_feed(about)}
session = InferenceSession("{about["name"]}/onnx/model.onnx")
start, end = (output[0] for output in session.run(["start_logits", "end_logits"], feed))
{BEST}
```"""


def openvino(about: About) -> str:
    return "" if about["graph"] == "fused" else f"""```python
import numpy as np
import openvino
from tokenizers import Tokenizer

{_feed(about)}
model = openvino.compile_model("{about["name"]}/onnx/model.onnx", "CPU")
outputs = model(feed)
start, end = (outputs[name][0] for name in ("start_logits", "end_logits"))
{BEST}
```"""


def transformers_js(about: About) -> str:
    if about.get("static_batch") or about.get("static_length"):
        return ""  # it feeds dynamic sizes
    return f"""```js
import {{ AutoConfig, pipeline }} from '@huggingface/transformers';

const config = await AutoConfig.from_pretrained('{about["name"]}');
config.model_type = '{about["family"]}'; // the name under which transformers.js knows the architecture
const answer = await pipeline('question-answering', '{about["name"]}', {{ config, dtype: 'fp32' }});
console.log(await answer('{QUESTION}', '{CONTEXT}'));
```"""


ANSWER_CLIENTS = {
    "dynackd": with_dynackd,
    "transformers": transformers,
    "transformers, without dynackd": transformers_with_code,
    "ONNX Runtime": onnxruntime,
    "OpenVINO": openvino,
    "transformers.js": transformers_js,
}
