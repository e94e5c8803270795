"""A real text set without a download: sentences out of the docstrings of installed packages, labelled by package.

`dynackd quickstart` trains on it. The `.py` files are parsed as text and never imported. Sentences that name a package
are dropped, so that the label is not given away; what is left to learn is what each package is about. Validation
sentences come from other files than training sentences.
"""

import ast
import importlib.util
import inspect
import os
import random
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from dynackd.errors import UserError

# Packages that dynackd's own dependencies bring, with enough prose for a class each; the label is the import name.
PACKAGES = ("matplotlib", "networkx", "numpy", "pandas", "scipy", "sklearn", "sympy", "torch")
FEWEST_CLASSES = 6  # below that the data set would be another one than the quickstart's figures speak of

SKIPPED_FOLDERS = {"test", "tests", "testing", "externals", "_vendor", "_vendored", "vendored", "third_party",
                   "array_api_compat", "array_api_extra", "examples", "benchmarks"}
PROSE_SECTIONS = {"notes", "description", "overview", "explanation"}  # of a numpydoc docstring, beside its opening
NAMES_A_PACKAGE = re.compile(
    r"matplotlib|pyplot|networkx|numpy|pandas|scipy|scikit|sklearn|sympy|torch|\b(mpl|np|nx|pd|plt)\b", re.IGNORECASE
)
SENTENCE_END = re.compile(r"(?<![.\s][a-z]\.[a-z]\.)(?<!\bcf\.)(?<!\bvs\.)(?<=[.!?])\s+(?=[A-Z])")
ROLE = re.compile(r":[\w:+-]+:`~?([^`<]*[^`<\s])\s*(?:<[^`]*>)?`")  # :class:`~a.B` and :ref:`text <target>`
WORDS = re.compile(r"[A-Z][A-Za-z0-9_ ,;:.'\"()/=+-]*[.!?]")  # a sentence of words and identifiers: no code, formula or markup

MAX_FILE_BYTES = 200_000
PER_FILE = 20  # sentences: many files with few sentences each, rather than the reverse


def write_docstring_dataset(directory: str | Path, rows_per_label: int = 750, validation_rows_per_label: int = 100,
                            seed: int = 42, packages: Sequence[str] = PACKAGES) -> tuple[Path, Path]:
    """Writes `train.tsv` and `validation.tsv` (columns sentence, label; no quoting) and returns their paths.

    Balanced, shuffled, the same for the same versions of the packages and the same seed. Classes are the packages
    that are installed and have enough sentences; raises UserError when fewer than six do (or than `packages` has).
    """
    wanted = rows_per_label + validation_rows_per_label
    found = _without_shared({name: _collect(name, wanted + wanted // 10, seed) for name in packages})
    splits: dict[str, list[tuple[str, str]]] = {"train": [], "validation": []}
    short = []
    for name, by_file in found.items():
        validation, train = _split_by_file(by_file, validation_rows_per_label)
        if len(train) < rows_per_label or len(validation) < validation_rows_per_label:
            short.append(f"{name} ({len(train) + len(validation)} of {wanted} sentences)")
            continue
        splits["train"] += [(sentence, name) for sentence in train[:rows_per_label]]
        splits["validation"] += [(sentence, name) for sentence in validation[:validation_rows_per_label]]
    if len(packages) - len(short) < min(FEWEST_CLASSES, len(packages)):
        raise UserError(f"the docstring data set needs {min(FEWEST_CLASSES, len(packages))} packages with enough text, "
                        f"but these are missing or have too little: {', '.join(short)}; install them")
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    return _write(folder / "train.tsv", splits["train"], seed), _write(folder / "validation.tsv",
                                                                      splits["validation"], seed)


def _collect(package: str, wanted: int, seed: int) -> dict[str, list[str]]:
    """file (relative to the package) -> its sentences, from files in random order until `wanted` are there."""
    files = python_files(package)
    random.Random(f"{seed} {package}").shuffle(files)
    by_file: dict[str, list[str]] = {}
    seen: set[str] = set()
    for root, file in files:
        if len(seen) >= wanted:
            break
        new = [s for s in dict.fromkeys(sentences_of(root / file)) if s.casefold() not in seen][:PER_FILE]
        seen.update(s.casefold() for s in new)
        by_file[file] = new
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


def sentences_of(path: Path) -> Iterator[str]:
    """The plain sentences of a file's docstrings, in their order; none when the file cannot be parsed."""
    if path.stat().st_size > MAX_FILE_BYTES:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for paragraph in prose(ast.get_docstring(node, clean=False) or ""):
                yield from filter(_wanted, SENTENCE_END.split(paragraph))


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
    return (6 <= len(words) <= 40 and len(sentence) <= 250 and WORDS.fullmatch(sentence) is not None
            and sum(word.strip(",.;:()").isalpha() for word in words) >= 0.7 * len(words)
            and NAMES_A_PACKAGE.search(sentence) is None)


def _without_shared(found: dict[str, dict[str, list[str]]]) -> dict[str, dict[str, list[str]]]:
    """Drops the sentences that occur in more than one package: their label would be a guess."""
    labels = Counter(s.casefold() for by_file in found.values() for some in by_file.values() for s in some)
    return {name: {file: [s for s in some if labels[s.casefold()] == 1] for file, some in by_file.items()}
            for name, by_file in found.items()}


def _split_by_file(by_file: dict[str, list[str]], validation_rows: int) -> tuple[list[str], list[str]]:
    """(validation, train): whole files go to validation until it has enough, the rest to training."""
    validation: list[str] = []
    train: list[str] = []
    for some in by_file.values():
        (validation if len(validation) < validation_rows else train).extend(some)
    return validation, train


def _write(path: Path, rows: list[tuple[str, str]], seed: int) -> Path:
    random.Random(seed).shuffle(rows)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text("".join(f"{sentence}\t{label}\n" for sentence, label in [("sentence", "label"), *rows]), "utf-8")
    partial.replace(path)
    return path
