"""The tasks that a recipe may name: those of GLUE. A new one is one entry."""

from dynackd.data.sources import GLUE
from dynackd.tasks.classification import CLASSIFICATION
from dynackd.tasks.kind import Task
from dynackd.tasks.regression import REGRESSION

ENTAILED = ("entailment", "not_entailment")
PAIR = ("sentence1", "sentence2")
MNLI_SPLITS = {"": "validation_matched", "_mm": "validation_mismatched"}

# Columns, label names and their order are those of `nyu-mll/glue` on the hub, metrics those of GLUE's leaderboard.
TASKS: dict[str, Task] = {
    "cola": Task("cola", ("sentence",), "label", CLASSIFICATION, ("matthews_correlation",),
                 ("unacceptable", "acceptable"), (GLUE, "cola")),
    "sst2": Task("sst2", ("sentence",), "label", CLASSIFICATION, ("accuracy",),
                 ("negative", "positive"), (GLUE, "sst2")),
    "mrpc": Task("mrpc", PAIR, "label", CLASSIFICATION, ("accuracy", "f1"),
                 ("not_equivalent", "equivalent"), (GLUE, "mrpc")),
    "qqp": Task("qqp", ("question1", "question2"), "label", CLASSIFICATION, ("accuracy", "f1"),
                ("not_duplicate", "duplicate"), (GLUE, "qqp")),
    "stsb": Task("stsb", PAIR, "label", REGRESSION, ("pearson", "spearmanr"), None, (GLUE, "stsb")),
    "mnli": Task("mnli", ("premise", "hypothesis"), "label", CLASSIFICATION, ("accuracy",),
                 ("entailment", "neutral", "contradiction"), (GLUE, "mnli"), validation_splits=MNLI_SPLITS),
    "qnli": Task("qnli", ("question", "sentence"), "label", CLASSIFICATION, ("accuracy",), ENTAILED, (GLUE, "qnli")),
    "rte": Task("rte", PAIR, "label", CLASSIFICATION, ("accuracy",), ENTAILED, (GLUE, "rte")),
}
