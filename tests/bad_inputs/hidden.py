"""Hidden sizes that a supernet does not have."""

import json

from bad_inputs import Bad

EXPORT = "export {d}/run/depth --output {d}/small"
NONE = (
    "{d}/run/depth has its full hidden size alone, since its recipe's grid.hidden had no smaller one; train it with "
    "one, or leave hidden out"
)


def _spec(directory):
    layer = {"index": 0, "heads": 2, "neurons": 20}
    (directory / "best.json").write_text(json.dumps({"layers": [layer], "hidden": 16}))


CASES = [
    Bad("a hidden size of a supernet that has none", f"{EXPORT} --hidden 0.5", NONE),
    Bad("a file of one", f"{EXPORT} --spec {{d}}/best.json", NONE, _spec),
    Bad("a hidden size above the full one", f"{EXPORT} --hidden 2", "hidden 2.0 is outside (0, 1]"),
    Bad(
        "hidden sizes after the width stage",
        "train-depth {d}/recipe.yaml --overwrite --set grid.hidden=[0.5,1] --set training.num_train_epochs=1",
        "grid.hidden: the hidden dimensions of {d}/run/width do not stand in the order of their importance, since the "
        "recipe had none of these sizes then; run dynackd train-width with --overwrite, or undo the change",
    ),
]
