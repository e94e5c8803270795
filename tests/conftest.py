"""Tiny random models of every family, a tiny tokenizer, tiny data and a tiny recipe. Nothing needs a network."""

import os
import random

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    EuroBertConfig,
    GteConfig,
    JinaEmbeddingsV3Config,
    ModernBertConfig,
    MPNetConfig,
    NomicBertConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

from dynackd.families.table import FAMILIES
from dynackd.grid import Grid
from dynackd.students.cutting import cut
from dynackd.subnet import Layer, Subnet
from dynackd.supernet.network import Supernet
from dynackd.training.runs import RunMode

SIZES = {"num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 40, "hidden_size": 32}
GOOD = ["fine", "great", "lovely", "superb", "warm"]
BAD = ["awful", "bad", "cold", "dull", "poor"]
PLAIN = ["a", "the", "film", "book", "day", "was", "is", "very", "quite", "and", "one", "two", "NA"]
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>"]
VOCABULARY = SPECIAL + GOOD + BAD + PLAIN

# What v3 says of itself; the convolution is v2's, and the shared key v3's: together all parts are there.
DEBERTA_V3 = {
    "relative_attention": True,
    "position_buckets": 8,
    "max_relative_positions": -1,
    "norm_rel_ebd": "layer_norm",
    "pos_att_type": "p2c|c2p",
    "position_biased_input": False,
    "type_vocab_size": 0,
}
CONFIGS = {
    "bert": lambda **k: BertConfig(**SIZES, **k),
    "roberta": lambda **k: RobertaConfig(**SIZES, **k),
    "electra": lambda **k: ElectraConfig(**SIZES, embedding_size=16, **k),
    "deberta-v2": lambda **k: DebertaV2Config(**SIZES, **DEBERTA_V3, conv_kernel_size=3, share_att_key=False, **k),
    # With biases everywhere, and windows of 2 tokens to each side in two of four layers.
    "modernbert": lambda **k: ModernBertConfig(
        **SIZES, **k, local_attention=4, attention_bias=True, mlp_bias=True, norm_bias=True, classifier_bias=True,
        cls_token_id=2, sep_token_id=3,
    ),
    # Two query heads share a key and a value: 4 groups of two heads of 4.
    "eurobert": lambda **k: EuroBertConfig(
        **SIZES | {"num_attention_heads": 8, "num_key_value_heads": 4}, **k, attention_bias=True, mlp_bias=True,
        mask_token_id=1,
    ),
    "gte": lambda **k: GteConfig(**SIZES, type_vocab_size=2, **k),
    "nomic_bert": lambda **k: NomicBertConfig(**SIZES, **k),
    "jina_embeddings_v3": lambda **k: JinaEmbeddingsV3Config(**SIZES, **k),
    "mpnet": lambda **k: MPNetConfig(**SIZES, **k),
    "distilbert": lambda **k: DistilBertConfig(n_layers=4, n_heads=4, hidden_dim=40, dim=32, **k),
}


# (query, attention output, what makes the FFN's neurons, what reads them) of a Transformer layer, by hand.
PATHS = dict.fromkeys(
    ("bert", "roberta", "electra"),
    ("attention.self.query", "attention.output.dense", ("intermediate.dense",), "output.dense"),
) | {
    "distilbert": ("attention.q_lin", "attention.out_lin", ("ffn.lin1",), "ffn.lin2"),
    "deberta-v2": ("attention.self.query_proj", "attention.output.dense", ("intermediate.dense",), "output.dense"),
    "modernbert": ("attn.Wqkv", "attn.Wo", ("mlp.Wi",), "mlp.Wo"),
    "jina_embeddings_v3": ("self_attn.q_proj", "self_attn.o_proj", ("mlp.fc1",), "mlp.fc2"),
    "mpnet": ("attention.attn.q", "attention.attn.o", ("intermediate.dense",), "output.dense"),
}
PATHS |= dict.fromkeys(
    ("eurobert", "gte", "nomic_bert"),
    ("self_attn.q_proj", "self_attn.o_proj", ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj"),
)
# How many blocks stand one below the other in it, where there are several.
PARTS = {"attn.Wqkv": 3, "mlp.Wi": 2}


def parted(tensor, path):
    """The blocks [parts, rows, ...] of a weight or bias, or of what has its shape."""
    return tensor.unflatten(0, (PARTS.get(path, 1), -1))


def tiny_config(family, num_labels=2, **changes):
    # RoBERTa's positions begin behind the padding token's id, 0, MPNet's at 2; so every family takes 48 tokens.
    positions = 48 + FAMILIES[family].positions_follow_padding + FAMILIES[family].reserved_positions
    config = CONFIGS[family](
        vocab_size=len(VOCABULARY), max_position_embeddings=positions, pad_token_id=0, eos_token_id=3, bos_token_id=2
    )
    config.num_labels = num_labels
    for name, value in changes.items():
        setattr(config, name, value)
    return config


def randomise(model, seed=0):
    """Every weight, norms and biases too: defaults of ones and zeros would hide a wrong slice."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def tiny_model(family="bert", num_labels=2, seed=0, **changes):
    config = tiny_config(family, num_labels, **changes)
    return randomise(AutoModelForSequenceClassification.from_config(config), seed).eval()


def uneven_student(family, heads=(1, 3, 2, 4), neurons=(10, 20, 30, 40), **changes):
    """A student whose layers differ."""
    layers = [Layer(index, *sizes) for index, sizes in enumerate(zip(heads, neurons, strict=True))]
    return cut(Supernet(tiny_model(family, seed=1, **changes)), Subnet(tuple(layers), 32))


def tiny_batch(batch_size=4, length=9, seed=0):
    """A batch with padding on the right, on the left and in the middle."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(len(SPECIAL), len(VOCABULARY), (batch_size, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, length - 3 :] = 0
    mask[2, :2] = 0
    mask[3, 4:6] = 0
    return {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}


def tiny_tokenizer():
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=48,
        model_input_names=["input_ids", "attention_mask"],
    )


def write_rows(path, rows, seed):
    rng = random.Random(seed)
    lines = ["sentence\tlabel"]
    for _ in range(rows):
        label = rng.randrange(2)
        words = [rng.choice((BAD, GOOD)[label]), *rng.choices(PLAIN, k=rng.randrange(1, 8))]
        rng.shuffle(words)
        lines.append(f"{' '.join(words)}\t{label}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def tiny_recipe(directory, **changes):
    """A recipe's mapping over files in `directory`: a bare encoder, 48 training rows, a grid of 4."""
    encoder = directory / "encoder"
    if not encoder.exists():
        tiny_model().bert.save_pretrained(encoder)
        tiny_tokenizer().save_pretrained(encoder)
        write_rows(directory / "train.tsv", 48, 1)
        write_rows(directory / "validation.tsv", 24, 2)
    content = {
        "model": str(encoder),
        "task": {"kind": "classification", "text": "sentence", "label": "label"},
        "data": {"train": f"{directory}/train.tsv", "validation": f"{directory}/validation.tsv", "max_length": 16},
        "grid": {"widths": [0.5, 1.0], "depths": [0.5, 1.0], "sampler": "all"},
        "importance": {"rows": 16},
        "training": {"per_device_train_batch_size": 8, "num_train_epochs": 2, "learning_rate": 1e-3, "use_cpu": True},
        "output_dir": str(directory / "run"),
    }
    return {**content, **changes}


def write_recipe(directory, content=None):
    path = directory / "recipe.yaml"
    path.write_text(yaml.safe_dump(content or tiny_recipe(directory)), encoding="utf-8")
    return path


def trained_to_width(directory):
    """The tiny recipe over files in `directory`, its teacher and its width stage trained."""
    from dynackd.training import runs, stages
    from dynackd.training.recipe import make_recipe

    recipe = make_recipe(tiny_recipe(directory))
    stages.finetune(recipe, runs.RunMode())
    stages.train_width(recipe, runs.RunMode())
    return recipe


def cut_short(monkeypatch, train, recipe):
    """Run a stage of `stages` until it would write its result, so that it can be resumed."""

    def stopped(*_args, **_options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("dynackd.training.stages._finish", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, RunMode())


@pytest.fixture(autouse=True)
def threads_stay():
    """A test that measures in this process leaves torch's threads as they were: results depend on them bit by bit."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=list(CONFIGS))
def family(request):
    return request.param


@pytest.fixture
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture
def grid():
    return Grid((1.0, 0.75, 0.5, 0.25), (1.0, 0.75, 0.5))
