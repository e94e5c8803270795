"""EuroBERT, GTE, NomicBERT and jina-embeddings-v3: rotary positions, and query heads that share a key and a value."""

import json
import re

import pytest
import torch
from conftest import randomise, tiny_batch, tiny_config, tiny_model, tiny_tokenizer, uneven_student
from safetensors.torch import save_file
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from dynackd.errors import UserError
from dynackd.families.family import slices
from dynackd.families.table import FAMILIES, family_of, geometry_of, layer_list
from dynackd.grid import Grid
from dynackd.onnx.graphs import export_onnx, parity
from dynackd.students.cutting import cut
from dynackd.students.loading import load_student
from dynackd.students.stock import stock_model
from dynackd.subnet import FULL, Layer, Subnet
from dynackd.supernet.checkpoints import load_model
from dynackd.supernet.cost import count_parameters
from dynackd.supernet.importance import Importance, rewire
from dynackd.supernet.network import Supernet, load_supernet
from dynackd.tasks.kinds import KINDS

UNEVEN = Subnet((Layer(0, 1, 40), Layer(2, 3, 7)), 32)
NEWCOMERS = ["eurobert", "gte", "nomic_bert", "jina_embeddings_v3"]
# family -> what else its config may say
VARIANTS = [
    ("eurobert", {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8}),  # a key for each query
    ("eurobert", {"num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 2}),
    ("eurobert", {"head_dim": 6}),  # not hidden size / heads
    ("eurobert", {"attention_bias": False, "mlp_bias": False, "classifier_pooling": "mean"}),
    ("eurobert", {"classifier_pooling": "bos"}),
    ("gte", {"type_vocab_size": 0}),
    ("gte", {"head_dim": 6}),
    ("nomic_bert", {"head_dim": 6}),
]


@pytest.mark.parametrize(("family", "changes"), VARIANTS, ids=str)
@torch.no_grad()
def test_what_else_a_config_may_say_is_exact_in_supernet_student_stock_checkpoint_and_graph(family, changes, tmp_path):
    model, batch = tiny_model(family, **changes), tiny_batch()
    supernet = Supernet(model, Grid((1.0, 0.5), (1.0,)))
    assert torch.equal(supernet(FULL, **batch).outputs["logits"], tiny_model(family, **changes)(**batch).logits)
    student = uneven_student(family, **changes)
    export_onnx(student, list(batch), tmp_path / "model.onnx")
    assert parity(student, list(batch), 48, tmp_path / "model.onnx") <= 1e-5
    torch.testing.assert_close(stock_model(student)(**batch).logits, student(**batch).logits, atol=1e-5, rtol=0)
    small = cut(supernet, UNEVEN)
    expected = supernet(UNEVEN, **batch).outputs["logits"]
    torch.testing.assert_close(small(**batch).logits, expected, atol=1e-5, rtol=0)
    assert count_parameters(supernet, UNEVEN) == sum(p.numel() for p in small.parameters())
    small.save_pretrained(tmp_path / "student")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student")
    assert torch.equal(loaded(**batch).logits, small(**batch).logits)


def test_a_head_is_a_group_of_queries_with_their_key_and_value():
    model = tiny_model("eurobert")  # 8 queries of size 4, two to a key
    geometry = geometry_of(model.config)
    assert (geometry.heads, geometry.head_size) == (4, 4)
    layer = layer_list(model)[0]
    names = {"q_proj": "qq", "k_proj": "k", "v_proj": "v", "o_proj": "oo"}
    for piece in slices(layer, Layer(0, 3, 40), 32, family_of(model.config), geometry):
        for part in piece.parts:
            if part.unit == "head":
                per_head = 4 * len(names[piece.path.rpartition(".")[2]])
                assert piece.view().shape[part.dim] == 3 * per_head
                assert part.positions([2]) == list(range(2 * per_head, 3 * per_head))
    before = layer.self_attn.q_proj.weight.detach().clone()
    order = torch.tensor([[0.0, 3, 1, 2]] * 4)  # -> 1, 3, 2, 0
    rewire(model, Importance(order, torch.zeros(4, 40)))
    assert torch.equal(layer.self_attn.q_proj.weight, before.unflatten(0, (4, 8))[[1, 3, 2, 0]].flatten(0, 1))
    torch.testing.assert_close(model(**tiny_batch()).logits, tiny_model("eurobert")(**tiny_batch()).logits)


@torch.no_grad()
def test_a_stock_checkpoint_has_no_more_heads_than_it_needs():
    """Where the config says the head size, heads are not padded to another: 2 of 4 heads are half of the weights."""
    for family in NEWCOMERS:
        supernet = Supernet(tiny_model(family))
        student = cut(supernet, Subnet(tuple(Layer(index, 2, 20) for index in (1, 3)), 32))
        stock = stock_model(student)
        assert type(stock).__module__.startswith("transformers.")
        assert geometry_of(stock.config).head_size == supernet.geometry.head_size
        assert stock.num_parameters() == student.num_parameters()
        torch.testing.assert_close(stock(**tiny_batch()).logits, student(**tiny_batch()).logits, atol=1e-6, rtol=0)


@torch.no_grad()
def test_only_the_distance_of_two_words_matters():
    """Rotary positions: a text after padding is the text, in the full network, a sub-network and its student."""
    words = tiny_batch(length=9)["input_ids"][:1]
    for family in (*NEWCOMERS, "modernbert"):
        model = randomise(AutoModel.from_config(tiny_config(family))).eval()
        supernet = Supernet(model)
        student = cut(supernet, UNEVEN)
        shifted = {"input_ids": torch.cat([torch.zeros(1, 4, dtype=torch.long), words], 1)}
        shifted["attention_mask"] = (torch.arange(13) >= 4).long()[None]
        for run in (
            lambda batch, net=supernet: net(FULL, **batch).hidden_states[-1],
            lambda batch, net=supernet: net(UNEVEN, **batch).hidden_states[-1],
            lambda batch, net=student: net(**batch).last_hidden_state,
        ):
            alone = run({"input_ids": words, "attention_mask": torch.ones_like(words)})
            torch.testing.assert_close(run(shifted)[:, 4:], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("auto", [AutoModel, AutoModelForTokenClassification, AutoModelForQuestionAnswering])
@pytest.mark.parametrize("family", NEWCOMERS)
@torch.no_grad()
def test_students_with_every_head_that_there_is_load_again(family, auto, tmp_path):
    config = tiny_config(family)
    if type(config) not in auto._model_mapping:
        pytest.skip("transformers has no such class")
    supernet, batch = Supernet(randomise(auto.from_config(config)).eval()), tiny_batch()
    (name, expected), *_ = supernet(UNEVEN, **batch).outputs.items()
    cut(supernet, UNEVEN).save_pretrained(tmp_path)
    torch.testing.assert_close(auto.from_pretrained(tmp_path)(**batch)[name], expected, atol=1e-6, rtol=0)


# family -> (pattern, what the authors' own code calls it), applied in this order; and what stood in one weight.
PUBLISHED = {
    "nomic_bert": (
        {r"^layers": "encoder.layers", r"embeddings\.LayerNorm": "emb_ln", r"self_attn\.o_proj": "attn.out_proj",
         r"self_attn": "attn", r"up_proj": "fc11", r"gate_proj": "fc12", r"down_proj": "fc2",
         r"post_attention_layernorm": "norm1", r"post_mlp_layernorm": "norm2"},
        {"Wqkv": ("q_proj", "k_proj", "v_proj")},
    ),
    "gte": (
        {r"^": "new.", r"layers": "encoder.layer", r"self_attn": "attention", r"post_attention_layernorm": "attn_ln",
         r"post_mlp_layernorm": "mlp_ln"},
        {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "up_gate_proj": ("up_proj", "gate_proj")},
    ),
    "jina_embeddings_v3": (
        {r"^layers": "encoder.layers", r"embeddings\.LayerNorm": "emb_ln", r"self_attn\.o_proj": "mixer.out_proj",
         r"self_attn": "mixer", r"post_attention_layernorm": "norm1", r"post_mlp_layernorm": "norm2"},
        {"Wqkv": ("q_proj", "k_proj", "v_proj")},
    ),
    "eurobert": ({}, {}),
}  # fmt: skip


def published(model, directory):
    """A bare encoder as its authors published it, with code of their own beside it."""
    renamed, fused = PUBLISHED[model.config.model_type]
    weights = {}
    for name, tensor in model.state_dict().items():
        for pattern, theirs in renamed.items():
            name = re.sub(pattern, theirs, name)
        weights[name] = tensor
    for whole, pieces in fused.items():
        for name in [name for name in weights if f".{pieces[0]}." in name]:
            found = [weights.pop(name.replace(pieces[0], piece)) for piece in pieces]
            weights[name.replace(pieces[0], whole)] = torch.cat(found)
    model.save_pretrained(directory)
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    (directory / "own.py").write_text(f"open({str(directory / 'run')!r}, 'w')")
    content = json.loads((directory / "config.json").read_text())
    content["auto_map"] = {"AutoConfig": "own.Config", "AutoModel": "own.Model"}
    (directory / "config.json").write_text(json.dumps(content))


@pytest.mark.parametrize("family", NEWCOMERS)
@torch.no_grad()
def test_a_model_as_its_authors_published_it_is_read_without_their_code(family, tmp_path):
    bare = randomise(AutoModel.from_config(tiny_config(family))).eval()
    published(bare, tmp_path / "theirs")
    model = load_model(str(tmp_path / "theirs"), kind=KINDS["classification"], new_head=True).eval()
    batch = tiny_batch()
    expected = bare(**batch).last_hidden_state
    assert torch.equal(model.base_model(**batch).last_hidden_state, expected)
    supernet = Supernet(model)
    supernet.save(tmp_path / "net", tiny_tokenizer())
    again, _ = load_supernet(tmp_path / "net")
    assert torch.equal(again.eval()(UNEVEN, **batch).outputs["logits"], supernet(UNEVEN, **batch).outputs["logits"])
    student = cut(again, UNEVEN)
    student.save_pretrained(tmp_path / "student")
    tiny_tokenizer().save_pretrained(tmp_path / "student")
    loaded, _ = load_student(tmp_path / "student")
    assert torch.equal(loaded(**batch).logits, student(**batch).logits)
    assert not (tmp_path / "theirs" / "run").exists()
    for place in ("net", "student"):
        assert "auto_map" not in json.loads((tmp_path / place / "config.json").read_text())


@pytest.mark.parametrize("family", ["eurobert", "gte", "nomic_bert"])
def test_a_kind_for_which_transformers_has_no_model_of_a_family_is_refused_in_one_sentence(family, tmp_path):
    tiny_model(family).base_model.save_pretrained(tmp_path)
    sentence = f"can be no answerer of questions: transformers has no AutoModelForQuestionAnswering of .* '{family}'"
    with pytest.raises(UserError, match=sentence):
        load_model(str(tmp_path), kind=KINDS["question_answering"], new_head=True)


def test_every_family_of_rotary_positions_is_here_or_has_a_file_of_its_own():
    assert {name for name, family in FAMILIES.items() if family.rotary} == {*NEWCOMERS, "modernbert"}
