"""Files of which it is not plain what they are, and budgets that mean nothing."""

from bad_inputs import Bad

COMPRESS = "compress {d}/encoder --data {d}/train.tsv --output {d}/out"
ROWS = [("a fine film", "good"), ("a bad book", "bad"), ("the day was cold", "bad"), ("a lovely one", "good")] * 10


def csv(name, head, *columns):
    """Writes a csv file: its header, and of each column what a row's number makes."""

    def change(directory):
        rows = [",".join(str(make(row)) for make in columns) for row in range(len(ROWS))]
        (directory / name).write_text("\n".join([head, *rows]) + "\n")

    return change


def text(row):
    return ROWS[row][0] + " and so on" * (row % 3)


def stars(row):
    return row % 5 + 1


def verdict(row):
    return ROWS[row][1]


CASES = [
    Bad("no rows", "compress {d}/encoder", "--data is missing: name a file of rows to train on, such as train.csv"),
    Bad("rows that are not there", "compress {d}/encoder --data {d}/none.csv", "{d}/none.csv: no such file"),
    Bad("a directory of rows", "compress {d}/encoder --data {d}/run", "{d}/run: a directory, not a file"),
    Bad(
        "a model that --set names, too",
        "compress {d}/encoder --data {d}/train.tsv --set model={d}/run/teacher",
        "--set model: without a recipe the MODEL says that",
    ),
    Bad(
        "a bare encoder as the teacher",
        "compress {d}/run/teacher --data {d}/train.tsv --teacher {d}/encoder --text sentence --label label",
        "the teacher {d}/encoder is no fine-tuned classifier (BertModel); name one that is",
    ),
    Bad(
        "a teacher beside a recipe",
        "compress {d}/recipe.yaml --teacher {d}/run/teacher",
        "--teacher is in the recipe {d}/recipe.yaml already; remove it, or use --set",
    ),
    Bad("rows beside a recipe", "compress {d}/recipe.yaml --data {d}/train.tsv",
        "--data is in the recipe {d}/recipe.yaml already; remove it, or use --set"),
    Bad("a size that no student has", f"{COMPRESS} --max-params 10",
        "--max-params 10 is less than the smallest sub-network has: one layer of one head and 5 neurons comes to ... "
        "parameters; one of a smaller hidden size (grid.hidden) has less"),
    Bad("a kind that there is not", f"{COMPRESS} --kind clasification",
        "--kind: 'clasification' is unknown, did you mean 'classification'? known: ..."),
    Bad("a kind that the rows are not", f"{COMPRESS} --kind token_classification",
        "{d}/train.tsv does not fit --kind token_classification, whose rows are a list of words and a list of as many "
        "tags; its columns are sentence, label"),
    Bad("a column that there is not", f"{COMPRESS} --label lable",
        "{d}/train.tsv: no column 'lable', did you mean 'label'?; the columns are sentence, label"),
    Bad("stars", "compress {d}/encoder --data {d}/a.csv",
        "{d}/a.csv could be classification (text 'text', label 'stars': 5 values, 1, 2, 3, ...) or regression (text "
        "'text', label 'stars': numbers from 1 to 5); --kind decides: --kind classification or --kind regression",
        csv("a.csv", "text,stars", text, stars)),
    Bad("two labels", "compress {d}/encoder --data {d}/a.csv",
        "{d}/a.csv could be classification (text 'text', label 'one': bad, good) or classification (text 'text', label "
        "'two': bad, good); --label decides: --label one or --label two",
        csv("a.csv", "text,one,two", text, verdict, verdict)),
    Bad("texts alone", "compress {d}/encoder --data {d}/a.csv",
        "{d}/a.csv has no column that looks like the label of 'text'; its columns are id, text: name it with --label, "
        "or say what to learn without labels, --kind embedding or --kind plain",
        csv("a.csv", "id,text", lambda row: row, text)),
    Bad("no text", "compress {d}/encoder --data {d}/a.csv",
        "{d}/a.csv: nothing says what is to be learned; its columns are id, label: name them with --text and --label, "
        "and the kind with --kind, one of ...",
        csv("a.csv", "id,label", lambda row: row, verdict)),
    Bad("a header alone", "compress {d}/encoder --data {d}/a.csv",
        "{d}/a.csv: the data set is empty; expected some rows",
        lambda d: (d / "a.csv").write_text("text,label\n")),
    Bad("a missing cell", "compress {d}/encoder --data {d}/a.csv",
        "{d}/a.csv, data row 3, column 'verdict': the label is missing (and 7 more); fill it in or drop the row",
        csv("a.csv", "text,verdict", text, lambda row: "" if row % 5 == 2 else verdict(row))),
    Bad("no time", f"{COMPRESS} --max-minutes 0.001",
        "--max-minutes is too short here: 0.0 minutes are left, but even with hardly any training ... are needed; "
        "give it ..., or a smaller model, shorter texts (--set data.max_length=32) or fewer rows to validate on (--set "
        "data.validation_rows=500)"),
    Bad("less than no time", f"{COMPRESS} --max-minutes 0", "--max-minutes is 0.0; it must be above 0"),
    Bad("to keep all and more", f"{COMPRESS} --keep 1.5", "--keep is 1.5; it must be above 0 and at most 1"),
    Bad("two least metrics", f"{COMPRESS} --keep 0.9 --min-metric 0.8",
        "--keep and --min-metric say the same in two ways; give one of them"),
    Bad("no latency", f"{COMPRESS} --max-latency-ms -5", "--max-latency-ms is -5.0; it must be a number above 0"),
    Bad("a key that there is not", f"{COMPRESS} --set grid.width=[1.0]",
        "--set: unknown key 'grid.width', did you mean 'widths'?"),
    Bad("a student to compress", "compress {d}/student --data {d}/train.tsv",
        "{d}/student is a sliced student already; name the fine-tuned model that it was cut from"),
    Bad("a model without labels for what it is taught", "compress {d}/encoder --data {d}/a.jsonl --kind ranking",
        "{d}/encoder is no reranker, and the task has no labels to fine-tune with; name a fine-tuned model under "
        "'teacher'",
        lambda d: (d / "a.jsonl").write_text("".join(
            f'{{"query": "a fine film {i}", "passages": ["one day {i}", "the film {i}"]}}\n' for i in range(9)))),
    Bad("a home", "compress {d}/encoder --data {d}/train.tsv --output {d}",
        "{d} holds what no dynackd compress wrote; name another directory with --output"),
]  # fmt: skip
