"""The general stage."""

from bad_inputs import Bad

CASES = [
    Bad(
        "a task with a head",
        "train-general {d}/fresh.yaml",
        "task: train-general is for an encoder without a head, not a classifier; train one in a recipe with task: "
        "{kind: plain, text: text}, and name the result as the model of this one",
    ),
    Bad(
        "a way to join that there is not",
        "train-width {d}/fresh.yaml --set join=sum",
        "{d}/fresh.yaml: join: 'sum' is unknown; known: difference, head",
    ),
]
