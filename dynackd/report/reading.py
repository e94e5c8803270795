"""What lies in a run's directory, read as data: whatever a stage, an export or a benchmark wrote, of this version or an
older one. What is missing is left out; what is damaged is left out and told."""

import json
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from dynackd.errors import UserError

FIRST = ("teacher", "width", "depth")  # the order of the stages; others come behind
UNFINISHED = "-checkpoints"
MOST_LOGGED = 2000  # rows of a training's log that are drawn
IMPORTANCE_FILE = "importance.json"
SEARCH_FILE = "search.json"
OURS = ("metrics.json", "origin.json", "export.json", IMPORTANCE_FILE, SEARCH_FILE)
Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Training:
    """One stage: what it logged, how its sub-networks did and what it was made from.

    evaluation: the table of its sub-networks, if it has any. metrics: a teacher's own.
    """

    name: str
    finished: bool
    log: tuple[Facts, ...] = ()
    evaluation: Facts = field(default_factory=dict)
    metrics: Facts = field(default_factory=dict)
    seconds: float | None = None
    machine: str = ""
    origin: Facts = field(default_factory=dict)
    recipe: str = ""
    importance: Facts = field(default_factory=dict)


@dataclass(frozen=True)
class Student:
    """An exported student: its place relative to the run, and its export.json."""

    place: str
    about: Facts


@dataclass(frozen=True)
class Search:
    """What a search found: its place relative to the run, and its search.json."""

    place: str
    about: Facts


@dataclass(frozen=True)
class Measured:
    """One latency: of the file (relative to its place, "" for a directory's own model) of a teacher or student at the
    place relative to the run, in ms."""

    place: str
    file: str
    runtime: str
    provider: str
    threads: int | None
    batch_size: int
    length: int
    p50: float
    p90: float | None
    machine: str


@dataclass(frozen=True)
class Results:
    """All that was found in a run's directory. damaged: files that could not be read."""

    name: str
    trainings: tuple[Training, ...]
    students: tuple[Student, ...]
    measured: tuple[Measured, ...]
    searches: tuple[Search, ...]
    damaged: tuple[str, ...]

    def training(self, name: str) -> Training | None:
        return next((own for own in self.trainings if own.name == name), None)

    @property
    def judged(self) -> Training | None:
        """The last stage whose sub-networks were evaluated; one sub-network that was polished is not all of them."""
        known = [own for own in self.trainings if own.evaluation]
        return next((own for own in reversed(known) if own.name in FIRST), known[-1] if known else None)

    @property
    def trained(self) -> tuple[Training, ...]:
        return tuple(own for own in self.trainings if own.log)


class Reader:
    """Reads the files below a directory, and remembers which of them are damaged."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.damaged: list[str] = []

    def json(self, file: Path) -> Facts:
        """A JSON object; nothing where there is none."""
        if not file.is_file():
            return {}
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            if content is None or file.name in OURS:
                self.damaged.append(self.relative(file))
            return {}  # a list may be the user's rows
        return content

    def text(self, file: Path) -> str:
        try:
            return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
        except OSError:
            self.damaged.append(self.relative(file))
            return ""

    def log(self, file: Path) -> tuple[Facts, ...]:
        """What a Trainer logged. A last line that is cut off, as in a training that goes on, is passed over."""
        rows = []
        for line in self.text(file).splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                rows.append(row)
        return tuple(_thinned(rows))

    def place(self, directory: Path, ends: Sequence[str]) -> str:
        """The path from the run's directory, or the shortest of the `ends` of the path of that itself, or of one that
        lies elsewhere."""
        inside = directory != self.home and directory.is_relative_to(self.home)
        return self.relative(directory) if inside else ends[0]

    def relative(self, file: Path) -> str:
        """The path from the run's directory, or the whole of one that lies elsewhere."""
        return (file.relative_to(self.home) if file.is_relative_to(self.home) else file).as_posix()


def read_run(directory: Path, also: Sequence[Path] = ()) -> Results:
    """What lies in a run's directory, or in a single teacher's, supernet's or student's; `UserError` where nothing of
    ours does. also: students, and tables of `benchmark --json`, that lie elsewhere."""
    if not directory.is_dir():
        raise UserError(f"{directory} is no directory; name a run's, such as runs/reviews")
    for path in also:
        known = (path / "export.json").is_file() if path.is_dir() else path.is_file() and path.suffix == ".json"
        if not known:
            raise UserError(f"--also: {path} is neither a student nor a table of benchmark --json")
    reader, home = Reader(directory), directory.resolve()
    trainings = sorted((_training(reader, own) for own in _stages(directory)), key=_order)
    finished = {own.name for own in trainings if own.finished}
    kept = tuple(own for own in trainings if own.finished or own.name not in finished)
    students, tails = _students(reader, directory, [path for path in also if path.is_dir()])
    if not kept and not students:
        raise UserError(
            f"{directory} holds no results of dynackd; name a run's directory (with teacher, width, depth or students "
            "in it), a supernet's or a student's"
        )
    places = {name: "teacher" for own in kept for name in _teachers(own)} | {own.name: own.name for own in kept}
    ours = home.parent if _is_stage(home) or (home / "export.json").is_file() else home
    within = {own.place for own in students} - set(tails.values())
    inside = {own.name for own in kept} | within
    places = {**tails, **places, **{place: place for place in within}}
    tables = [*sorted(directory.glob("*.json")), *(path for path in also if path.is_file())]
    measured = (*_benchmarks(reader, tables, places, inside, ours.name), *_measured_at_export(students))
    searches = tuple(
        Search(reader.relative(file.parent), found)
        for file in _below(directory, SEARCH_FILE)
        if (found := reader.json(file)).get("choice")
    )
    return Results(home.name, kept, students, tuple(measured), searches, tuple(reader.damaged))


def _students(reader: Reader, directory: Path, also: Sequence[Path]) -> tuple[tuple[Student, ...], dict[str, str]]:
    """The students in a run and elsewhere, each once and at a place of its own; and by which ends of its path a
    benchmark may call one that lies elsewhere: those that end no other's."""
    found: dict[Path, tuple[Path, Facts]] = {}
    for path in [*(file.parent for file in _below(directory, "export.json")), *also]:
        if path.resolve() not in found and (about := reader.json(path / "export.json")).get("parameters"):
            found[path.resolve()] = path, about
    owners = Counter(end for where in found for end in _ends(where))
    students, tails = [], dict[str, str]()
    for where, (path, about) in found.items():
        own = [end for end in _ends(where) if owners[end] == 1]
        students.append(Student(reader.place(path, own), about))
        if path in also:
            tails |= dict.fromkeys(own, students[-1].place)
    return tuple(students), tails


def _ends(path: Path) -> list[str]:
    """The last part of a path, the last two, and so on; the whole of it last."""
    return ["/".join(path.parts[-count:]) for count in range(1, len(path.parts))] + [path.as_posix()]


def _thinned(rows: Sequence[Facts]) -> Iterator[Facts]:
    """At most about `MOST_LOGGED` of each sort of row, and the last of each: losses and evaluations may take turns."""
    sorts: dict[tuple[str, ...], list[int]] = {}
    for place, row in enumerate(rows):
        sorts.setdefault(tuple(row), []).append(place)
    kept: set[int] = set()
    for places in sorts.values():
        step = max(1, math.ceil(len(places) / MOST_LOGGED))
        kept |= {*places[::step], places[-1]}
    return (row for place, row in enumerate(rows) if place in kept)


def _below(directory: Path, name: str) -> list[Path]:
    """The files of a name here, and one and two directories below."""
    return [file for depth in ("", "*/", "*/*/") for file in sorted(directory.glob(depth + name)) if file.is_file()]


def _stages(directory: Path) -> list[Path]:
    """The directory itself if a stage made it, else those in it that a stage made or makes."""
    if _is_stage(directory):
        return [directory]
    return [own for own in sorted(directory.iterdir()) if own.is_dir() and _is_stage(own)]


def _is_stage(directory: Path) -> bool:
    return any((directory / name).is_file() for name in ("metrics.json", "log.jsonl"))


def _training(reader: Reader, directory: Path) -> Training:
    about = reader.json(directory / "metrics.json")
    seconds = about.get("train_seconds")
    name = directory.resolve().name
    whole = isinstance(about.get("subnetworks"), list) and bool(about["subnetworks"])
    own = about.get("metrics")
    return Training(
        name.removesuffix(UNFINISHED),
        finished=not name.endswith(UNFINISHED),
        log=reader.log(directory / "log.jsonl"),
        evaluation=about if whole and isinstance(about.get("teacher"), dict) else {},
        metrics=own if isinstance(own, dict) else {},
        seconds=seconds if isinstance(seconds, int | float) else None,
        machine=str(about.get("machine", "")),
        origin=reader.json(directory / "origin.json"),
        recipe=reader.text(directory / "recipe.yaml"),
        importance=reader.json(directory / IMPORTANCE_FILE),
    )


def _teachers(training: Training) -> list[str]:
    """The places by which a benchmark may call the teacher of a training, if it is no stage of the same run."""
    told = training.origin.get("teacher")
    names = [told.get("name"), told.get("path")] if isinstance(told, dict) else []
    known = []
    for name in (own for own in names if isinstance(own, str)):
        parts = [part for part in name.split("/") if part not in ("", ".", "..")]
        # A name of a single part, as `bert`, may be anything; a path of one, as `../bert`, is that directory.
        if len(parts) > 1 or (parts and "/" in name):
            known.append("/".join(parts[-2:]).removeprefix("package:"))
    return known


def _order(training: Training) -> tuple[int, str]:
    known = training.name in FIRST
    return (FIRST.index(training.name) if known else len(FIRST), training.name)


# --- latencies -------------------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """Where a path belongs: the place, the file in it, the name by which it was known, and what stands above that."""

    place: str
    file: str
    name: str = ""
    above: str = ""


def _benchmarks(
    reader: Reader, files: Sequence[Path], places: Mapping[str, str], inside: Collection[str], run: str
) -> Iterator[Measured]:
    """What `benchmark --json` measured of this run, told from other JSON files by what they hold. inside: the places in
    the run's directory; run: its name."""
    for file in files:
        content = reader.json(file)
        table = content.get("latency", content)  # a quickstart's summary has it inside
        rows = table.get("rows") if isinstance(table, dict) else None
        told = [row for row in (rows if isinstance(rows, list) else []) if isinstance(row, dict)]
        told = [row for row in told if isinstance(row.get("path"), str)]
        found = [place_of(row["path"], places) for row in told]
        others = _other_runs([own for own in found if own.name in inside], run)
        for row, own in zip(told, found, strict=True):
            foreign = own.name in inside and own.above in others
            place, rest = (row["path"], "") if foreign else (own.place, own.file)
            yield from _measurement(row, place, rest, str(table.get("machine", "")), None)


def _other_runs(found: Sequence[Place], run: str) -> set[str]:
    """Of the directories in which a table's models lie, those of other runs: where some are called as this run is, all
    that are called otherwise; where two of its models would be one, all but the directory it was measured in."""
    above = {own.above for own in found}
    if any(own.rpartition("/")[2] == run for own in above):
        return {own for own in above if own.rpartition("/")[2] not in ("", run)}
    twice = len({(own.above, own.place) for own in found}) > len({own.place for own in found})
    return above - {""} if twice and "" in above else set()


def _measured_at_export(students: tuple[Student, ...]) -> Iterator[Measured]:
    """What `export --measure` measured."""
    for student in students:
        told = student.about.get("latency")
        table = told if isinstance(told, dict) else {}
        for row in table.get("rows", []):
            named = {"student": (student.place, ""), "teacher": ("teacher", "")}
            place, file = named.get(row.get("path"), (student.place, str(row.get("path"))))
            yield from _measurement(row, place, file, str(table.get("machine", "")), table.get("threads"))


def place_of(path: str, places: Mapping[str, str]) -> Place:
    """That of a path as a benchmark has it, from whichever directory or machine it was written: of the longest of the
    names of `places` that its parts hold; the path itself where it is none of this run's."""
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
    for name in sorted(places, key=lambda own: -own.count("/")):
        own = name.split("/")
        for start in range(len(parts) - len(own), -1, -1):
            rest = parts[start + len(own) :]
            if parts[start : start + len(own)] == own and (not rest or rest[-1].endswith(".onnx")):
                return Place(places[name], "/".join(rest), name, "/".join(parts[:start]))
    return Place(path, "")


def _measurement(row: Facts, place: str, file: str, machine: str, threads: int | None) -> Iterator[Measured]:
    latency = row.get("latency_ms")
    told = latency if isinstance(latency, dict) else {}
    p50 = told.get("p50", row.get("p50_ms"))
    if not isinstance(p50, int | float) or not p50 > 0:
        return
    try:
        yield Measured(
            place=place,
            file="" if file == "onnx/model.onnx" else file,
            runtime=str(row["runtime"]),
            provider=str(row.get("provider", "cpu")),
            threads=row.get("threads", threads),
            batch_size=int(row["batch_size"]),
            length=int(row["length"]),
            p50=float(p50),
            p90=told.get("p90"),
            machine=machine,
        )
    except (KeyError, TypeError, ValueError):  # another version's
        return
