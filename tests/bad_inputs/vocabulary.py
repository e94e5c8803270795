"""`dynackd export --vocabulary`."""

from collections.abc import Callable
from pathlib import Path

from bad_inputs import Bad

EXPORT = "export {d}/run/depth --output {d}/s --vocabulary "


def texts(content: str, name: str = "texts.txt") -> Callable[[Path], object]:
    return lambda directory: (directory / name).write_text(content)


def no_recipe(directory: Path) -> None:
    (directory / "run" / "depth" / "recipe.yaml").unlink()


CASES = [
    Bad("no such texts", EXPORT + "{d}/none.txt", "{d}/none.txt: no such file"),
    Bad(
        "an empty text file",
        EXPORT + "{d}/texts.txt",
        "{d}/texts.txt: the data set is empty; expected the columns text and some rows",
        texts("\n\n"),
    ),
    Bad(
        "one text",
        EXPORT + "{d}/texts.txt",
        "--vocabulary {d}/texts.txt: 1 text is too few; of two or more one is held out",
        texts("a fine film\n"),
    ),
    Bad(
        "texts of an unknown kind",
        EXPORT + "{d}/texts.doc",
        "{d}/texts.doc: unknown kind of file '.doc'; known: ...",
        texts("a fine film\n", "texts.doc"),
    ),
    Bad(
        "rows without the task's column",
        EXPORT + "{d}/texts.csv",
        "{d}/texts.csv: no column 'sentence'; the columns are one, other",
        texts("one,other\na,b\n", "texts.csv"),
    ),
    Bad(
        "the training texts of a supernet that does not say which",
        EXPORT + "train --no-validation",
        "--vocabulary train: the supernet has no recipe.yaml that says which columns to read; give a .txt file with a "
        "text in each line",
        no_recipe,
    ),
    Bad("a coverage above 1", EXPORT + "train --coverage 1.5", "--coverage 1.5 is outside (0, 1]"),
    Bad("no coverage", EXPORT + "train --coverage 0", "--coverage 0 is outside (0, 1]"),
    Bad("a coverage that is no number", EXPORT + "train --coverage nan", "--coverage nan is outside (0, 1]"),
    Bad(
        "a coverage and a size",
        EXPORT + "train --coverage 0.9 --vocabulary-size 20",
        "--coverage and --vocabulary-size exclude each other; give one of them",
    ),
    Bad(
        "a coverage of no texts",
        "export {d}/run/depth --output {d}/s --coverage 0.9",
        "--coverage is about a smaller vocabulary; add --vocabulary TEXTS",
    ),
    Bad(
        "a size of no texts",
        "export {d}/run/depth --output {d}/s --vocabulary-size 9",
        "--vocabulary-size is about a smaller vocabulary; add --vocabulary TEXTS",
    ),
    Bad("a size of 0", EXPORT + "train --vocabulary-size 0", "--vocabulary-size is 0; it must be 1 or more"),
    Bad(
        "a size below what must stay",
        EXPORT + "train --vocabulary-size 3",
        "--vocabulary-size is 3; 4 of the tokenizer's 27 tokens must stay (special tokens): give a number from "
        "4 to 27",
    ),
    Bad(
        "a size above what there is",
        EXPORT + "train --vocabulary-size 28",
        "--vocabulary-size is 28; 4 of the tokenizer's 27 tokens must stay (special tokens): give a number from "
        "4 to 27",
    ),
]
