"""What is compared where a teacher reads other tokens: words, in value and gradient, for each kind's outputs."""

import distill_reference as twins
import torch

from dynackd.distill.settings import DistillationSettings
from dynackd.distill.signals import Student, TeacherSignal, distillation_loss, term_counts
from dynackd.tasks.classification import CLASSIFICATION
from dynackd.tasks.common_words import NUMBERS, THEIRS, read_both
from dynackd.tasks.plain import PLAIN, STATES
from dynackd.tasks.token_classification import TOKEN_CLASSIFICATION

RELATIONS = {"wr_pair": 1.0, "wr_triple": 1.0, "ltr_pair": 1.0, "ltr_triple": 1.0}


def words_of(*rows):
    """A batch's tensor of word numbers."""
    return torch.tensor(rows)


def made_loss(settings, ours, theirs, batch, common=None):
    """Value, terms and the gradient of the student's states [batch, layers, length, hidden]."""
    ours = ours.clone().requires_grad_()
    outputs = {"logits": ours[:, -1, 0, :2]}
    known = {"logits": theirs[:, -1, 0, :2]}
    signal = TeacherSignal(settings, CLASSIFICATION, known, list(theirs.unbind(1)), batch, common)
    student = Student(outputs, ours.unbind(1), tuple(range(ours.shape[1] - 1)))
    total, (terms,) = distillation_loss(settings, [student], signal)
    total.backward()
    return total.detach(), terms, ours.grad


def test_words_that_are_tokens_have_the_loss_and_gradient_of_tokens():
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    ours, theirs = (torch.randn(2, 3, 5, size, generator=generator) for size in (8, 12))
    numbers = words_of([0, 1, 2, 3, 4], [0, 1, 2, -1, -1])
    both = {"attention_mask": mask, NUMBERS: numbers, THEIRS + "attention_mask": mask, THEIRS + NUMBERS: numbers}
    own, common = read_both(both)
    settings = DistillationSettings(weights={**RELATIONS, "logits": 1.0})
    usual, terms, grad = made_loss(settings, ours, theirs, own)
    found, in_words, grad_in_words = made_loss(settings, ours, theirs, own, common)
    assert torch.equal(found, usual)
    assert all(torch.equal(in_words[name], terms[name]) for name in terms)
    torch.testing.assert_close(grad_in_words, grad, atol=1e-9, rtol=1e-6)
    assert term_counts(settings, CLASSIFICATION, both) == term_counts(settings, CLASSIFICATION, own)


def test_relations_are_those_of_the_slow_twin_between_the_means_of_pieces():
    generator = torch.Generator().manual_seed(1)
    own_numbers = words_of([0, 1, 1, -1, 2, 3, 4, 4], [0, 0, 1, 2, -1, -1, -1, -1])
    their_numbers = words_of([0, -1, 1, 2, 2, 2, 3, 4, -1, -1], [-1, 0, 1, 1, 2, -1, -1, -1, -1, -1])
    ours = torch.randn(2, 3, 8, 6, generator=generator, dtype=torch.float64)
    theirs = torch.randn(2, 3, 10, 9, generator=generator, dtype=torch.float64)
    theirs[0, :, 8:] = torch.nan  # whatever stands at pieces of no word
    both = {"attention_mask": (own_numbers >= 0).long(), NUMBERS: own_numbers, THEIRS + NUMBERS: their_numbers}
    own, common = read_both(both)

    def pooled(states, numbers):
        rows = []
        for row, some in zip(states, numbers.tolist(), strict=True):
            pieces = [[place for place, n in enumerate(some) if n == word] for word in range(5)]
            rows.append([[sum(layer[place] for place in of) / max(1, len(of)) + layer.new_zeros(layer.shape[-1])
                          for of in pieces] for layer in row])
        return torch.stack([torch.stack([torch.stack(layer) for layer in row]) for row in rows])

    for name in RELATIONS:
        settings = DistillationSettings(weights={name: 1.0}, window=3)
        found, _, grad = made_loss(settings, ours, theirs, own, common)
        leaf = ours.clone().requires_grad_()
        options = {"window": 3} if name == "wr_triple" else {}
        mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
        expected = getattr(twins, name)(pooled(leaf, own_numbers), pooled(theirs, their_numbers), mask, **options)
        expected.backward()
        torch.testing.assert_close(found, expected.detach(), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(grad, leaf.grad, rtol=1e-8, atol=1e-10)


def test_a_batch_without_common_words_learns_nothing_of_relations():
    none = words_of([-1, -1, -1])
    own, common = read_both({"attention_mask": torch.ones(1, 3), NUMBERS: none, THEIRS + NUMBERS: none})
    ours, theirs = torch.randn(1, 3, 3, 4), torch.randn(1, 3, 3, 5)
    total, _, grad = made_loss(DistillationSettings(weights=RELATIONS), ours, theirs, own, common)
    assert float(total) == 0
    assert not grad.any()


def test_plain_states_are_compared_word_by_word_and_tags_at_first_pieces():
    own_numbers, their_numbers = words_of([0, 1, 1, 2], [0, 1, 2, -1]), words_of([0, 1, 2], [0, 1, 2])
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(2, length, 4, generator=generator) for length in (4, 3))
    batch = {"attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])}
    own, common = read_both({**batch, NUMBERS: own_numbers, THEIRS + NUMBERS: their_numbers})
    means = torch.stack([torch.stack([ours[0, 0], ours[0, 1:3].mean(0), ours[0, 3]]), ours[1, :3]])
    expected = (1 - torch.cosine_similarity(means, theirs, dim=-1)).mean()
    outputs = [PLAIN.in_words({STATES: x}, places) for x, places in ((ours, common.own), (theirs, common.theirs))]
    found = PLAIN.output_loss(*outputs, PLAIN.batch_in_words(own, common), 1.0)
    torch.testing.assert_close(found, expected)
    # The second word of the first row has no tag of its own, nor have the ends.
    kind = TOKEN_CLASSIFICATION
    labels = torch.tensor([[-100, 1, -100, 0], [-100, 0, -100, -100]])
    batch = kind.batch_in_words({**own, "labels": labels}, common)
    assert batch["attention_mask"].tolist() == [[0, 1, 1], [0, 1, 0]]
    outputs = [kind.in_words({"logits": x}, places) for x, places in ((ours, common.own), (theirs, common.theirs))]
    rows = torch.stack([ours[0, 1], ours[0, 3], ours[1, 1]]), torch.stack([theirs[0, 1], theirs[0, 2], theirs[1, 1]])
    expected = -(rows[1].softmax(-1) * rows[0].log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(kind.output_loss(*outputs, batch, 1.0), expected)
    assert kind.output_count(batch) == 3
