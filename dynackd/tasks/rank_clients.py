"""How each client of a student scores passages: snippets for its model card."""

from collections.abc import Mapping

from dynackd.tasks.clients import REGISTER, About, Client, clients_of

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
tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForSequenceClassification.from_pretrained("{name}"{options}).eval()
encoded = tokenizer([query] * len(passages), passages, padding=True, truncation=True, return_tensors="pt")
with torch.no_grad():
    print(model(**encoded).logits[:, 0].tolist())
```"""


def transformers_js(about: About) -> str:
    if about.get("static_batch") or about.get("static_length"):
        return ""  # it feeds dynamic sizes
    name = about["name"]
    return f"""```js
import {{ AutoConfig, AutoModelForSequenceClassification, AutoTokenizer }} from '@huggingface/transformers';

const config = await AutoConfig.from_pretrained('{name}');
config.model_type = '{about["family"]}'; // the name under which transformers.js knows the architecture
const tokenizer = await AutoTokenizer.from_pretrained('{name}');
const model = await AutoModelForSequenceClassification.from_pretrained('{name}', {{ config, dtype: 'fp32' }});
const passages = ['{EXAMPLE[1]}', '{OTHER}'];
const queries = passages.map(() => '{EXAMPLE[0]}');
const inputs = tokenizer(queries, {{ text_pair: passages, padding: true, truncation: true }});
console.log((await model(inputs)).logits.tolist());
```"""


RANK_CLIENTS: Mapping[str, Client] = {
    "sentence-transformers": sentence_transformers,
    **clients_of("transformers", transformers),
    "transformers.js": transformers_js,
}
