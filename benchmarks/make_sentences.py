"""Plain sentences, each once, out of the training rows of GLUE's tasks: one a line, for an embedder or an encoder.

    python benchmarks/make_sentences.py ../shared/data/glue runs/embed-data/sentences.txt

All text columns of each `TASK/train.tsv` are taken, no label. Sentences of the validation rows are left out.
"""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

LABELS = {"label", "idx"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("glue", type=Path, help="a directory of tasks with a train.tsv each")
    parser.add_argument("output", type=Path, help="the .txt file")
    options = parser.parse_args()
    kept = sentences(options.glue)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text("".join(f"{text}\n" for text in kept), encoding="utf-8")
    print(f"{options.output}: {len(kept):,} sentences")


def sentences(glue: Path) -> list[str]:
    """Of all training rows, each once, without those of any validation row."""
    seen = {text for file in glue.glob("*/validation.tsv") for text in texts(file)}
    found = [text for file in sorted(glue.glob("*/train.tsv")) for text in texts(file)]
    return [text for text in dict.fromkeys(found) if text not in seen]


def texts(file: Path) -> Iterator[str]:
    with file.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
            yield from (text.strip() for name, text in row.items() if name not in LABELS and text.strip())


if __name__ == "__main__":
    main()
