"""How a run was made, for the page's last part: recipe, versions, machines, times, and what it was made from."""

from collections.abc import Mapping
from dataclasses import dataclass

from dynackd.report.judging import part
from dynackd.report.reading import Results, Training
from dynackd.report.tables import Cell, Table, figure, text, titled

SHORT_HASH = 16  # of 64 digits


@dataclass(frozen=True)
class Making:
    """A line about what this is; facts as (name, value); trainings and origins as tables; the last stage's recipe,
    resolved."""

    line: str
    facts: tuple[tuple[str, str], ...]
    trainings: Table | None
    origins: Table | None
    recipe: str


def how_it_was_made(results: Results) -> Making:
    recipe = next((own.recipe for own in reversed(results.trainings) if own.recipe), "")
    return Making(_line(results), tuple(_facts(results)), _trainings(results), _origins(results), recipe)


def _line(results: Results) -> str:
    """The model that all began with, and the kind of task."""
    models = [part(own.origin, key).get("name") for own in results.trainings for key in ("model", "teacher")]
    kinds = [own.origin.get("kind") for own in results.trainings] + [own.about.get("kind") for own in results.students]
    return " · ".join(str(next(filter(None, values))) for values in (kinds, models) if any(values)).replace("_", " ", 1)


def _facts(results: Results) -> list[tuple[str, str]]:
    versions: dict[str, list[str]] = {}
    for training in results.trainings:
        _add(versions, "dynackd", training.origin.get("dynackd"))
    for student in results.students:
        for name, value in part(student.about, "versions").items():
            _add(versions, name, value)
    found = [("versions", ", ".join(f"{name} {' and '.join(values)}" for name, values in versions.items()))]
    minutes = sum(own.seconds or 0 for own in results.trainings) / 60
    found += [("trained for", f"{minutes:,.1f} minutes in all")] if minutes else []
    found += [("trained on", machine) for machine in dict.fromkeys(own.machine for own in results.trainings) if machine]
    machines = dict.fromkeys(own.machine for own in results.measured if own.machine)
    found += [("latencies measured on", machine) for machine in machines]
    processors = dict.fromkeys(
        str(part(facts, "measured_on").get("processor"))
        for student in results.students
        for facts in part(student.about, "files").values()
        if part(facts, "measured_on")
    )
    found += [("8-bit files judged on", processor) for processor in processors]
    for key, name in (("kind", "kind of task"), ("max_length", "longest row in tokens")):
        values = dict.fromkeys(str(own.origin[key]) for own in results.trainings if key in own.origin)
        found += [(name, ", ".join(values))] if values else []
    return [(name, value) for name, value in found if value]


def _add(versions: dict[str, list[str]], name: str, value: object) -> None:
    if value is not None and str(value) not in versions.setdefault(name, []):
        versions[name].append(str(value))


def _trainings(results: Results) -> Table | None:
    rows = [_training_row(own) for own in results.trainings]
    columns = ["stage", "state", "minutes", "steps", "epochs", "last loss"]
    return titled("Trainings", columns, rows) if rows else None


def _training_row(training: Training) -> list[Cell]:
    steps = [row["step"] for row in training.log if isinstance(row.get("step"), int)]
    epochs = [row["epoch"] for row in training.log if isinstance(row.get("epoch"), int | float)]
    losses = [row["loss"] for row in training.log if isinstance(row.get("loss"), int | float)]
    return [
        text(training.name),
        text("finished" if training.finished else "not finished"),
        figure(training.seconds, "{:.1f}", 60),
        figure(max(steps, default=None), "{:,.0f}"),
        figure(max(epochs, default=None), "{:.2f}"),
        figure(losses[-1] if losses else None, "{:.4f}"),
    ]


def _origins(results: Results) -> Table | None:
    """What each stage and student was made from, by name and SHA-256."""
    rows = []
    for training in results.trainings:
        for key, own in training.origin.items():
            if isinstance(own, Mapping) and own.get("sha256"):
                name = own.get("name", f"{own.get('rows', 0):,} rows")
                rows.append([text(training.name), text(key), text(name), _hash(own["sha256"])])
    for student in results.students:
        if student.about.get("teacher_sha256"):
            name, value = student.about.get("teacher", ""), student.about["teacher_sha256"]
            rows.append([text(student.place), text("teacher"), text(name), _hash(value)])
    caption = f"What each was made from; SHA-256, its first {SHORT_HASH} digits"
    return titled(caption, ["of", "what", "name", "hash"], rows) if rows else None


def _hash(value: object) -> Cell:
    return text(str(value)[:SHORT_HASH])
