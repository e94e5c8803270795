"""Snippets of a model card that load a student with dynackd or with the code that travels with it."""

from collections.abc import Callable, Mapping
from typing import Any

About = Mapping[str, Any]  # the content of export.json
Client = Callable[[About], str]

REGISTER = "import dynackd  # registers the students with the Auto classes\n"


def clients_of(title: str, write: Callable[[About, str, str], str]) -> dict[str, Client]:
    """The client `title`, which needs dynackd for all but a stock checkpoint, and the one that runs a student's own
    code. write: the snippet, "" for none, by its first line and by what is added to each `from_pretrained`."""

    def usual(about: About) -> str:
        return write(about, "" if about.get("compat") else REGISTER, "")

    def with_code(about: About) -> str:
        snippet = write(about, "", ", trust_remote_code=True") if about.get("with_code") else ""
        return snippet and f"Without dynackd, running the `{about['with_code']}` that lies here:\n\n{snippet}"

    return {title: usual, f"{title}, without dynackd": with_code}


def scored_js(about: About, first: str, *others: str) -> str:
    """For transformers.js: a text beside each of some others, by the model itself, since its pipeline takes no pair."""
    name, texts = about["name"], ", ".join(f"'{text}'" for text in others)
    return f"""```js
import {{ AutoConfig, AutoModelForSequenceClassification, AutoTokenizer }} from '@huggingface/transformers';

const config = await AutoConfig.from_pretrained('{name}');
config.model_type = '{about["family"]}'; // the name under which transformers.js knows the architecture
const tokenizer = await AutoTokenizer.from_pretrained('{name}');
const model = await AutoModelForSequenceClassification.from_pretrained('{name}', {{ config, dtype: 'fp32' }});
const others = [{texts}];
const firsts = others.map(() => '{first}');
const inputs = tokenizer(firsts, {{ text_pair: others, padding: true, truncation: true }});
console.log((await model(inputs)).logits.tolist());
```"""
