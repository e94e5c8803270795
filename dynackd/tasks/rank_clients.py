"""How each client of a student scores passages: snippets for its model card."""

from collections.abc import Mapping

from dynackd.tasks.clients import REGISTER, About, Client, clients_of, scored_js

EXAMPLE = ("how was the film", "a fine film")
OTHER = "a cold day"


def sentence_transformers(about: About) -> str:
    register = "" if about.get("compat") else REGISTER
    return f"""```python
{register}from sentence_transformers import CrossEncoder

model = CrossEncoder("{about["name"]}")
for found in model.rank("{EXAMPLE[0]}", ["{EXAMPLE[1]}", "{OTHER}"], return_documents=True):
    print(found["score"], found["text"])
```

Its scores are those below behind the function that the teacher's config names, by default a sigmoid; the order is the
same. `activation_fn=torch.nn.Identity()` leaves them as they are."""


def transformers(about: About, register: str, options: str) -> str:
    name = about["name"]
    return f"""```python
{register}import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

query, passages = "{EXAMPLE[0]}", ["{EXAMPLE[1]}", "{OTHER}"]
tokenizer = AutoTokenizer.from_pretrained("{name}"{options})
model = AutoModelForSequenceClassification.from_pretrained("{name}"{options}).eval()
encoded = tokenizer([query] * len(passages), passages, padding=True, truncation=True, return_tensors="pt")
with torch.no_grad():
    print(model(**encoded).logits[:, 0].tolist())
```"""


def transformers_js(about: About) -> str:
    if about.get("static_batch") or about.get("static_length"):
        return ""  # it feeds dynamic sizes
    return scored_js(about, EXAMPLE[0], EXAMPLE[1], OTHER)


RANK_CLIENTS: Mapping[str, Client] = {
    "sentence-transformers": sentence_transformers,
    **clients_of("transformers", transformers),
    "transformers.js": transformers_js,
}
