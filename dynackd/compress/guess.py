"""What a file's rows are, where that is plain: the kind of task and the columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dynackd.data.readers import look_into
from dynackd.errors import UserError, listed, one_of
from dynackd.tasks.guessing import IF_ASKED, Guess, Sample, Seen
from dynackd.tasks.kind import Kind
from dynackd.tasks.kinds import KINDS

ROWS = 20_000  # of a file that are looked at
MOST_NAMED = 4  # readings that are told


@dataclass(frozen=True)
class Said:
    """What the user says of a file's rows: the kind, the columns of the text and of the label; empty where nothing."""

    kind: str | None = None
    text: tuple[str, ...] = ()
    label: tuple[str, ...] = ()


def guess_task(file: str, said: Said, config: Any, architecture: str) -> Guess:
    """How a file's rows are read. config, architecture: of the model, whose head may decide. `UserError` where nothing
    fits, or more than one reading does: with what could be meant and which option says so."""
    if said.kind is not None:
        one_of("--kind", said.kind, KINDS)
    if said.kind is not None and type(KINDS[said.kind]).guess is Kind.guess:
        raise UserError(
            f"--kind {said.kind}: which columns its rows have cannot be guessed; write a recipe with task: {{kind: "
            f"{said.kind}, ...}}, and compress that"
        )
    columns = look_into(file, ROWS, (*said.text, *said.label))
    sample = Sample(file, columns, said.text, said.label, said.kind is not None)
    kinds = [KINDS[said.kind]] if said.kind else list(KINDS.values())
    found = [guess for kind in kinds for guess in kind.guess(sample)]
    strongest = max([guess.strength for guess in found], default=IF_ASKED)
    sure = [guess for guess in found if guess.strength == strongest and (strongest or said.kind)]
    if len({guess.task["kind"] for guess in sure}) > 1:
        sure = [own for own in sure if KINDS[own.task["kind"]].made(architecture, config)] or sure
    if len(sure) == 1:
        return sure[0]
    if sure:
        raise UserError(_ambiguous(file, sure))
    raise UserError(_nothing(sample, said, found))


def _ambiguous(file: str, guesses: Sequence[Guess]) -> str:
    """What could be meant, and the option that decides."""
    others = len(guesses) - MOST_NAMED
    named = " or ".join(map(str, guesses[:MOST_NAMED])) + (f" or {others} more" if others > 0 else "")
    ways: Mapping[str, list[str]] = {
        "--kind": [guess.task["kind"] for guess in guesses],
        "--label": [" ".join(guess.label) for guess in guesses],
        "--text": [" ".join(guess.text) for guess in guesses],
    }
    needed = [option for option, values in ways.items() if len(set(values)) > 1]
    if len(set(ways["--kind"])) == len(guesses):  # one reading each
        needed = ["--kind"]
    decides = f"{' and '.join(needed)} decide{'s' * (len(needed) == 1)}"
    if len(needed) == 1:
        every = [f"{needed[0]} {value}" for value in dict.fromkeys(ways[needed[0]])]
        return f"{file} could be {named}; {decides}: {' or '.join(every[:MOST_NAMED])}"
    example = " ".join(f"{option} {ways[option][0]}" for option in needed)
    return f"{file} could be {named}; {decides}, such as {example}"


def _are_spans(own: Seen) -> bool:
    """Whether a column says from where to where in a text something stands, as annotation tools write it."""
    return own.parts.all_are(dict) and all({"start", "end"} <= set(part) for part in own.parts.values)


def _nothing(sample: Sample, said: Said, weak: Sequence[Guess]) -> str:
    """What is missing, and the option that says what is meant."""
    where, has = sample.where, f"its columns are {listed(list(sample.columns))}"
    if not any(own.values for own in sample.columns.values()):
        return f"{where}: the data set is empty; expected some rows"
    if spans := [own.name for own in sample.columns.values() if _are_spans(own)]:
        return (
            f"{where}: the column '{spans[0]}' holds spans of a text, which are not read; write a list of words and a "
            'list of as many tags, such as ["Anna", "sings"] and ["B-person", "O"]'
        )
    if said.kind:
        options = {"--text": said.text, "--label": said.label}
        given = "".join(f" {option} {' '.join(names)}" for option, names in options.items() if names)
        needed = KINDS[said.kind].rows_needed
        return f"{where} does not fit --kind {said.kind}{given}, whose rows are {needed}; {has}"
    if not weak:
        return (
            f"{where}: nothing says what is to be learned; {has}: name them with --text and --label, and the kind with "
            f"--kind, one of {', '.join(KINDS)}"
        )
    kinds = " or ".join(f"--kind {kind}" for kind in dict.fromkeys(guess.task["kind"] for guess in weak))
    return (
        f"{where} has no column that looks like the label of '{weak[0].text[0]}'; {has}: name it with --label, or say "
        f"what to learn without labels, {kinds}"
    )
