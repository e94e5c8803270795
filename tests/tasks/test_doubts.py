"""What a teacher's own answers say against it, of the kinds whose labels are no classes."""

import numpy as np

from dynackd.data.labels import LabelMap
from dynackd.tasks.multi_label import MULTI_LABEL
from dynackd.tasks.question_answering import LENGTHS, POSITIONS, QUESTION_ANSWERING
from dynackd.tasks.ranking import RANKING
from dynackd.tasks.windows import ROW

WORDS = ("joy", "fear", "none has it")
NAMES = LabelMap(WORDS, {name: i for i, name in enumerate(WORDS)}, "by name", WORDS)


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
    rng = np.random.default_rng(0)
    relevance, noise = np.arange(300) % 5 // 4 * 3.0, rng.normal(size=300)

    def doubt(scores, relevance=relevance):
        return RANKING.doubt({"logits": scores[:, None]}, {"labels": relevance}, None)

    found = doubt(noise + 0.05 * relevance)
    area = np.mean([high > low for high in (noise + 0.05 * relevance)[relevance > 0]
                    for low in (noise + 0.05 * relevance)[relevance == 0]])
    assert 0.5 < area < 0.6
    assert found.told.startswith(f"the teacher scores a passage of more relevance above one of less {area:.0%} of the "
                                 "times (300 pairs), where chance would half of them: it has hardly learned")
    assert not found.certain
    assert doubt(noise + 0.25 * relevance) is None, "of five passages one is relevant: a small correlation is enough"
    assert doubt(noise, 0 * relevance) is None
    assert doubt(noise[:40], relevance[:40]) is None, "too few pairs to say so"


def test_a_teacher_whose_answers_lie_elsewhere_is_told():
    """Only windows that hold an answer count: a window without one points to its first token."""
    places = np.array([[0, 0], [10, 11]] * 60)

    def doubt(answers, places=places):
        logits = [np.eye(20)[own] for own in answers.T]
        outputs = {name: own.reshape(-1) for name, own in zip(("start_logits", "end_logits"), logits, strict=True)}
        labels = dict(zip(POSITIONS, places.T, strict=True))
        return QUESTION_ANSWERING.doubt(outputs | {LENGTHS: np.full(len(answers), 20)}, labels, None)

    found = doubt(0 * places)
    assert found.told.startswith("the teacher's answers share 0% of their tokens (F1) with the data's, in the 60 "
                                 "windows that hold one: it has hardly learned the task")
    assert not found.certain
    assert doubt(places + np.array([0, 1])) is None
    backwards = doubt(places[:, ::-1] + np.array([1, -1]))  # it ends before it starts
    assert "share 0%" in backwards.told
    some = np.where(np.arange(120)[:, None] < 20, places + np.array([0, 4]), 1)  # 2 of 2 and 6: .5, of 10 windows of 60
    assert "share 8%" in doubt(some).told
    assert doubt(0 * places[:80], places[:80]) is None, "too few windows to say so"
    without = {"start_logits": np.zeros(1200), "end_logits": np.zeros(1200), LENGTHS: np.full(60, 20)}
    assert QUESTION_ANSWERING.doubt(without, {ROW: np.arange(60)}, None) is None, "no answers to compare with"
