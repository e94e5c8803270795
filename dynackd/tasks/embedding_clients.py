"""How each client of a student embeds texts: snippets for its model card."""

from collections.abc import Mapping

from dynackd.tasks.clients import About, Client, clients_of

TEXTS = '["a fine film", "a film that is good", "a cold day"]'


def sentence_transformers(about: About, register: str, options: str) -> str:
    return f"""```python
{register}from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{about["name"]}"{options})
vectors = model.encode({TEXTS})
print(model.similarity(vectors, vectors))
```"""


def transformers(about: About, register: str, options: str) -> str:
    name = about["name"]
    pooled = "states[:, 0]" if about["pooling"] == "cls" else "(states * mask).sum(1) / mask.sum(1)"
    return f"""```python
{register}import torch
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}"{options})
model = AutoModel.from_pretrained("{name}"{options}).eval()
encoded = tokenizer({TEXTS}, padding=True, truncation=True, return_tensors="pt")
mask = encoded["attention_mask"][:, :, None]
with torch.no_grad():
    states = model(**encoded).last_hidden_state
vectors = {pooled}{_normalised(about)}
print(torch.nn.functional.cosine_similarity(vectors[:, None], vectors, dim=-1))
```"""


def _normalised(about: About) -> str:
    return "\nvectors = torch.nn.functional.normalize(vectors)" if about["normalize"] else ""


def transformers_js(about: About) -> str:
    if about.get("static_batch") or about.get("static_length"):
        return ""  # it feeds dynamic sizes
    name, normalize = about["name"], str(about["normalize"]).lower()
    return f"""```js
import {{ AutoConfig, cos_sim, pipeline }} from '@huggingface/transformers';

const config = await AutoConfig.from_pretrained('{name}');
config.model_type = '{about["family"]}'; // the name under which transformers.js knows the architecture
const embed = await pipeline('feature-extraction', '{name}', {{ config, dtype: 'fp32' }});
const vectors = await embed({TEXTS}, {{ pooling: '{about["pooling"]}', normalize: {normalize} }});
const [first, ...others] = vectors.tolist();
console.log(others.map((other) => cos_sim(first, other)));
```"""


EMBEDDING_CLIENTS: Mapping[str, Client] = {
    **clients_of("sentence-transformers", sentence_transformers),
    **clients_of("transformers", transformers),
    "transformers.js": transformers_js,
}
