"""Column files of tagged words, as they are found."""

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from dynackd.data.readers import read_file
from dynackd.errors import UserError


def read(tmp_path, text, *columns, name="t.conll"):
    (tmp_path / name).write_bytes(text.encode())
    return [list(row) for row in read_file(str(tmp_path / name), columns).rows]


@pytest.mark.parametrize("name", ["t.conll", "t.iob", "t.iob2", "t.bio", "T.CONLL"])
def test_the_first_column_is_the_words_and_the_last_the_tags(tmp_path, name):
    head = "-DOCSTART- -X- -X- O\n"
    text = f"{head}\nU.N. NNP I-NP B-ORG\nofficial  NN\tI-NP O\n\n\n{head}Ekeus NNP I-NP B-PER"
    assert read(tmp_path, text, "tokens", "tags", "column_2", name=name) == [
        [["U.N.", "official"], ["B-ORG", "O"], ["NNP", "NN"]],
        [["Ekeus"], ["B-PER"], ["NNP"]],
    ]


def test_a_document_begins_a_sentence_without_an_empty_line(tmp_path):
    assert read(tmp_path, "a O\n-DOCSTART- O\nb O\n", "tokens") == [[["a"]], [["b"]]]


def test_tabs_separate_where_there_are_any_so_that_a_word_may_hold_blanks(tmp_path):
    assert read(tmp_path, "New York\tB-loc\r\nnow\tO\r\n\t\r\nhe\tO\r\n", "tags", "tokens") == [
        [["B-loc", "O"], ["New York", "now"]],
        [["O"], ["he"]],
    ]


def test_comments_stand_before_a_sentence_and_a_hash_tag_is_a_word(tmp_path):
    text = "# sent_id = 3\n# text = # a\n# O\n#tag O\n#id O\n\n# id 5239d808 domain=train\na O\n"
    assert read(tmp_path, text, "tokens") == [[["#", "#tag", "#id"]], [["a"]]]


def test_blanks_that_are_not_separators_stay_in_a_word(tmp_path):
    assert read(tmp_path, "1\u00a0000 B-num\nx\u3000y O\n", "tokens") == [[["1\u00a0000", "x\u3000y"]]]


@pytest.mark.parametrize(("text", "columns", "sentence"), [
    ("a O\nb X O\n", ["tokens"], "line 2: 3 columns, but the first line has 2, separated by blanks"),
    ("a\tO\nb O\n", ["tokens"], "line 2: 1 column, but the first line has 2, separated by tabs"),
    ("a\nb\n", ["tokens"], "line 1: one column; expected a word and, behind a tab or blanks, its tag"),
    ("a O\n\0\0", ["tokens"], "line 2: a null byte, which no text file holds; the file is damaged"),
    ("a O\n", ["ner_tags"], "no column 'ner_tags', did you mean 'tags'?; the columns are tokens, tags"),
])  # fmt: skip
def test_what_is_no_column_file_is_one_sentence(tmp_path, text, columns, sentence):
    with pytest.raises(UserError) as told:
        read(tmp_path, text, *columns)
    assert str(told.value).endswith(sentence)


def test_an_empty_file_has_no_rows(tmp_path):
    assert read(tmp_path, "\n-DOCSTART- O\n\n", "tokens", "tags") == []


def test_class_ids_in_lists_become_the_names_that_the_file_declares(tmp_path):
    names = ["O", "B-x", "I-x"]
    features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=names))})
    Dataset.from_dict({"tokens": [["a", "b"], ["c"]], "ner_tags": [[1, 2], [0]]}, features).to_parquet(
        str(tmp_path / "t.parquet"))
    table = read_file(str(tmp_path / "t.parquet"), ["tokens", "ner_tags"])
    assert table.class_names == {"ner_tags": names}
    assert list(table.rows) == [(["a", "b"], ["B-x", "I-x"]), (["c"], ["O"])]


def test_one_line_of_lists_is_a_row_in_a_file_of_lines_and_columns_in_another(tmp_path):
    line = '{"tokens": ["a", "b"], "tags": ["O", "O"]}\n'
    assert read(tmp_path, line, "tokens", "tags", name="t.jsonl") == [[["a", "b"], ["O", "O"]]]
    assert read(tmp_path, line, "tokens", "tags", name="t.json") == [["a", "O"], ["b", "O"]]
