"""Labels that do not meet a model's outputs, and what a recipe and a config say of them."""

import json
from collections.abc import Callable
from pathlib import Path

from bad_inputs import Bad

WIDTH = "train-width {d}/fresh.yaml --set teacher={d}/run/teacher"
OWN = "task 'custom' is a classification"


def named(**changes: object) -> Callable[[Path], None]:
    """The teacher's config.json with other keys, and without what dynackd noted of its data."""

    def change(directory: Path) -> None:
        file = directory / "run" / "teacher" / "config.json"
        config = json.loads(file.read_text())
        for key in ("id2label", "label2id", "dynackd_labels"):
            config.pop(key, None)
        file.write_text(json.dumps(config | changes))

    return change


def relabelled(train: tuple[str, str], validation: tuple[str, str], **changes: object) -> Callable[[Path], None]:
    """The data with other words for 0 and 1, the teacher's config changed as above."""

    def change(directory: Path) -> None:
        for name, words in (("train", train), ("validation", validation)):
            file = directory / f"{name}.tsv"
            head, *lines = file.read_text().splitlines()
            rows = [line.rpartition("\t") for line in lines]
            file.write_text("\n".join([head, *(f"{text}\t{words[int(label)]}" for text, _, label in rows)]) + "\n")
        named(**changes)(directory)

    return change


def rows_of_their_own(directory: Path) -> None:
    (directory / "train.tsv").write_text("sentence\tlabel\na\ta\nb\tb\nc\tc\nd\td\n")


def texts_of_labels(directory: Path) -> None:
    (directory / "train.tsv").write_text("sentence\tlabel\nx\ta|b\ny\ta||b\n")


def columns_of_labels(directory: Path) -> None:
    (directory / "train.tsv").write_text("sentence\tlabel\tother\nx\t0\t1\ny\t1\tyes\n")


WORDS = ("neg", "pos")
MULTI = "finetune {d}/fresh.yaml --set task.kind=multi_label"
CASES = [
    Bad(
        "a classifier for several labels",
        WIDTH + " --set task.kind=multi_label",
        "task 'custom' is a multi_label, but the model's problem_type is single_label_classification",
    ),
    Bad(
        "texts of labels without what stands between them",
        MULTI,
        "{d}/train.tsv, data row 1, column 'label': expected a list of labels, got the text 'a|b'; say in "
        "task.separator what stands between its labels",
        texts_of_labels,
    ),
    Bad(
        "nothing between two separators",
        MULTI + " --set task.separator='|'",
        "{d}/train.tsv, data row 2, column 'label': expected names of labels, but one of 'a||b' is ''",
        texts_of_labels,
    ),
    Bad(
        "one column for several labels",
        MULTI + " --set task.label=[label]",
        "{d}/fresh.yaml: task.label: expected the column of the labels, or two or more different columns of 0 and 1, "
        "got ['label']",
    ),
    Bad(
        "a column of a label with words in it",
        MULTI + " --set task.label=[label,other]",
        "{d}/train.tsv, data row 2, column 'other': expected 0 or 1, got 'yes'",
        columns_of_labels,
    ),
    Bad(
        "a separator for columns of 0 and 1",
        MULTI + " --set task.label=[label,other] --set task.separator='|'",
        "{d}/fresh.yaml: task.separator: columns of 0 and 1 have none; remove it",
    ),
    Bad(
        "labels of several labels smoothed",
        MULTI + " --set stages.finetune.training.label_smoothing_factor=0.1",
        "{d}/fresh.yaml: stages.finetune.training.label_smoothing_factor is not possible for a multi_label: it smooths "
        "one label a row; remove it",
    ),
    Bad(
        "words for the labels, and a teacher that does not name its outputs",
        WIDTH,
        "{d}/train.tsv, column 'label': nothing says which of the labels neg, pos is which of the model's outputs "
        "(LABEL_0, LABEL_1); say so in the recipe, task.labels: {neg: 0, pos: 1} or another order",
        relabelled(WORDS, WORDS),
    ),
    Bad(
        "other words than the teacher's",
        WIDTH,
        "{d}/train.tsv, column 'label': the labels neg, pos are not the model's, which are bad, good; say which is "
        "which in the recipe, task.labels: {neg: NAME, pos: NAME} with the model's NAME for each",
        relabelled(WORDS, WORDS, id2label={0: "bad", 1: "good"}),
    ),
    Bad(
        "labels that count from 1",
        WIDTH,
        "{d}/train.tsv, column 'label': label 2 does not fit the model, whose 2 outputs are numbered 0 to 1 (LABEL_0, "
        "LABEL_1); say which is which in task.labels: {1: 0, 2: 1}, if that is what they mean",
        relabelled(("1", "2"), ("1", "2")),
    ),
    Bad(
        "labels that leave a gap, for a new head",
        "finetune {d}/fresh.yaml",
        "{d}/train.tsv, column 'label': labels 1, 2 leave gaps; whole numbers must run from 0 to 1, or write "
        "task.labels: {1: 0, 2: 1}",
        relabelled(("1", "2"), ("1", "2")),
    ),
    Bad(
        "id2label and label2id disagree",
        WIDTH,
        "{d}/run/teacher, config.json: id2label calls output 0 'pos', but label2id calls it 'neg'; make the two agree",
        named(id2label={0: "pos", 1: "neg"}, label2id={"neg": 0, "pos": 1}),
    ),
    Bad(
        "a config with more names than the model has outputs",
        WIDTH,
        "{d}/run/teacher: config.json names 3 outputs (a, b, c), but the weights have 2",
        named(id2label={0: "a", 1: "b", 2: "c"}),
    ),
    Bad(
        "num_labels against id2label",
        WIDTH,
        "{d}/run/teacher, config.json: num_labels is 4, but the labels name 2 outputs (a, b); make the two agree",
        named(id2label={0: "a", 1: "b"}, num_labels=4),
    ),
    Bad(
        "a multi-label teacher",
        WIDTH + " --set importance.score=magnitude",
        f"{OWN}, but the model's problem_type is multi_label_classification",
        named(problem_type="multi_label_classification"),
    ),
    Bad(
        "a multi-label teacher, to label new rows",
        "augment {d}/fresh.yaml --set teacher={d}/run/teacher",
        f"{OWN}, but the model's problem_type is multi_label_classification",
        named(problem_type="multi_label_classification"),
    ),
    Bad(
        "a regression's teacher for classes",
        WIDTH,
        f"{OWN}, but the model's problem_type is regression",
        named(problem_type="regression"),
    ),
    Bad(
        "a regression whose teacher has two outputs",
        WIDTH + " --set task.kind=regression",
        "task 'custom' is a regression and needs a model with 1 output, but the model has 2 (LABEL_0, LABEL_1)",
        named(problem_type="regression"),
    ),
    Bad(
        "a classifier for a regression",
        WIDTH + " --set task.kind=regression",
        "task 'custom' is a regression, but the model's problem_type is single_label_classification",
        named(),
    ),
    Bad(
        "a class that the model does not have",
        WIDTH + " --set task.labels.0=god --set task.labels.1=bad",
        "task.labels: '0' is given 'god', which is none of the model's classes (good, bad), did you mean 'good'?",
        named(id2label={0: "good", 1: "bad"}),
    ),
    Bad(
        "a class number that the model does not have",
        WIDTH + " --set task.labels.0=0 --set task.labels.1=2",
        "task.labels: '1' is given class 2, but the model has 2 outputs, numbered 0 to 1 (LABEL_0, LABEL_1)",
        named(),
    ),
    Bad(
        "a label of the data that the map lacks",
        "finetune {d}/fresh.yaml --set task.labels.neg=0 --set task.labels.poss=1",
        "{d}/train.tsv, column 'label': the label 'pos' (19 rows) is not in task.labels, which has neg, poss, did you "
        "mean 'poss'?",
        relabelled(WORDS, WORDS),
    ),
    Bad(
        "a map without classes",
        "finetune {d}/fresh.yaml --set task.labels=yes",
        "{d}/fresh.yaml: task.labels: expected a map such as {negative: 0, positive: 1}, or a list of names in the "
        "order of the class ids, got 'yes'",
    ),
    Bad(
        "one class for all labels",
        "finetune {d}/fresh.yaml --set task.labels.a=0 --set task.labels.b=0",
        "{d}/fresh.yaml: task.labels: a classification needs two classes or more, got 1",
    ),
    Bad(
        "labels for a regression",
        "finetune {d}/fresh.yaml --set task.kind=regression --set task.labels=[a,b]",
        "{d}/fresh.yaml: task.labels: a regression has no classes; remove it",
    ),
    Bad(
        "a name twice",
        "finetune {d}/fresh.yaml --set task.labels=[a,b,a]",
        "{d}/fresh.yaml: task.labels names 'a' twice",
    ),
    Bad(
        "words in training, numbers in validation",
        "finetune {d}/fresh.yaml",
        "{d}/validation.tsv, data row 1, column 'label': label '0' is none of the known labels (neg, pos); correct it, "
        "or say which class it is, task.labels: {0: CLASS, neg: 0, pos: 1}",
        relabelled(WORDS, ("0", "1")),
    ),
    Bad(
        "labels in two cases",
        "finetune {d}/fresh.yaml",
        "{d}/train.tsv, column 'label': the labels 'Pos' (29 rows) and 'pos' (19 rows) differ in case only; write one "
        "of them, or say in task.labels which class each is",
        relabelled(("Pos", "pos"), ("Pos", "pos")),
    ),
    Bad(
        "every row a class of its own, and a share to hold out",
        "finetune {d}/fresh.yaml --set data.validation=null --set data.validation_share=0.5",
        "{d}/train.tsv: 4 rows are too few to cut off a validation_share of 0.5, since every class keeps a row in "
        "training",
        rows_of_their_own,
    ),
]
