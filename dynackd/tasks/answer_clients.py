"""How each client of a student turns starts and ends into an answer: snippets for its model card.

They take the best span of one window; a context that is cut off wants several, which `dynackd.answer` reads.
"""

from dynackd.tasks.clients import About, clients_of
from dynackd.tasks.parts import Reading

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


def transformers(about: About, register: str, options: str) -> str:
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


ANSWER_CLIENTS = {
    "dynackd": with_dynackd,
    **clients_of("transformers", transformers),
}

# The same of the arrays that a runtime gives.
READING = Reading(f"""start, end = outputs
context, offsets = "{CONTEXT}", encoded.offsets
inside = [sequence == 1 for sequence in encoded.sequence_ids]
{BEST}""")
