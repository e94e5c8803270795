"""Plain texts that are not named as they should be."""

from pathlib import Path

from bad_inputs import Bad


def plain(what: str, sentence: str, task: str, command: str = "train-width") -> Bad:
    def change(directory: Path) -> None:
        recipe = (directory / "fresh.yaml").read_text()
        old = "task:\n  kind: classification\n  label: label\n  text: sentence\n"
        assert old in recipe
        (directory / "fresh.yaml").write_text(recipe.replace(old, f"task: {{kind: plain{task}}}\n"))

    return Bad(what, f"{command} {{d}}/fresh.yaml", sentence, change)


CASES = [
    plain("no text", "{d}/fresh.yaml: 'task.text' is missing; needed are kind, text", ""),
    plain("the same text twice", "{d}/fresh.yaml: task.text: expected one or two different columns, got ['sentence', "
          "'sentence']", ", text: [sentence, sentence]"),
    plain("a name that is taken", "{d}/fresh.yaml: task.text: rename the column 'label'; dynackd makes a column of "
          "that name itself", ", text: label"),
    plain("an encoder to fine-tune without labels", "task: an encoder has no labels to fine-tune with; it is its own "
          "teacher: run train-width", ", text: sentence", "finetune"),
]
