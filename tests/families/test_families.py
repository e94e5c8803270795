"""The rule of slicing: which numbers of a tensor belong to a sub-network, and that every architecture follows it."""

import copy

import numpy as np
import pytest
import torch
from conftest import PATHS, VOCABULARY, randomise, tiny_batch, tiny_model
from onnxruntime import InferenceSession
from transformers import AutoModelForSequenceClassification, CamembertConfig, XLMRobertaConfig

from dynackd.errors import UserError
from dynackd.families.family import HEAD, Part, slices
from dynackd.families.table import FAMILIES, family_of, geometry_of, layer_list, max_positions
from dynackd.onnx.graphs import export_onnx
from dynackd.students.cutting import cut
from dynackd.subnet import FULL, Layer, Subnet, full
from dynackd.supernet.network import Supernet

SIZES = {"num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 40, "hidden_size": 32}
SIZES |= {"vocab_size": len(VOCABULARY), "max_position_embeddings": 49, "pad_token_id": 0}
ALIKE = {"camembert": CamembertConfig, "xlm-roberta": XLMRobertaConfig}


def test_the_kept_part_is_the_first_units_of_each_block():
    # A fused query-key-value of 3 heads of size 2: rows q0 q0 q1 q1 q2 q2 k0 k0 ...
    names = [f"{block}{head}" for block in "qkv" for head in range(3) for _ in range(2)]
    part, tensor = Part(0, HEAD, parts=3, total=3, size=2, kept=2), torch.arange(18)
    assert [names[i] for i in part.of(tensor)] == [f"{block}{head}" for block in "qkv" for head in (0, 0, 1, 1)]
    assert [names[i] for i in part.positions([2, 0])] == [f"{block}{head}" for block in "qkv" for head in (2, 2, 0, 0)]
    columns = torch.arange(54).reshape(3, 18)
    kept = part.positions(range(part.kept))
    assert torch.equal(part._replace(dim=1).of(columns), columns[:, kept])


def test_the_kept_part_of_one_block_is_a_view_so_that_gradients_land_in_the_full_weights(family):
    model = tiny_model(family)
    own = full(geometry_of(model.config)).layers[0]
    half = Layer(0, own.heads // 2, own.neurons // 2)
    for piece in slices(layer_list(model)[0], half, 32, family_of(model.config), geometry_of(model.config)):
        if not piece.cut:  # of hidden dimensions alone
            continue
        assert piece.parts[0].parts > 1 or piece.view().data_ptr() == piece.tensor.data_ptr()
        assert piece.view().numel() * 2 == piece.tensor.numel()


@torch.no_grad()
def test_layers_with_sizes_of_their_own_are_the_full_model_whose_other_units_are_silent(family):
    supernet, silenced = Supernet(tiny_model(family)), tiny_model(family)
    _, attention_output, _, ffn_output = PATHS[family]
    layers = tuple(Layer(index, *sizes) for index, sizes in enumerate([(1, 40), (4, 9), (2, 1), (3, 33)]))
    for own in layers:
        module = layer_list(silenced)[own.index]
        module.get_submodule(attention_output).weight[:, own.heads * 8 :] = 0
        module.get_submodule(ffn_output).weight[:, own.neurons :] = 0
    expected = silenced(**tiny_batch()).logits
    for found in (supernet(Subnet(layers, 32), **tiny_batch()).outputs["logits"],
                  cut(supernet, Subnet(layers, 32))(**tiny_batch()).logits):  # fmt: skip
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_the_words_own_embeddings_are_found_for_the_words_that_are_like_them(family):
    # `augment` without a masked language model replaces words by their neighbours among these.
    embeddings = tiny_model(family).get_input_embeddings()
    assert isinstance(embeddings, torch.nn.Embedding)
    assert embeddings.num_embeddings == len(VOCABULARY)


@pytest.mark.parametrize("name", ALIKE)
@torch.no_grad()
def test_what_is_a_roberta_by_another_name_is_sliced_as_one(name, tmp_path):
    model = randomise(AutoModelForSequenceClassification.from_config(ALIKE[name](**SIZES))).eval()
    expected, batch = copy.deepcopy(model), tiny_batch()
    supernet = Supernet(model)
    assert torch.equal(supernet(FULL, **batch).outputs["logits"], expected(**batch).logits)
    subnet = Subnet((Layer(0, 1, 40), Layer(2, 3, 7)), 32)
    logits, student = supernet(subnet, **batch).outputs["logits"], cut(supernet, subnet)
    torch.testing.assert_close(student(**batch).logits, logits, atol=1e-5, rtol=0)
    student.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded(**batch).logits, student(**batch).logits)
    export_onnx(student, list(batch), tmp_path / "model.onnx")
    session = InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {key: value.numpy() for key, value in batch.items()})
    np.testing.assert_allclose(found, logits.numpy(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["roberta", "mpnet"])
def test_without_a_padding_token_positions_are_not_known(name):
    config = tiny_model(name).config
    config.pad_token_id = None
    if not family_of(config).positions_follow_padding:
        assert max_positions(config) > 0
        return
    with pytest.raises(UserError, match=f"says no pad_token_id, from which a {name} counts its positions"):
        max_positions(config)


def test_every_architecture_of_the_table_is_tested():
    from conftest import CONFIGS

    assert {*CONFIGS, *ALIKE} == set(FAMILIES)
