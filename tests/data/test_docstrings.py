"""The quickstart's text set: no file on both sides, balanced, the same every time, the label not given away."""

import csv
from pathlib import Path

import pytest

from dynackd.data import docstrings
from dynackd.data.docstrings import NAMES_A_PACKAGE, passages, write_docstring_dataset
from dynackd.errors import UserError

TOPICS = {"fruit": "apples and pears", "metal": "iron and copper"}


SHARED = "All modules of both packages say that this sentence stands in every one of them."
FUNCTION = '''
def f{i}(x):
    """The {topic} of kind {kind} number {i} are stored in the cold and dry cellar of the old house.

    Parameters
    ----------
    x : int
        Never a sentence of the set, because it describes one parameter of the function.
    """
'''


def module(topic: str, number: int) -> str:
    functions = [FUNCTION.format(topic=topic, kind="abcdefghijkl"[number], i=i) for i in range(4)]
    return f'"""{SHARED}"""\n' + "".join(functions)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Two packages of twelve files that would fail if they were imported."""
    for name, topic in TOPICS.items():
        folder = tmp_path / "site" / f"tiny_{name}"
        (folder / "tests").mkdir(parents=True)
        (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")
        (folder / "broken.py").write_text("def (:\n")
        (folder / "tests" / "test_a.py").write_text(module("tests", 0))
        for i in range(12):
            (folder / f"m{i}.py").write_text(module(topic, i))
    monkeypatch.syspath_prepend(tmp_path / "site")
    return tuple(f"tiny_{name}" for name in TOPICS)


def rows(path: Path) -> list[tuple[str, str]]:
    with path.open(newline="") as file:
        table = [tuple(row) for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    assert table[0] == ("sentence", "label")
    assert all(len(row) == 2 for row in table)
    return table[1:]


def write(folder: Path, packages: tuple[str, ...], **options: int) -> tuple[list, list]:
    train, validation = write_docstring_dataset(folder, 20, 4, packages=packages, **options)
    return rows(train), rows(validation)


def test_balanced_and_no_file_on_both_sides(tmp_path: Path, packages: tuple[str, ...]) -> None:
    train, validation = write(tmp_path / "set", packages)
    for name in packages:
        assert sum(label == name for _, label in train) == 20
        assert sum(label == name for _, label in validation) == 4
    kinds = [{sentence.split(" number")[0] for sentence, _ in side} for side in (train, validation)]  # one kind a file
    assert not kinds[0] & kinds[1]
    assert not any("every one of them" in sentence or "tests" in sentence or "parameter" in sentence
                   for sentence, _ in train + validation)  # shared, in a test, or in a table of parameters


def test_same_seed_same_bytes_and_no_half_files(tmp_path: Path, packages: tuple[str, ...]) -> None:
    first, again, other = (write(tmp_path / name, packages, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert first == again
    assert first != other
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["train.tsv", "validation.tsv"]


def test_all_classes_are_cut_to_the_smallest(tmp_path: Path, packages: tuple[str, ...]) -> None:
    for path in (tmp_path / "site" / "tiny_metal").glob("m[0-3].py"):
        path.unlink()
    train, _ = write_docstring_dataset(tmp_path / "set", 40, 4, packages=packages)
    counts = [sum(label == name for _, label in rows(train)) for name in packages]
    assert counts[0] == counts[1] < 40


def test_missing_package_is_named(tmp_path: Path, packages: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"too little was found of tiny_absent \(0 of 24 passages\)"):
        write(tmp_path / "set", (*packages, "tiny_absent"))
    assert not (tmp_path / "set").exists()


def test_prose_only() -> None:
    docstring = """Fits :class:`~a.Estimator` objects to the ``data`` that the given reader yields in its own good time.

    .. note:: Directives are not sentences of the set, however long and wordy they may happen to be.

    >>> print("Doctests are no sentences of the set, however long and wordy they may be.")

    Returns
    -------
    Nothing that stands under a heading of returned values may come into the set at all.

    Notes
    -----
    Uses numpy arrays for everything that has to be kept in memory during the whole of the run.
    The second sentence of the notes is kept, because it names none of the packages that are labels.
    """
    assert list(passages(docstring)) == [
        "Fits Estimator objects to the data that the given reader yields in its own good time. The second sentence of "
        "the notes is kept, because it names none of the packages that are labels.",
    ]


def test_installed_packages_give_the_quickstart_its_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docstrings, "MAX_FILES", 60)
    train, validation = write_docstring_dataset(tmp_path, 60, 10)
    labels = {label for _, label in rows(train)}
    assert labels == {label for _, label in rows(validation)} == set(docstrings.PACKAGES)
    assert len(labels) >= 6
    assert not any(NAMES_A_PACKAGE.search(sentence) for sentence, _ in rows(train) + rows(validation))
    assert not {s for s, _ in rows(train)} & {s for s, _ in rows(validation)}
