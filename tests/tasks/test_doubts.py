"""What a teacher's own answers say against it, of the kinds whose labels are no classes."""

from collections import Counter

import numpy as np
from datasets import Dataset

from dynackd.data.labels import LabelMap
from dynackd.measure.teacher_check import _sampled
from dynackd.tasks.classification import CLASSIFICATION
from dynackd.tasks.embedding import EMBEDDING, SCORES
from dynackd.tasks.multi_label import MULTI_LABEL
from dynackd.tasks.question_answering import LENGTHS, POSITIONS, QUESTION_ANSWERING
from dynackd.tasks.ranking import GROUP, RANKING
from dynackd.tasks.spans import OUTSIDE
from dynackd.tasks.windows import ROW, STARTS

WORDS = ("joy", "fear", "none has it")
NAMES = LabelMap(WORDS, {name: i for i, name in enumerate(WORDS)}, "by name", WORDS)


def test_an_embedder_whose_nearness_hardly_follows_the_scores_is_told():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(200, 8))
    first, second = vectors[0::2], vectors[1::2]
    near = (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)

    def doubt(scores):
        labels = {"row": np.repeat(np.arange(100), 2)}
        if scores is not None:
            labels[SCORES] = np.repeat(scores, 2)
        return EMBEDDING.doubt({"sentence_embedding": vectors}, labels, None)

    assert "the teacher's values hardly follow the data's" in doubt(rng.permutation(near)).told
    assert "fall where the data's rise" in doubt(-near).told
    assert doubt(near) is None
    assert doubt(None) is None


def test_a_multi_label_teacher_that_hardly_finds_the_labels_is_told():
    """Most decisions are "no", so that nearly all are right by chance; a label that no row has tells nothing."""
    rng, names = np.random.default_rng(0), NAMES
    labels = (rng.random((400, 3)) < (0.05, 0.4, 0)).astype(float)

    def doubt(follows, rows=400):
        """Of decisions that follow the data's on this share of the rows, and are of any row else."""
        answers = np.where(rng.random((400, 1)) < follows, labels, rng.permutation(labels))
        return MULTI_LABEL.doubt({"logits": answers[:rows] - 0.5}, {"labels": labels[:rows]}, names), answers

    found, answers = doubt(0.1)
    right = int((answers == labels)[:, :2].sum())
    assert found.told.startswith(f"the teacher decides {right} of 800 times as the data say whether a row has a ")
    assert "%), where its decisions dealt out at random would do so in 7" in found.told
    assert "it has hardly learned the task" in found.told
    assert not found.certain
    assert doubt(0.5)[0] is None
    assert doubt(0.1, 40)[0] is None, "too few rows to say so"


def test_a_rerankers_teacher_that_hardly_orders_passages_is_told():
    """Whatever it thinks of other queries' passages: of different queries no two scores are compared."""
    rng = np.random.default_rng(0)
    relevance, group, noise = np.arange(300) % 5 // 4 * 3.0, np.arange(300) // 5, rng.normal(size=300)

    def doubt(scores, relevance=relevance, queries=60):
        labels = {"labels": relevance[: 5 * queries], GROUP: group[: 5 * queries]}
        return RANKING.doubt({"logits": scores[: 5 * queries, None]}, labels, None)

    def share(scores):
        return np.mean([high > low for high, others in zip(scores[4::5], scores.reshape(60, 5)[:, :4], strict=True)
                        for low in others])

    weak = noise + 0.03 * relevance
    assert 0.5 < share(weak) < 0.6
    found = doubt(weak)
    assert found.told.startswith(f"the teacher puts the more relevant one of two passages first {share(weak):.0%} of "
                                 "the times (mean over 60 queries), where chance would half of them: it has hard")
    assert not found.certain
    assert 0.6 < share(noise + 0.2 * relevance) < 0.75
    assert doubt(noise + 0.2 * relevance) is None, "a small lead is enough"
    assert doubt(relevance + np.repeat(rng.normal(size=60) * 50, 5)) is None, "each query is in order"
    assert doubt(noise, np.full(300, 0.7, np.float32)) is None, "no order is better than another"
    assert doubt(weak, queries=19) is None, "too few queries to say so"
    assert "50% of the times" in doubt(0 * relevance + np.repeat(noise[:60], 5)).told, "equal scores are no order"


def test_whole_queries_are_sampled_so_that_there_is_something_to_compare():
    rows = Dataset.from_dict({GROUP: np.random.default_rng(0).permutation(np.arange(3000) // 20), "n": range(3000)})
    sample = _sampled(rows, GROUP, 0)
    assert 480 < len(sample) <= 512
    assert set(Counter(sample[GROUP][:]).values()) == {20}
    assert sample[:] == _sampled(rows, GROUP, 0)[:] != _sampled(rows, GROUP, 1)[:]
    assert len(_sampled(Dataset.from_dict({GROUP: [3] * 600}), GROUP, 0)) == 600, "one query is not parted"
    assert len(_sampled(rows.remove_columns(GROUP), GROUP, 0)) == len(_sampled(rows, None, 0)) == 512


def test_a_teacher_whose_answers_lie_elsewhere_is_told():
    """Only windows that hold an answer count: a window without one points to its first token."""
    places = np.array([[0, 0], [10, 11]] * 60)
    context = np.where(np.arange(24) < 20, np.arange(24), OUTSIDE)  # four tokens of padding
    context[:4] = OUTSIDE  # and the question's

    def doubt(answers, places=places):
        logits = [np.eye(24)[own] for own in answers.T]
        for own in logits:
            own[:, 21] = 9  # of which nothing was learned
        lengths = {LENGTHS: np.full(len(answers), 24)}
        outputs = {name: own.reshape(-1) for name, own in zip(("start_logits", "end_logits"), logits, strict=True)}
        labels = dict(zip(POSITIONS, places.T, strict=True)) | {STARTS: np.tile(context, len(answers))}
        return QUESTION_ANSWERING.doubt(outputs | lengths, labels | lengths, None)

    elsewhere = np.where(places == 0, 0, 5)
    found = doubt(elsewhere)
    assert found.told.startswith("the teacher's answers share 0% of their tokens (F1) with the data's, in the 60 "
                                 "windows that hold one: it has hardly learned the task")
    assert not found.certain
    assert doubt(places + np.array([0, 1])) is None
    some = np.where(np.arange(120)[:, None] < 20, places + np.array([0, 4]), 5)  # 2 of 2 and 6: .5, of 10 windows of 60
    assert "share 8%" in doubt(some).told
    assert doubt(elsewhere[:80], places[:80]) is None, "too few windows to say so"
    without = {"start_logits": np.zeros(1200), "end_logits": np.zeros(1200), LENGTHS: np.full(60, 20)}
    assert QUESTION_ANSWERING.doubt(without, {ROW: np.arange(60)}, None) is None, "no answers to compare with"


def test_of_rows_that_are_hardly_of_another_class_nothing_is_told():
    """To miss three rare rows is chance."""
    def found(rare, kind=CLASSIFICATION):
        labels = (np.arange(500) < rare).astype(int)
        logits = np.linspace(0, 1, 500)[:, None] * (0.5, 0.5) + (1, 0)
        logits[-1] = 0, 1  # once the other class
        return kind.doubt({"logits": logits}, {"labels": labels}, NAMES)

    assert found(3) is None
    assert "it has hardly learned" in found(12).told
