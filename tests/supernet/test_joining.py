"""A general supernet and a fine-tuned teacher become one: what stays exactly, and in which order."""

import copy

import pytest
import torch
from conftest import randomise, tiny_batch, tiny_config, tiny_tokenizer
from transformers import AutoModel, AutoModelForSequenceClassification

from dynackd.errors import UserError
from dynackd.families.family import HEAD, HIDDEN, NEURON
from dynackd.grid import Grid
from dynackd.subnet import FULL
from dynackd.supernet.importance import Importance, orders_of, reorder
from dynackd.supernet.joining import GENERAL, ORDERS_FILE, general_place, join
from dynackd.supernet.network import Origin, Supernet
from dynackd.system.places import write_json
from dynackd.tasks.kinds import KIND_KEY


def world(directory, family, moved=0.0, hidden=False):
    """(place of a general supernet, its encoder, a teacher fine-tuned from that, the order); moved: how far the general
    stage changed the weights; hidden: whether its hidden dimensions are in an order, too."""
    encoder = randomise(AutoModel.from_config(tiny_config(family, **{KIND_KEY: "plain"}))).eval()
    encoder.save_pretrained(directory / "encoder")
    teacher = randomise(AutoModelForSequenceClassification.from_config(tiny_config(family)), 7).eval()
    generator = torch.Generator().manual_seed(1)
    own = encoder.state_dict()
    with torch.no_grad():
        for name, tensor in teacher.base_model.state_dict().items():
            if name in own:
                moves = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
                tensor.copy_(own[name] + 0.1 * moves)  # rounded once, as no sum of two float32 numbers is
    general = copy.deepcopy(encoder)
    sizes = Supernet(general).geometry
    scores = [torch.rand(sizes.layers, count, generator=generator) for count in (sizes.heads, sizes.neurons)]
    scores += [torch.rand(sizes.hidden, generator=generator)] if hidden else []
    orders = orders_of(general, Importance(*scores))
    reorder(general, orders)
    with torch.no_grad():
        for parameter in general.parameters():
            parameter.add_(moved * torch.randn(parameter.shape, generator=generator))
    origin = Origin(GENERAL, str(directory / "encoder"), str(directory / "encoder"))
    grid = Grid((1.0, 0.5), (1.0, 0.5), hidden=(1.0, 0.5) if hidden else (1.0,))
    order = orders[HIDDEN][0] if hidden else None
    Supernet(general, grid, origin, hidden_order=order).save(directory / "general", tiny_tokenizer())
    write_json(directory / "general" / ORDERS_FILE, orders)
    return directory / "general", str(directory / "encoder"), teacher, orders


def weights(model, like):
    own = model.base_model.state_dict()
    return {name: own[name] for name in like.base_model.state_dict()}


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert", "mpnet", "eurobert", "deberta-v2"])
def test_with_an_untouched_general_supernet_the_full_network_is_the_teacher_in_its_order(tmp_path, family, hidden):
    place, encoder, teacher, orders = world(tmp_path, family, hidden=hidden)
    before = copy.deepcopy(teacher.state_dict())
    network = join(place, encoder, teacher, "difference").eval()
    joined = network.model
    assert network.hidden_order == (tuple(orders[HIDDEN][0]) if hidden else None)
    assert all(torch.equal(before[name], own) for name, own in teacher.state_dict().items()), "the teacher stays"
    expected = copy.deepcopy(teacher)
    reorder(expected, orders)
    assert orders != {unit: [sorted(own) for own in layers] for unit, layers in orders.items()}
    ours = joined.state_dict()
    assert all(torch.equal(ours[name], own) for name, own in expected.state_dict().items()), "to the last bit"
    batch = tiny_batch()
    with torch.no_grad():
        outputs = [Supernet(model)(FULL, **batch).outputs["logits"] for model in (joined, teacher)]
    torch.testing.assert_close(*outputs, atol=2e-5, rtol=1e-5)


def test_difference_adds_what_the_general_stage_changed_and_head_takes_all_of_it(tmp_path):
    place, encoder, teacher, orders = world(tmp_path, "bert", moved=0.1)
    general, bare, tuned = AutoModel.from_pretrained(place), AutoModel.from_pretrained(encoder), copy.deepcopy(teacher)
    reorder(bare, orders)
    reorder(tuned, orders)
    own, old, new = (weights(model, bare) for model in (general, bare, tuned))
    added = weights(join(place, encoder, teacher, "difference").model, bare)
    taken = join(place, encoder, teacher, "head").model
    for name, tensor in added.items():
        if not name.startswith("pooler"):  # of which a general supernet has none
            torch.testing.assert_close(tensor - new[name], own[name] - old[name], atol=1e-6, rtol=0)
            assert torch.equal(weights(taken, bare)[name], own[name])
    assert torch.equal(taken.classifier.weight, teacher.classifier.weight)
    assert torch.equal(taken.bert.pooler.dense.weight, teacher.bert.pooler.dense.weight)
    assert torch.equal(added["pooler.dense.weight"], teacher.bert.pooler.dense.weight)


def test_a_teacher_of_another_encoder_is_refused_where_weights_are_added(tmp_path):
    place, encoder, _, _ = world(tmp_path, "bert")
    other = randomise(AutoModelForSequenceClassification.from_config(tiny_config("bert")), 9)
    with pytest.raises(UserError, match=r"weights differ from that by 1\d\d% of their size"):
        join(place, encoder, other, "difference")
    join(place, encoder, other, "head")
    wider = AutoModelForSequenceClassification.from_config(tiny_config("bert", intermediate_size=48))
    with pytest.raises(UserError, match=r"another shape .*intermediate.dense.weight is \[48, 32\], not \[40, 32\]"):
        join(place, encoder, wider, "head")
    with pytest.raises(UserError, match="another shape"):
        join(place, encoder, AutoModelForSequenceClassification.from_config(tiny_config("distilbert")), "head")


@pytest.mark.parametrize("damage", ["gone", "a unit twice", "a layer less", "no units", "no hidden", "other hidden"])
def test_an_order_that_is_none_is_refused(tmp_path, damage):
    place, encoder, teacher, orders = world(tmp_path, "bert", hidden="hidden" in damage)
    file = place / ORDERS_FILE
    if damage == "gone":
        file.unlink()
    elif damage == "a unit twice":
        orders[NEURON][1][0] = orders[NEURON][1][1]
        write_json(file, orders)
    elif damage == "a layer less":
        write_json(file, {**orders, HEAD: orders[HEAD][1:]})
    elif damage == "no hidden":
        write_json(file, {HEAD: orders[HEAD], NEURON: orders[NEURON]})
    elif damage == "other hidden":
        write_json(file, {**orders, HIDDEN: [orders[HIDDEN][0][::-1]]})
    else:
        write_json(file, {HEAD: orders[HEAD]})
    with pytest.raises(UserError, match=r"orders.json is missing or damaged"):
        join(place, encoder, teacher, "difference")


def test_only_a_general_supernet_counts_as_one(tmp_path):
    place, encoder, _, _ = world(tmp_path, "bert")
    assert general_place(str(place)) == place
    assert general_place(encoder) is None
    assert general_place("owner/name") is None
    width = Supernet(AutoModel.from_pretrained(encoder), Grid((1.0,), (1.0,)), Origin("width", encoder))
    width.save(tmp_path / "width", tiny_tokenizer())
    assert general_place(str(tmp_path / "width")) is None
