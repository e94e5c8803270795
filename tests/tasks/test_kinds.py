"""Which kind of task a model is of, and what a kind says where nothing is said."""

import pytest
import torch
from conftest import tiny_batch, tiny_config, tiny_model

from dynackd.errors import UserError
from dynackd.tasks.classification import CLASSIFICATION
from dynackd.tasks.kinds import KIND_KEY, KINDS, kind_of
from dynackd.tasks.regression import REGRESSION


@pytest.mark.parametrize(("changes", "expected"), [
    ({}, "classification"),
    ({"num_labels": 1}, "regression"),
    ({"num_labels": 1, KIND_KEY: "classification"}, "classification"),  # what dynackd trained it for comes first
    ({"num_labels": 3, "problem_type": "single_label_classification"}, "classification"),
    ({"architectures": ["BertModel"]}, "plain"),
    ({"architectures": ["BertForMaskedLM"]}, "classification"),  # what is loaded as one is refused by what it lacks
])
def test_a_models_kind_is_what_it_was_trained_for_else_what_it_looks_like(changes, expected):
    assert kind_of(tiny_config("bert", **changes)).name == expected


def test_a_kind_that_there_is_not_is_one_sentence():
    with pytest.raises(UserError, match="says dynackd_kind 'tea leaves', which is none of classification, "):
        kind_of(tiny_config("bert", **{KIND_KEY: "tea leaves"}))


def test_the_names_of_the_registry_are_the_kinds_own():
    assert {name: kind.name for name, kind in KINDS.items()} == {name: name for name in KINDS}


@pytest.mark.parametrize(("kind", "outputs"), [(CLASSIFICATION, 3), (REGRESSION, 1)], ids=["class", "number"])
def test_importance_without_labels_takes_the_models_own_answers(kind, outputs):
    model, batch = tiny_model(num_labels=outputs), tiny_batch()
    logits = model(**batch).logits.detach()
    # One above a value, at which itself the loss has no slope.
    answers = logits.argmax(-1) if kind is CLASSIFICATION else logits[:, 0] + 1
    expected = model(**batch, labels=answers).loss
    torch.testing.assert_close(kind.importance_loss(model, batch), expected)
    labels = (answers + 1) % 3 if kind is CLASSIFICATION else answers + 1
    assert torch.equal(kind.importance_loss(model, {**batch, "labels": labels}), model(**batch, labels=labels).loss)
    assert not torch.equal(kind.importance_loss(model, {**batch, "labels": labels}), expected)
