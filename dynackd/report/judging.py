"""By which metric a run is told, how a value compares with the teacher's, and what each student and file scored."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from dynackd.errors import one_of
from dynackd.report.reading import Facts, Results, Student

# Of fidelities, and of metrics where a table of an older version does not say so itself.
LESS_IS_BETTER = frozenset({"mse", "rmse", "kl"})
WRITTEN = {
    **{"f1": "F1", "map": "MAP", "mse": "MSE", "rmse": "RMSE", "kl": "KL", "ndcg@10": "nDCG@10", "mrr@10": "MRR@10"},
    **{"spearmanr": "Spearman correlation", "pearson": "Pearson correlation"},
    "matthews correlation": "Matthews correlation",
}
FLOAT_FILE = "onnx/model.onnx"


@dataclass(frozen=True)
class Judge:
    """The metric that counts, its value for the teacher (None where there is none) and those that should be small.

    of_fidelity: the rows had no labels; the metric says how closely the teacher is followed.
    """

    metric: str
    teacher: float | None
    lower: frozenset[str]
    of_fidelity: bool = False

    def share(self, value: float | None) -> float | None:
        """What part of the teacher's metric a value is; None where that says nothing."""
        return self.share_of(value, self.teacher)

    def share_of(self, value: float | None, teacher: float | None) -> float | None:
        """As `share`, of what a teacher scored on other rows."""
        if value is None or teacher is None or min(value, teacher) <= 0:
            return None
        return teacher / value if self.metric in self.lower else value / teacher

    def of(self, facts: Facts) -> float | None:
        """The metric in what holds `metrics` and `fidelity`."""
        return number(part(facts, "fidelity" if self.of_fidelity else "metrics").get(self.metric))

    def better(self, value: float) -> float:
        """Larger is better."""
        return -value if self.metric in self.lower else value


def judge_of(results: Results, metric: str | None = None) -> Judge:
    """By the metric of this name, or the task's main one, which is the first of an older version's table. Raises
    `UserError` for a name that these results do not have."""
    finetuned = results.training("teacher")
    evaluation: Facts = results.judged.evaluation if results.judged else {}
    exported = [part(own.about, "metrics") for own in results.students]
    of_teacher = _first(
        part(part(evaluation, "teacher"), "metrics"),
        *(part(own, "teacher") for own in exported),
        finetuned.metrics if finetuned else {},
    )
    labelled = _first(of_teacher, *(part(own, "student") for own in exported))
    rows = evaluation.get("subnetworks") or [{}]
    names = _first(labelled, part(rows[0], "fidelity"), *(part(own, "fidelity") for own in exported))
    if metric is not None:
        one_of("--metric", metric, names)
    main = metric or evaluation.get("main_metric")
    main = str(main if main in names else next(iter(names), "metric"))
    lower = LESS_IS_BETTER.union(evaluation.get("lower_is_better", ()))
    return Judge(main, number(of_teacher.get(main)), lower, of_fidelity=not labelled)


def _first(*tables: Mapping[str, Any]) -> Mapping[str, Any]:
    return next((table for table in tables if table), {})


class Score(NamedTuple):
    """A metric's value, and what part it is of what the teacher scored on the same rows; None where not known."""

    value: float | None
    share: float | None


def score_of(student: Student, file: str, judge: Judge, results: Results) -> Score:
    """What a student's file ("" for its own model and its float32 graph) scored, as far as that was measured: at the
    export, else when its sub-network was trained."""
    files = part(student.about, "files")
    own = number(part(part(files, file or FLOAT_FILE), "metrics").get(judge.metric))
    exported = part(student.about, "metrics")
    if own is None and file in ("", FLOAT_FILE):
        own = number(part(exported, "fidelity" if judge.of_fidelity else "student").get(judge.metric))
        if own is None:
            row = row_of(student, results)
            value = judge.of(row) if row else None
            return Score(value, judge.share(value))
    return exported_score(own, student, judge, results)


def exported_score(value: float | None, student: Student, judge: Judge, results: Results) -> Score:
    """A value that an export measured, of rows that need not be the run's."""
    exported = part(student.about, "metrics")
    teacher = number(part(exported, "teacher").get(judge.metric))
    if teacher is None and _same_rows(exported, results):
        teacher = judge.teacher
    return Score(value, judge.share_of(value, teacher))


def _same_rows(exported: Facts, results: Results) -> bool:
    """Whether an export was measured on as many rows as the stages, as far as that is known."""
    rows = part(results.judged.origin, "validation").get("rows") if results.judged else None
    told = exported.get("rows")
    return not isinstance(rows, int) or not isinstance(told, str) or f" {rows:,} " in told


def row_of(student: Student, results: Results) -> Facts | None:
    """The trained sub-network that a student was cut from. Its parameters are no sign of that where words were left out
    of its vocabulary."""
    rows = results.judged.evaluation["subnetworks"] if results.judged else []
    key = [student.about.get(name) for name in ("heads", "neurons", "layers")]
    same = [row for row in rows if [row.get(name) for name in ("heads", "neurons", "layers")] == key]
    if student.about.get("vocabulary"):
        size = _size(student.about)
        return next((row for row in same if _size(row) == size), None)
    return next((row for row in same if row.get("parameters") == student.about.get("parameters")), None)


def _size(facts: Facts) -> list[float | None]:
    """Width, depth and hidden size, as shares."""
    return [number({"hidden": 1.0, **facts}.get(name)) for name in ("width", "depth", "hidden")]


def part(facts: Facts, key: str) -> Mapping[str, Any]:
    """The mapping at a key; empty where there is none."""
    own = facts.get(key)
    return own if isinstance(own, Mapping) else {}


def number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < float("inf") else None


def name_of_metric(name: str) -> str:
    """As people write it: f1_micro as "F1 micro"."""
    words = name.replace("_", " ")
    return WRITTEN.get(words, "F1" + words[2:] if words.startswith("f1 ") else words)
