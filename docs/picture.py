"""Draw `docs/picture.svg` from the first table of `docs/results.md`:  python docs/picture.py

`tests/test_documents.py` compares what the picture says it was drawn from with the table.
"""

import re
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
TEACHER = 0.8899  # accuracy; docs/results.md says it above the table
NAMED = [(1.0, 1.0), (0.5, 0.75), (0.5, 0.5), (0.25, 0.5)]  # sub-networks that get a label
Point = tuple[float, float, float, float]  # width, depth, p50 latency as a share of the teacher's, accuracy


def points() -> dict[str, list[Point]]:
    """File -> a point for each sub-network, from the table's columns; latencies at 128 tokens."""
    text = (HERE / "results.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if re.match(r"\| [\d.]+ \| [\d.]+ \| \d", line)]
    read = [(float(row[0]), float(row[1]), row) for row in rows if len(row) == 12]

    def at_128(cell: str) -> float:
        return float(cell.split(" / ")[1])

    return {
        "ONNX Runtime, float32": [(width, depth, at_128(row[7]), float(row[4])) for width, depth, row in read],
        "ONNX Runtime, int8": [(width, depth, at_128(row[9]), float(row[11])) for width, depth, row in read],
    }


def told(drawn: dict[str, list[Point]]) -> str:
    """The points as the picture's own description says them."""
    return "; ".join(f"{name}: " + " ".join(",".join(f"{x:g}" for x in point) for point in own)
                     for name, own in drawn.items())


def draw(file: Path) -> None:
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "dynackd", "font.size": 11})
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    drawn = points()
    axes.axhline(TEACHER, color="0.55", linewidth=1)
    axes.plot(1, TEACHER, "D", color="0.25", label="the teacher in torch", zorder=3)
    styles = (("o", "#1f6fb4", -15), ("s", "#d1601f", 7))  # marker, colour, where the labels stand
    for (name, own), (marker, colour, above) in zip(drawn.items(), styles, strict=True):
        axes.plot([x for _, _, x, _ in own], [y for *_, y in own], marker, color=colour, label=name, markersize=7)
        for width, depth, x, y in own:
            if (width, depth) in NAMED:
                label, place = f"{width:g} x {depth:g}", {"textcoords": "offset points", "ha": "center"}
                axes.annotate(label, (x, y), (0, above), color=colour, fontsize=9, **place)
    axes.set_xscale("log")
    ticks = [0.1, 0.2, 0.3, 0.5, 0.7, 1]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_ylim(0.84, 0.9)
    axes.set_xlim(0.07, 1.15)
    axes.set_xlabel("latency, as a share of the teacher's in torch (128 tokens, batch 1, one thread)")
    axes.set_ylabel("accuracy, SST-2")
    axes.set_title("One training, 12 sizes (width x depth), two files each", fontsize=12)
    axes.legend(loc="lower right")
    axes.grid(alpha=0.25)
    figure.savefig(file, metadata={"Date": None, "Description": told(drawn)})


if __name__ == "__main__":
    draw(HERE / "picture.svg")
