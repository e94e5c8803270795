"""A supernet used from several threads gives each its own right answer and is never changed by a call."""

import copy
import sys
from concurrent.futures import ThreadPoolExecutor
from types import MethodType

import pytest
import torch
from conftest import tiny_batch, tiny_model

from dynackd.families.table import family_of, layer_list
from dynackd.subnet import FULL, SubnetSpec
from dynackd.supernet.network import Supernet

THREADS, CALLS = 8, 25


@pytest.fixture
def eager_switching():
    """Threads that take turns after every few instructions, so that what they share is seen in every state."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def state(model):
    """Everything that a call could leave changed: weights and where they are, modules, head counts, modes."""
    weights = {name: (tensor, tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}
    modules = {name: (id(module), module.training) for name, module in model.named_modules()}
    paths = [path.rpartition(".") for path in family_of(model.config).head_count]
    heads = [getattr(layer.get_submodule(holder), name) for layer in layer_list(model) for holder, _, name in paths]
    return weights, modules, heads


def assert_unchanged(model, before):
    weights, modules, heads = state(model)
    assert weights.keys() == before[0].keys()
    for name, (tensor, values) in weights.items():
        assert tensor is before[0][name][0]
        assert torch.equal(values, before[0][name][1])
    assert (modules, heads) == before[1:]


@torch.no_grad()
def test_every_thread_gets_its_own_right_answer_and_the_weights_stay(family, grid, eager_switching):
    supernet = Supernet(tiny_model(family), grid).eval()
    before = state(supernet.model)
    specs = grid.specs()
    batches = [tiny_batch(seed=seed) for seed in range(3)]
    expected = {(spec, i): supernet(spec, **batch) for spec in specs for i, batch in enumerate(batches)}

    @torch.no_grad()
    def work(thread):
        wrong = 0
        for call in range(CALLS):
            spec, i = specs[(thread + call) % len(specs)], call % len(batches)
            output, right = supernet(spec, **batches[i]), expected[spec, i]
            logits = (output.outputs["logits"], right.outputs["logits"])
            pairs = [logits, *zip(output.hidden_states, right.hidden_states, strict=True)]
            wrong += not all(torch.equal(mine, theirs) for mine, theirs in pairs)
        return wrong

    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(work, range(THREADS))) == [0] * THREADS
    assert_unchanged(supernet.model, before)


def test_gradients_of_several_threads_add_up_to_those_of_one(eager_switching):
    supernet, batch = Supernet(tiny_model()).eval(), tiny_batch()
    specs = [SubnetSpec(width, depth) for width in (0.25, 0.5, 1.0) for depth in (0.5, 1.0)]

    def work(spec):
        weights = list(supernet.parameters())
        return torch.autograd.grad(supernet(spec, **batch).outputs["logits"].square().sum(), weights, allow_unused=True)

    def numbers(gradients):
        return [[None if g is None else g.clone() for g in own] for own in gradients]

    expected = numbers(map(work, specs))
    with ThreadPoolExecutor(THREADS) as pool:
        for mine, right in zip(numbers(pool.map(work, specs)), expected, strict=True):
            for gradient, other in zip(mine, right, strict=True):
                assert (gradient is None) == (other is None)
                assert gradient is None or torch.equal(gradient, other)


def test_a_call_that_fails_midway_leaves_the_supernet_whole(family):
    supernet = Supernet(tiny_model(family)).eval()
    before, batch = state(supernet.model), tiny_batch()

    def fail(*_):
        raise RuntimeError("midway")

    handle = layer_list(supernet.model)[3].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="midway"):
        supernet(SubnetSpec(0.5, 0.5), **batch)
    handle.remove()
    assert_unchanged(supernet.model, before)
    fresh = Supernet(tiny_model(family)).eval()
    assert torch.equal(supernet(FULL, **batch).outputs["logits"], fresh(FULL, **batch).outputs["logits"])


@torch.no_grad()
def test_a_call_inside_a_forward_hook_disturbs_neither(family):
    supernet, batch = Supernet(tiny_model(family)).eval(), tiny_batch()
    outer, inner = SubnetSpec(0.5, 1.0), SubnetSpec(0.25, 0.5)
    expected = {spec: supernet(spec, **batch) for spec in (outer, inner)}
    found = []

    def call(*_):
        if not found:
            found.append(None)
            found[0] = supernet(inner, **batch).outputs["logits"]

    handle = layer_list(supernet.model)[1].register_forward_hook(call)
    output = supernet(outer, **batch)
    handle.remove()
    assert torch.equal(found[0], expected[inner].outputs["logits"])
    assert torch.equal(output.outputs["logits"], expected[outer].outputs["logits"])
    assert len(output.hidden_states) == 5


@torch.no_grad()
def test_weights_that_are_replaced_moved_or_cast_are_seen_by_the_next_call(family):
    supernet, batch, spec = Supernet(tiny_model(family)).eval(), tiny_batch(), SubnetSpec(0.5, 0.5)
    supernet(spec, **batch)
    other = Supernet(tiny_model(family, seed=5)).eval()
    supernet.load_state_dict(copy.deepcopy(other.state_dict()))
    assert torch.equal(supernet(spec, **batch).outputs["logits"], other(spec, **batch).outputs["logits"])
    supernet.load_state_dict(other.state_dict(), assign=True)
    assert torch.equal(supernet(spec, **batch).outputs["logits"], other(spec, **batch).outputs["logits"])
    assert supernet.to(torch.float64)(spec, **batch).outputs["logits"].dtype == torch.float64
    for module in supernet.modules():
        for name in ("p", "attention_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.5)
    assert not torch.equal(supernet.train()(spec, **batch).outputs["logits"], supernet(spec, **batch).outputs["logits"])


@torch.no_grad()
def test_a_wrapped_forward_runs_the_subnetwork_and_one_bound_to_something_else_is_refused():
    supernet, batch, spec = Supernet(tiny_model()).eval(), tiny_batch(), SubnetSpec(0.5, 1.0)
    expected = supernet(spec, **batch).outputs["logits"]
    model = supernet.model
    stock = type(model).forward
    model.forward = MethodType(lambda self, **inputs: stock(self, **inputs), model)  # as accelerate wraps it
    assert torch.equal(supernet(spec, **batch).outputs["logits"], expected)
    model.forward = lambda **inputs: stock(model, **inputs)
    with pytest.raises(RuntimeError, match="forward of a BertForSequenceClassification was replaced"):
        supernet(spec, **batch)
