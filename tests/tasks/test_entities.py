"""Tags against values counted by hand: what an entity is, and what is found of it."""

import numpy as np
import pytest

from dynackd.tasks.entities import Tagged, marks_entities
from dynackd.tasks.parts import ClassScore


def tagged(names, gold, predicted):
    """Rows of tags as names; "-" is a word that got no tag."""
    names = names.split()

    def ids(rows):
        return np.array([-1 if tag == "-" else names.index(tag) for row in rows for tag in row.split()])

    return Tagged(names, ids(gold), ids(predicted), np.array([len(row.split()) for row in gold]))


BIO = "O B-per I-per B-loc I-loc"


def test_entities_are_found_whole_or_not_at_all():
    # gold: per(0-1), loc(3); per(0-2). predicted: per(0-1), loc(2-3); per(0-1).
    found = tagged(BIO, ["B-per I-per O B-loc", "B-per I-per I-per"], ["B-per I-per B-loc I-loc", "B-per I-per O"])
    assert found.scores() == pytest.approx(
        {"precision": 1 / 3, "recall": 1 / 3, "f1": 1 / 3, "f1_macro": 0.25, "accuracy": 4 / 7}
    )
    assert found.per_class() == {"loc": ClassScore(0.0, 1), "per": ClassScore(0.5, 2)}


def test_a_row_ends_an_entity():
    apart = tagged(BIO, ["O B-per", "I-per O"], ["O B-per", "I-per O"])
    assert apart.per_class()["per"].count == 2
    together = tagged(BIO, ["O B-per I-per O"], ["O B-per I-per O"])
    assert together.per_class()["per"].count == 1


def test_a_word_without_a_tag_counts_as_o_and_ends_its_entity():
    found = tagged(BIO, ["B-per I-per I-per O"], ["B-per I-per - -"])
    assert found.scores() == pytest.approx({"precision": 0, "recall": 0, "f1": 0, "f1_macro": 0, "accuracy": 3 / 4})


def test_a_type_that_is_predicted_but_nowhere_right_lowers_precision_and_is_no_type_of_the_rows():
    found = tagged(BIO, ["B-per O"], ["B-per B-loc"])
    assert found.per_class() == {"per": ClassScore(1.0, 1)}
    assert found.scores() == pytest.approx(
        {"precision": 0.5, "recall": 1, "f1": 2 / 3, "f1_macro": 1, "accuracy": 0.5}
    )


def test_nothing_to_find_and_nothing_found_is_0_without_a_warning():
    assert tagged(BIO, ["O O"], ["O O"]).scores() == {
        "precision": 0, "recall": 0, "f1": 0, "f1_macro": 0, "accuracy": 1}  # fmt: skip


@pytest.mark.parametrize(("names", "gold", "types"), [
    ("O I-a I-b", "I-a I-a I-b O I-a", {"a": 2, "b": 1}),  # IOB1 without B-
    ("O B-a I-a E-a S-a", "S-a S-a B-a I-a E-a", {"a": 3}),  # IOBES
    ("O B-a I-a L-a U-a", "U-a U-a B-a I-a L-a", {"a": 3}),  # BILOU
    ("O B-a M-a E-a S-a", "S-a B-a M-a E-a B-a E-a", {"a": 3}),  # BMES
    ("O B I", "B I O B B", {"entity": 3}),  # one type that has no name
    ("O B-creative-work I-creative-work", "B-creative-work I-creative-work", {"creative-work": 1}),
])  # fmt: skip
def test_every_scheme_of_marking_entities(names, gold, types):
    assert marks_entities(names.split())
    found = tagged(names, [gold], [gold])
    assert {name: score.count for name, score in found.per_class().items()} == types
    assert found.scores()["f1"] == 1


@pytest.mark.parametrize("names", ["NOUN VERB", "O PER LOC", "O B-per PER", "E-mail O", "B I X", "O", "O B I-per"])
def test_other_tags_mark_no_entities(names):
    assert not marks_entities(names.split())


def test_tags_that_mark_nothing_are_counted_by_word():
    # PER: 1 of 2 found, 1 of 2 right; LOC: 1 of 1 found, 1 of 2 right. A word without a tag is O.
    found = tagged("O PER LOC", ["PER PER O LOC O", "O"], ["PER - LOC LOC O", "PER"])
    assert found.scores() == pytest.approx(
        {"precision": 2 / 4, "recall": 2 / 3, "f1": 4 / 7, "f1_macro": (1 / 2 + 2 / 3) / 2, "accuracy": 3 / 6}
    )
    assert found.per_class() == {"PER": ClassScore(0.5, 2), "LOC": ClassScore(pytest.approx(2 / 3), 1)}


def test_a_word_without_a_tag_is_wrong_where_there_is_no_o():
    assert tagged("NOUN VERB", ["NOUN VERB"], ["NOUN -"]).scores() == pytest.approx(
        {"precision": 1, "recall": 0.5, "f1": 2 / 3, "f1_macro": 0.5, "accuracy": 0.5}
    )
