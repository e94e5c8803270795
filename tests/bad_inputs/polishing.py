"""Polishing one sub-network."""

from bad_inputs import Bad

POLISH = "polish {d}/run/depth"


def _taken(directory):
    (directory / "run" / "polished-w0.5-d0.5").mkdir()
    (directory / "run" / "polished-w0.5-d0.5" / "mine.txt").write_text("mine")


CASES = [
    Bad(
        "no supernet",
        "polish {d}/run/teacher",
        "{d}/run/teacher is a plain bert checkpoint, not a supernet; make one with dynackd train-width",
    ),
    Bad("a width above 1", f"{POLISH} --width 2", "width 2.0 is outside (0, 1]"),
    Bad(
        "both ways to name a size",
        f"{POLISH} --width 0.5 --spec {{d}}/best.json",
        "--spec names every layer; give it alone, without --width, --depth and --hidden",
    ),
    Bad(
        "somebody else's directory",
        f"{POLISH} --width 0.5 --depth 0.5 --overwrite",
        "{d}/run/polished-w0.5-d0.5 holds ...",
        _taken,
    ),
    Bad(
        "other rows than the supernet's",
        f"{POLISH} --width 0.5 --set data.train_rows=20",
        "{d}/run/teacher was made from something else than the recipe names: the training rows were 48, are 20; run "
        "dynackd finetune with --overwrite, or --set teacher={d}/run/teacher to use it as it is",
    ),
]
