"""Rows without labels that cannot be used."""

from bad_inputs import Bad

FRESH = "{d}/fresh.yaml"
WIDTH = f"train-width {FRESH} --set teacher={{d}}/run/teacher --set data.unlabelled="


def file(what, name, content, sentence, more=""):
    """A width stage with a file of this content beside its rows."""

    def change(directory):
        if content is not None:
            (directory / name).write_text(content)

    return Bad(what, f"{WIDTH}{{d}}/{name}{more}", sentence, change)


CASES = [
    Bad(
        "a share of nothing",
        f"train-width {FRESH} --set data.unlabelled_share=0.5",
        f"{FRESH}: data.unlabelled_share: the share of what? name files under data.unlabelled, or remove it",
    ),
    Bad(
        "nothing but rows without labels",
        f"{WIDTH}x.txt --set data.unlabelled_share=1",
        f"{FRESH}: data.unlabelled_share must be a number above 0 to below 1, not 1",
    ),
    Bad(
        "a file that is none",
        f"train-width {FRESH} --set data.unlabelled=5",
        f"{FRESH}: data.unlabelled must be a text, or a list, or null, not 5; a number that is a name stands in quotes",
    ),
    Bad(
        "beside a recipe that has a place for it",
        "compress {d}/recipe.yaml --unlabelled x.txt",
        "--unlabelled is in the recipe {d}/recipe.yaml already; remove it, or use --set",
    ),
    file("a file that is not there", "more.txt", None, "{d}/more.txt: no such file"),
    file("a kind of file that is not known", "more.doc", "x", "{d}/more.doc: unknown kind of file '.doc'; known: ..."),
    file("an empty file", "more.txt", "\n", "{d}/more.txt: the data set is empty; expected the columns text and some "
         "rows"),
    file("a header alone", "more.csv", "sentence\n", "{d}/more.csv: the data set is empty; expected the columns "
         "sentence and some rows"),
    file(
        "no column of texts",
        "more.csv",
        "review,label\na fine film,1\n",
        "data.unlabelled: {d}/more.csv has no column 'sentence'; rows without labels of a classification task need "
        "sentence, or one column 'text'; the columns are review, label",
    ),
    file("a row without a text", "more.jsonl", '{"sentence": "a"}\n{"sentence": null}\n', "{d}/more.jsonl, data row 2, "
         "column 'sentence': the text is missing; fill it in or drop the row"),
    file(
        "rows in their order",
        "more.txt",
        "a fine film\n",
        "{d}/fresh.yaml: training.train_sampling_strategy: sequential is not possible with data.unlabelled; take "
        "group_by_length or random",
        " --set training.train_sampling_strategy=sequential",
    ),
]  # fmt: skip
