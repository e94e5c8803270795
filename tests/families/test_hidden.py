"""The third dial: every hidden size, in every family, is one network in torch, as a student and in ONNX Runtime."""

import copy

import numpy as np
import pytest
import torch
from conftest import CONFIGS, randomise, tiny_batch, tiny_config, tiny_model
from onnxruntime import InferenceSession
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from dynackd.errors import UserError
from dynackd.families.family import HEAD, HIDDEN, NEURON, POOLED
from dynackd.families.table import FAMILIES, layer_list
from dynackd.grid import Grid
from dynackd.onnx.graphs import export_onnx, parity
from dynackd.students.cutting import cut
from dynackd.students.loading import load_student
from dynackd.students.stock import stock_model
from dynackd.students.travel import CODE_FILE, add_code
from dynackd.subnet import FULL, Layer, Subnet, SubnetSpec
from dynackd.supernet.cost import FlopCounter, ModelFlops, count_parameters
from dynackd.supernet.importance import IMPORTANCE, gradient_importance, in_order_of, reorder, rewire
from dynackd.supernet.network import Supernet, load_supernet

EVERY = (HEAD, NEURON, HIDDEN, POOLED)
GRID = Grid((1.0, 0.5), (1.0, 0.5), hidden=(1.0, 0.75, 0.5, 0.25))
# 20 is no multiple of 8, nor of the heads; layers differ in heads and neurons too.
UNEVEN = Subnet((Layer(0, 2, 40), Layer(1, 4, 7), Layer(3, 1, 20)), 20)


def batches(count=2):
    return [{**tiny_batch(seed=seed), "labels": torch.tensor([0, 1, 1, 0])} for seed in range(count)]


def rewired(model, score="gradient"):
    """A supernet of the model with all of its units ordered, and the orders."""
    orders = rewire(model, IMPORTANCE[score](model, batches()), EVERY)
    return Supernet(model, GRID, hidden_order=orders[HIDDEN][0]).eval(), orders


@torch.no_grad()
def test_every_hidden_size_equals_its_student_and_its_onnx_graph(family, tmp_path):
    supernet, batch, seen = Supernet(tiny_model(family), GRID).eval(), tiny_batch(), []
    for subnet in [*supernet.subnets.values(), UNEVEN]:
        expected = supernet(subnet, **batch)
        assert {state.shape[-1] for state in expected.hidden_states} == {subnet.hidden}
        student = cut(supernet, subnet)
        own = student(**batch, output_hidden_states=True)
        torch.testing.assert_close(own.logits, expected.outputs["logits"], atol=1e-5, rtol=0)
        for mine, theirs in zip(own.hidden_states, expected.hidden_states, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)
        assert count_parameters(supernet, subnet) == sum(p.numel() for p in student.parameters())
        if subnet.hidden < 32 and len(subnet.layers) < 4:
            export_onnx(student, list(batch), tmp_path / "model.onnx")
            session = InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
            (logits,) = session.run(None, {name: tensor.numpy() for name, tensor in batch.items()})
            np.testing.assert_allclose(logits, expected.outputs["logits"].numpy(), atol=1e-5, rtol=0)
        seen.append(expected.outputs["logits"])
    # Not vacuous: the sub-networks are different functions.
    for i, logits in enumerate(seen):
        assert all((logits - other).abs().max() > 1e-3 for other in seen[:i])


@torch.no_grad()
def test_a_students_weights_are_those_that_a_network_of_its_own_hidden_size_would_have(family):
    """What `cut` and `shrink` say of sizes, against the Hugging Face model of that hidden size and as many heads: it
    has the same weights of the same shapes, so that nothing was left at its full size."""
    supernet = Supernet(tiny_model(family), GRID)
    student = cut(supernet, supernet.resolve(SubnetSpec(0.5, 1.0, 0.5)))
    if family == "electra":  # its embeddings are 16 wide, so that a model of hidden size 16 projects nothing
        return
    stock = stock_model(student)
    assert type(stock).__module__.startswith("transformers.")
    shapes = {name: tuple(tensor.shape) for name, tensor in stock.state_dict().items()}
    assert {name: tuple(tensor.shape) for name, tensor in student.state_dict().items()} == shapes
    torch.testing.assert_close(stock(**tiny_batch()).logits, student(**tiny_batch()).logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize("score", list(IMPORTANCE))
@torch.no_grad()
def test_rewiring_the_hidden_dimensions_leaves_the_output_as_it_was(family, score):
    model, batch = tiny_model(family), tiny_batch()
    supernet, small = Supernet(model, GRID), SubnetSpec(1.0, 1.0, 0.5)
    before, narrow = supernet(**batch), supernet(small, **batch).outputs["logits"]
    with torch.enable_grad():
        orders = rewire(model, IMPORTANCE[score](model, batches()), EVERY)
    assert sorted(orders[HIDDEN][0]) == list(range(32)) != orders[HIDDEN][0]
    after = supernet(**batch)
    torch.testing.assert_close(after.outputs["logits"], before.outputs["logits"], atol=1e-6, rtol=1e-6)
    for mine, theirs in zip(after.hidden_states, before.hidden_states, strict=True):
        torch.testing.assert_close(mine, theirs[..., orders[HIDDEN][0]], atol=3e-6, rtol=3e-6)
    assert (supernet(small, **batch).outputs["logits"] - narrow).abs().max() > 1e-3


AUTO = (AutoModelForTokenClassification, AutoModelForQuestionAnswering)


@pytest.mark.parametrize("auto", AUTO, ids=lambda auto: auto.__name__.removeprefix("AutoModelFor"))
@torch.no_grad()
def test_heads_of_other_tasks_are_cut_and_rewired_alike(family, auto):
    config = tiny_config(family)
    if type(config) not in auto._model_mapping:
        pytest.skip("transformers has none")
    model, batch = randomise(auto.from_config(config)).eval(), tiny_batch()
    supernet, full = Supernet(model, GRID).eval(), copy.deepcopy(model)(**batch)
    small = supernet.resolve(SubnetSpec(0.5, 0.5, 0.5))
    order = [list(range(31, -1, -1))]
    reorder(model, {HIDDEN: order, POOLED: [[*range(1, 32), 0]]})
    whole, expected, student = supernet(**batch).outputs, supernet(small, **batch).outputs, cut(supernet, small)
    for name, found in expected.items():
        torch.testing.assert_close(whole[name], full[name], atol=1e-6, rtol=0)
        torch.testing.assert_close(student(**batch)[name], found, atol=1e-5, rtol=0)
    assert all(16 in tensor.shape for name, tensor in student.named_parameters() if name.endswith("outputs.weight"))


@torch.no_grad()
def test_a_student_has_its_hidden_dimensions_in_the_teachers_order(family):
    """What reads hidden states, such as the vectors of an embedder, finds them where the teacher has them."""
    model = randomise(AutoModel.from_config(tiny_config(family))).eval()
    expected, order = copy.deepcopy(model)(**tiny_batch()).last_hidden_state, [*range(31, 15, -1), *range(16)]
    reorder(model, {HIDDEN: [order]})
    supernet = Supernet(model, GRID, hidden_order=order).eval()
    whole = cut(supernet, supernet.whole)(**tiny_batch()).last_hidden_state
    torch.testing.assert_close(whole, expected, atol=1e-5, rtol=0)
    half = supernet.resolve(SubnetSpec(1.0, 1.0, 0.5))  # dimensions 31 ... 16 of the teacher
    own, theirs = cut(supernet, half)(**tiny_batch()).last_hidden_state, supernet(half, **tiny_batch()).outputs
    torch.testing.assert_close(own, theirs["last_hidden_state"].flip(-1), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_teacher_is_put_in_the_order_of_its_supernet(family):
    teacher, batch = Supernet(tiny_model(family), Grid((1.0,), (1.0,))), tiny_batch()
    with torch.enable_grad():
        supernet, orders = rewired(tiny_model(family))
    before = teacher(**batch)
    after = in_order_of(supernet, in_order_of(supernet, teacher))(**batch)  # once is enough
    torch.testing.assert_close(after.outputs["logits"], before.outputs["logits"], atol=1e-6, rtol=1e-6)
    ours, order = supernet(**batch).hidden_states, orders[HIDDEN][0]
    for mine, theirs, old in zip(after.hidden_states, ours, before.hidden_states, strict=True):
        torch.testing.assert_close(mine, theirs, atol=3e-6, rtol=3e-6)
        torch.testing.assert_close(mine, old[..., order], atol=3e-6, rtol=3e-6)


def test_hidden_importance_is_the_derivative_of_the_loss_by_a_factor_on_what_the_layers_read(family):
    # DeBERTa's convolution reads the first hidden state too, where no layer does: without it here.
    changes = {"conv_kernel_size": 0} if family == "deberta-v2" else {}
    model = tiny_model(family, problem_type="single_label_classification", **changes).double()
    importance = gradient_importance(model, batches(1))

    def loss(dimension, factor):
        def scaled(state):
            return torch.cat([state[..., :dimension], state[..., dimension : dimension + 1] * factor,
                              state[..., dimension + 1 :]], -1)  # fmt: skip

        handles = [layer.register_forward_pre_hook(lambda _, args: (scaled(args[0]), *args[1:])) for layer in layers]
        handles.append(layers[-1].register_forward_hook(
            lambda _, args, out: scaled(out) if isinstance(out, torch.Tensor) else (scaled(out[0]), *out[1:])))
        with torch.no_grad():
            value = model(**batches(1)[0]).loss
        for handle in handles:
            handle.remove()
        return value

    layers = layer_list(model)
    for dimension in (0, 19):
        slope = (loss(dimension, 1 + 1e-3) - loss(dimension, 1 - 1e-3)) / 2e-3
        assert float(importance.hidden[dimension]) == pytest.approx(abs(float(slope)), rel=2e-3)


@torch.no_grad()
def test_hidden_dimensions_with_no_effect_are_cut_first():
    """A network of which half the hidden dimensions say nothing to anyone, and half of the pooled ones, is itself at
    half its hidden size; norms are left without mean and variance, which all dimensions have a part in."""
    model = tiny_model("eurobert")  # RMSNorm: zeros add nothing to the mean of squares but to what it is divided by
    silent, ones = torch.arange(32) % 2 == 1, torch.arange(16) * 2
    for name, tensor in model.named_parameters():
        if name.endswith(("embed_tokens.weight", "o_proj.weight", "down_proj.weight", "o_proj.bias", "down_proj.bias")):
            tensor[(slice(None), silent) if "embed" in name else silent] = 0
        if name in ("classifier.weight", "dense.weight"):
            tensor[:, silent] = 0
    with torch.enable_grad():
        _, orders = rewired(model)
    assert sorted(orders[HIDDEN][0][:16]) == sorted(orders[POOLED][0][:16]) == ones.tolist()


def test_gradients_land_in_the_kept_hidden_dimensions_only(family):
    model = tiny_model(family)
    Supernet(model, GRID)(SubnetSpec(1.0, 1.0, 0.5), **tiny_batch()).outputs["logits"].square().sum().backward()
    words = model.get_input_embeddings().weight.grad
    if family != "electra":  # whose embeddings have a size of their own
        assert words[:, :16].abs().sum() > 0
        assert not words[:, 16:].any()
    norm = layer_list(model)[1].get_submodule(FAMILIES[family].norms[-1]).weight.grad
    assert norm[:16].abs().min() > 0
    assert not norm[16:].any()


def test_a_subnetwork_of_a_hidden_size_goes_on_from_its_own_embeddings(family):
    supernet, batch, spec = Supernet(tiny_model(family), GRID), tiny_batch(), SubnetSpec(0.5, 0.5, 0.5)
    results = []
    for below in ((), (supernet.embed(16, **batch),)):
        supernet.zero_grad()
        output = supernet(spec, below=below, **batch)
        output.outputs["logits"].sum().backward()
        grads = [p.grad.clone() for p in supernet.parameters() if p.grad is not None]
        results.append([output.outputs["logits"].detach(), *output.hidden_states, *grads])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs)


@torch.no_grad()
def test_a_saved_student_loads_in_every_way(family, tokenizer, tmp_path):
    supernet = Supernet(tiny_model(family), GRID)
    student = cut(supernet, UNEVEN)
    add_code(student, tmp_path)
    student.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    expected = student(**tiny_batch()).logits
    for loaded in (
        AutoModelForSequenceClassification.from_pretrained(tmp_path, trust_remote_code=False),
        load_student(tmp_path)[0],
        AutoModelForSequenceClassification.from_pretrained(
            tmp_path, trust_remote_code=True, config=_travelled(tmp_path)
        ),
    ):
        assert torch.equal(loaded(**tiny_batch()).logits, expected)
        assert loaded.config.dynackd["hidden"] == 20 / 32
    assert ModelFlops(student.config).count(9) == FlopCounter(supernet).count(UNEVEN, 9)


def _travelled(directory):
    """The config by the class that travels with a student."""
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    name = next(line.split()[1].partition("(")[0] for line in (directory / CODE_FILE).read_text().splitlines()
                if line.startswith("class ") and "Config" in line.partition("(")[0])
    made = get_class_from_dynamic_module(f"{CODE_FILE.removesuffix('.py')}.{name}", directory)
    return made.from_pretrained(directory)


@torch.no_grad()
def test_a_supernet_comes_back_with_its_order_and_one_without_says_nothing_of_it(tokenizer, tmp_path):
    with torch.enable_grad():
        supernet, orders = rewired(tiny_model())
    supernet.save(tmp_path / "net", tokenizer)
    loaded, _ = load_supernet(tmp_path / "net")
    assert (loaded.hidden_order, loaded.grid) == (tuple(orders[HIDDEN][0]), GRID)
    found, expected = (net(SubnetSpec(0.5, 0.5, 0.25), **tiny_batch()).outputs["logits"] for net in (loaded, supernet))
    assert torch.equal(found, expected)
    Supernet(tiny_model()).save(tmp_path / "plain", tokenizer)
    cut(Supernet(tiny_model()), Supernet(tiny_model()).whole).save_pretrained(tmp_path / "student")
    for name in ("plain", "student"):
        text = (tmp_path / name / "config.json").read_text()
        assert not [word for word in ("hidden_order", "full_hidden", '"hidden"') if word in text]


def test_a_fused_graph_of_a_student_agrees_with_it(tmp_path):
    student = cut(Supernet(tiny_model(), GRID), Subnet((Layer(0, 2, 40), Layer(2, 3, 20)), 16))
    export_onnx(student, ["input_ids", "attention_mask"], tmp_path / "model.onnx", graph="fused")
    assert parity(student, ["input_ids", "attention_mask"], 48, tmp_path / "model.onnx") <= 1e-5


def test_a_stock_checkpoint_that_would_have_to_pad_the_hidden_size_is_refused():
    student = cut(Supernet(tiny_model()), Subnet((Layer(0, 3, 20),), 16))  # 3 heads of 8 in 16
    with pytest.raises(UserError, match="no stock checkpoint can hold 3 heads of size 8: it splits the hidden size 16"):
        stock_model(student)
    modern = cut(Supernet(tiny_model("modernbert")), Subnet((Layer(0, 1, 20),), 20))
    with pytest.raises(UserError, match="beside a hidden size of 20, which is no multiple of it"):
        stock_model(modern)


def test_a_model_whose_hidden_size_cannot_be_cut_says_why():
    model = tiny_model("deberta-v2", conv_groups=2)
    with pytest.raises(UserError, match="the hidden size of a deberta-v2 stays whole here, because the groups of its"):
        Supernet(model, GRID)
    Supernet(model, Grid((1.0, 0.5), (1.0,)))


@torch.no_grad()
def test_electra_and_deberta_cut_embeddings_that_are_as_wide_as_the_hidden_states():
    for family, changes in (("electra", {"embedding_size": 32}), ("deberta-v2", {"embedding_size": 16})):
        config = tiny_config(family)
        for name, value in changes.items():
            setattr(config, name, value)
        model = randomise(AutoModelForSequenceClassification.from_config(config)).eval()
        supernet = Supernet(model, GRID).eval()
        student = cut(supernet, UNEVEN)
        expected = supernet(UNEVEN, **tiny_batch()).outputs["logits"]
        torch.testing.assert_close(student(**tiny_batch()).logits, expected, atol=1e-5, rtol=0)
        assert student.get_input_embeddings().weight.shape[1] == (20 if family == "electra" else 16)


def test_every_family_says_where_its_hidden_size_stands():
    assert set(CONFIGS) <= set(FAMILIES)
    assert all(family.hidden and family.norms for family in FAMILIES.values())
    assert FULL.hidden == 1
