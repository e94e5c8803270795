"""A real text set without a download: passages out of the docstrings of installed packages, labelled by package.

`dynackd quickstart` trains on it. The `.py` files are parsed as text and never imported. Sentences that name a package
are dropped, so that the label is not given away; what is left to learn is what each package is about. Validation
passages come from other files than training passages.

Tried and dropped (a one-off look with TF-IDF and logistic regression, folds by file): single sentences of 6 words or
more 58 %; private functions too 76 % instead of 78 %; numpy and scipy as classes 68 %, for they are confused with
pandas and sklearn.
"""

import ast
import importlib.util
import inspect
import itertools
import os
import random
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from dynackd.errors import UserError

# Packages that dynackd's own dependencies bring, each about one thing; the label is the import name.
PACKAGES = ("matplotlib", "networkx", "pandas", "sklearn", "sympy", "torch")

SKIPPED_FOLDERS = {"test", "tests", "testing", "externals", "_vendor", "_vendored", "vendored", "third_party",
                   "array_api_compat", "array_api_extra", "examples", "benchmarks"}
PROSE_SECTIONS = {"notes", "description", "overview", "explanation"}  # of a numpydoc docstring, beside its opening
NAMES_A_PACKAGE = re.compile(
    r"matplotlib|pyplot|networkx|numpy|pandas|scipy|scikit|sklearn|sympy|torch|\b(mpl|np|nx|pd|plt)\b", re.IGNORECASE
)
SENTENCE_END = re.compile(r"(?<![.\s][a-z]\.[a-z]\.)(?<!\bcf\.)(?<!\bvs\.)(?<=[.!?])\s+(?=[A-Z])")
ROLE = re.compile(r":[\w:+-]+:`(?:~[\w.]*\.)?([^`<]*[^`<\s])\s*(?:<[^`]*>)?`")  # :class:`~a.B` and :ref:`text <target>`
WORDS = re.compile(r"[A-Z][A-Za-z0-9_ ,;:.'\"()/=+-]*[.!?]")  # words and identifiers: no code, formula or markup

MAX_FILE_BYTES = 200_000
MAX_FILES = 500  # parsed per package
PASSAGE_WORDS = (12, 40)


def write_docstring_dataset(directory: str | Path, rows_per_label: int = 900, validation_rows_per_label: int = 130,
                            seed: int = 42, packages: Sequence[str] = PACKAGES) -> tuple[Path, Path]:
    """Writes `train.tsv` and `validation.tsv` (columns sentence, label; no quoting) and returns their paths.

    Balanced and shuffled, the same for the same versions of the packages and the same seed. When a package has fewer
    rows than asked for, all are cut to its number; below half of it, or when one is not installed, UserError.
    """
    asked = {"train": rows_per_label, "validation": validation_rows_per_label}
    found = _without_shared({name: _collect(name, 2 * sum(asked.values()), seed) for name in packages})
    splits = {name: _split_by_file(by_file, asked) for name, by_file in found.items()}
    short = [f"{name} ({sum(map(len, rows.values()))} of {sum(asked.values())} passages)"
             for name, rows in splits.items() if any(2 * len(rows[split]) < asked[split] for split in asked)]
    if short:
        raise UserError(f"the docstring data set needs the packages {', '.join(packages)} with their sources, but too "
                        f"little was found of {', '.join(short)}; install them")
    paths = []
    for split, most in asked.items():
        each = min(most, *(len(rows[split]) for rows in splits.values()))
        labelled = [(passage, name) for name, rows in splits.items() for passage in rows[split][:each]]
        random.Random(seed).shuffle(labelled)
        paths.append(_write(Path(directory) / f"{split}.tsv", labelled))
    return paths[0], paths[1]


def _collect(package: str, enough: int, seed: int) -> dict[str, list[str]]:
    """file (relative to the package) -> its passages, new ones only, from files in random order."""
    files = python_files(package)
    random.Random(f"{seed} {package}").shuffle(files)
    by_file: dict[str, list[str]] = {}
    seen: set[str] = set()
    for root, file in files[:MAX_FILES]:
        new = {s.casefold(): s for s in passages_of(root / file) if s.casefold() not in seen}
        by_file[file] = list(new.values())
        seen.update(new)
        if len(seen) >= enough:
            break
    return by_file


def python_files(package: str) -> list[tuple[Path, str]]:
    """(folder of the package, path in it) of its modules, sorted; empty when it is not installed. Imports nothing."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return []
    root = Path(next(iter(spec.submodule_search_locations)))
    files = (path.relative_to(root) for path in root.rglob("*.py"))
    kept = (file for file in files if not SKIPPED_FOLDERS & set(file.parts) and not file.name.startswith("test_"))
    return [(root, file) for file in sorted(file.as_posix() for file in kept)]


def passages_of(path: Path) -> Iterator[str]:
    """The passages of a file's public docstrings; none when the file cannot be parsed."""
    if path.stat().st_size > MAX_FILE_BYTES:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if not getattr(node, "name", "").startswith("_"):  # helpers' docstrings say little of a topic
            yield from passages(ast.get_docstring(node, clean=False) or "")


def passages(docstring: str) -> Iterator[str]:
    """Sentences of a docstring, joined while they fit into `PASSAGE_WORDS`."""
    least, most = PASSAGE_WORDS
    words: list[str] = []
    for sentence in (s for paragraph in prose(docstring) for s in SENTENCE_END.split(paragraph) if _wanted(s)):
        if len(words) + len(sentence.split()) > most:
            if len(words) >= least:
                yield " ".join(words)
            words = []
        words += sentence.split()
    if least <= len(words) <= most:
        yield " ".join(words)


def prose(docstring: str) -> Iterator[str]:
    """The paragraphs of running text: not indented, outside tables of parameters, without directives or doctests."""
    in_prose = True
    for block in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        lines = block.split("\n")
        if len(lines) > 1 and re.fullmatch(r"[-=~^]{3,}\s*", lines[1]):  # a section's title, underlined
            in_prose = lines[0].strip().casefold() in PROSE_SECTIONS
            lines = lines[2:]
        if in_prose and lines and all(re.match(r"[A-Za-z`(:]", line) for line in lines) and lines[0][0] != ":":
            yield ROLE.sub(r"\1", " ".join(" ".join(lines).split())).replace("`", "").replace("*", "")


def _wanted(sentence: str) -> bool:
    words = sentence.split()
    plain = sum(word.strip(",.;:()").isalpha() for word in words)
    return (len(words) >= 6 and WORDS.fullmatch(sentence) is not None and plain >= 0.7 * len(words)
            and NAMES_A_PACKAGE.search(sentence) is None)


def _without_shared(found: dict[str, dict[str, list[str]]]) -> dict[str, dict[str, list[str]]]:
    """Drops the passages that occur in more than one package: their label would be a guess."""
    labels = Counter(s.casefold() for by_file in found.values() for some in by_file.values() for s in some)
    return {name: {file: [s for s in some if labels[s.casefold()] == 1] for file, some in by_file.items()}
            for name, by_file in found.items()}


def _split_by_file(by_file: dict[str, list[str]], asked: dict[str, int]) -> dict[str, list[str]]:
    """split -> passages; whole files on one side, and the first passage of each file before any second one."""
    every = max(2, sum(asked.values()) // asked["validation"])
    files = [some for some in by_file.values() if some]
    sides = {"train": [some for i, some in enumerate(files) if i % every], "validation": files[::every]}
    return {split: [p for layer in itertools.zip_longest(*side) for p in layer if p is not None]
            for split, side in sides.items()}


def _write(path: Path, rows: list[tuple[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")  # so that no half file is ever found under the real name
    partial.write_text("".join(f"{text}\t{label}\n" for text, label in [("sentence", "label"), *rows]), "utf-8")
    partial.replace(path)
    return path
