"""Augmentation: what is replaced, by what, which rows come out, and the command as a user meets it."""

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from conftest import (
    BAD,
    GOOD,
    PLAIN,
    SPECIAL,
    VOCABULARY,
    randomise,
    tiny_config,
    tiny_model,
    tiny_recipe,
    tiny_tokenizer,
    write_recipe,
)
from transformers import BertForMaskedLM

from dynackd.cli.command_line import main
from dynackd.data.model_labels import labels_of
from dynackd.data.sources import resolve_source
from dynackd.data.words import (
    AugmentationSettings,
    Slot,
    masked_slots,
    neighbour_slots,
    new_rows,
    replaceable,
    whole_words,
)
from dynackd.errors import UserError
from dynackd.tasks.glue import TASKS
from dynackd.tasks.loading import load_task_data
from dynackd.training import augment as augmentation
from dynackd.training.augment import _overrides, augment, overrides
from dynackd.training.recipe import apply_overrides, load_recipe, make_recipe
from dynackd.training.runs import RunMode

SETTINGS = AugmentationSettings(copies=4, candidates=3)
TEXTS = ["The film was very Warm.", "a dull book, and a FINE day", "it is", "don't"]


def tiny_masked_lm(directory=None, seed=0):
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    config = tiny_config("bert")
    config.vocab_size = len(tokenizer)
    model = randomise(BertForMaskedLM(config), seed).eval()
    if directory is not None:
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    return model, tokenizer


def embeddings(seed=0):
    return torch.randn(len(VOCABULARY), 8, generator=torch.Generator().manual_seed(seed))


def words_of(slots):
    return {text: [(text[slot.start : slot.end], slot.candidates) for slot in found] for text, found in slots.items()}


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def recipe_with_teacher(directory, num_labels=2, **changes):
    """A tiny recipe with a random teacher, so that nothing needs training."""
    model = tiny_model(num_labels=num_labels, problem_type="regression" if num_labels == 1 else None)
    model.save_pretrained(directory / "teacher")
    tiny_tokenizer().save_pretrained(directory / "teacher")
    content = {"augmentation": {"copies": 4, "candidates": 3}, **changes}
    return tiny_recipe(directory, teacher=str(directory / "teacher"), **content)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The Pope's film isn't dull, is it?", ["Pope", "film", "dull"]),
        ("I don't doubt they'll won't come", ["doubt", "come"]),
        ("it was not very good and never bad", ["good", "bad"]),
        ("An F16 of NATO at 5pm, &quot;so <br> said @user", ["said"]),
        ("ALL SHOUTED NEWS", ["SHOUTED", "NEWS"]),
        ("naïve Straße", ["naïve", "Straße"]),
        ("42 ... !", []),
        ("नमस्ते film", ["film"]),  # whose vowel signs are no letters: "नमस" is no word
        ("zwei cafe\u0301s schließen", ["zwei", "schließen"]),
        ("这部电影很好看 film", ["film"]),  # one run of letters, several words
    ],
)
def test_words_that_carry_meaning_may_be_replaced_and_nothing_else(text, words):
    assert [text[start:end] for start, end in replaceable(text)] == words


def test_whole_words_are_neither_special_nor_function_words():
    assert set(whole_words(tiny_tokenizer())) == {*GOOD, *BAD, "film", "book", "day", "quite", "NA"}


def test_neighbours_are_the_nearest_by_cosine_written_as_the_word_is():
    vectors, known = embeddings(), whole_words(tiny_tokenizer())
    slots = words_of(neighbour_slots(TEXTS, tiny_tokenizer(), vectors, SETTINGS))
    table = torch.stack([vectors[i] for i in known.values()])
    table = table - table.mean(0)
    cosines = torch.cosine_similarity(table[list(known).index("film")][None], table)
    expected = [list(known)[i] for i in cosines.argsort(descending=True)[1:4]]
    assert slots[TEXTS[0]][0] == ("film", expected)
    assert slots[TEXTS[0]][1][0] == "Warm"
    assert all(candidate[0].isupper() and candidate[1:].islower() for candidate in slots[TEXTS[0]][1][1])
    assert [word for word, _ in slots[TEXTS[1]]] == ["dull", "book", "day"]
    assert slots["it is"] == slots["don't"] == []


def test_a_masked_language_model_gives_what_it_expects_in_each_place():
    model, tokenizer = tiny_masked_lm()
    text = "a dull book and the day"
    told = []
    slots = masked_slots([text, "it is"], tokenizer, model, SETTINGS, lambda *counts: told.append(counts), batch_size=2)
    assert slots["it is"] == []
    assert told == [(2, 3), (3, 3)]
    known = whole_words(tokenizer)
    for word, candidates in words_of(slots)[text]:
        masked = tokenizer(text.replace(word, "<mask>"), return_tensors="pt")
        place = masked["input_ids"][0].tolist().index(tokenizer.mask_token_id)
        with torch.no_grad():
            scores = model(**masked).logits[0, place]
        best = sorted((w for w in known if w != word), key=lambda w: -scores[known[w]])
        assert candidates == best[:3]


def test_words_masked_together_and_texts_that_are_cut_keep_their_places():
    model, tokenizer = tiny_masked_lm()
    rng = random.Random(0)
    texts = [" ".join(rng.choices([*GOOD, *PLAIN], k=count)) for count in (3, 20, 45, 90)]
    slots = masked_slots(texts, tokenizer, model, SETTINGS)
    for text, found in words_of(slots).items():
        assert [word for word, _ in found] == [text[a:b] for a, b in replaceable(text)][: len(found)]
        assert all(word not in candidates for word, candidates in found)
    assert len(slots[texts[2]]) == len(replaceable(texts[2]))
    assert 0 < len(slots[texts[3]]) < len(replaceable(texts[3]))
    assert masked_slots(["a <mask> film"], tokenizer, model, SETTINGS)["a <mask> film"] == []


def test_new_rows_are_new_the_same_for_a_seed_and_never_held_out():
    rows = [("the film was warm",), ("a dull book",), ("it is",), ("a dull book",)]
    texts = {text for row in rows for text in row}
    slots = neighbour_slots(texts, tiny_tokenizer(), embeddings(), SETTINGS)
    made = list(new_rows(rows, slots, SETTINGS))
    assert made == list(new_rows(rows, slots, SETTINGS))
    assert made != list(new_rows(rows, slots, AugmentationSettings(copies=4, candidates=3, seed=7)))
    assert len({row for _, row in made} | set(rows)) == len(made) + 3
    assert {origin for origin, _ in made} <= {0, 1, 3}
    held_out = [(made[0][1][0].upper() + " ",)]
    assert held_out[0][0].lower().strip() not in {row[0] for _, row in new_rows(rows, slots, SETTINGS, held_out)}


def test_of_a_pair_one_text_changes_at_a_time():
    rows = [("the film was warm", "a dull book"), ("it is", "a fine day")]
    slots = neighbour_slots({text for row in rows for text in row}, tiny_tokenizer(), embeddings(), SETTINGS)
    made = list(new_rows(rows, slots, SETTINGS))
    changes = [[old != new for old, new in zip(rows[origin], row, strict=True)] for origin, row in made]
    assert all(sum(change) == 1 for change in changes)
    assert {tuple(change) for change in changes} == {(True, False), (False, True)}


def test_only_the_words_in_the_slots_change_and_as_often_as_the_probability_says():
    text = "a dull film"
    slots = {text: [Slot(2, 6, list("abcdefghij")), Slot(7, 11, list("klmnopqrst"))]}
    always = AugmentationSettings(copies=30, probability=1.0)
    made = [row[0].split(" ") for _, row in new_rows([(text,)], slots, always)]
    assert all(first == "a" and dull in "abcdefghij" and film in "klmnopqrst" for first, dull, film in made)
    rare = AugmentationSettings(copies=15, probability=0.1)
    made = [row[0].split(" ") for _, row in new_rows([(text,)], slots, rare)]
    assert sum((dull != "dull") + (film != "film") for _, dull, film in made) < 1.5 * len(made)


def test_the_file_holds_the_old_rows_and_new_ones_with_the_teachers_labels(tmp_path):
    recipe = make_recipe(recipe_with_teacher(tmp_path))
    directory, about = augment(recipe, RunMode())
    rows = read_jsonl(directory / "train.jsonl")
    originals = [line.split("\t") for line in (tmp_path / "train.tsv").read_text().splitlines()[1:]]
    assert [[row["sentence"], row["label"]] for row in rows[: len(originals)]] == originals
    new = rows[len(originals) :]
    assert about["rows"] == {"original": len(originals), "new": len(new)}
    texts = [row["sentence"] for row in new]
    assert len(set(texts)) == len(texts) > len(originals)
    validation = {line.split("\t")[0] for line in (tmp_path / "validation.tsv").read_text().splitlines()[1:]}
    assert not set(texts) & (validation | {text for text, _ in originals})
    assert {word for text in texts for word in text.split()} <= set(VOCABULARY) - set(SPECIAL)
    teacher, tokenizer = tiny_model(), tiny_tokenizer()
    with torch.no_grad():
        for row in new[::7]:
            tokens = tokenizer(row["sentence"], truncation=True, max_length=16, return_tensors="pt")
            assert int(row["label"]) == int(teacher(**tokens).logits.argmax())
    names = {path.name for path in directory.iterdir()}
    assert names == {"train.jsonl", "augment.json", "recipe.yaml", "origin.json", ".dynackd.json"}
    assert json.loads((directory / "augment.json").read_text()).items() >= about.items()
    assert sum(about["new_labels"].values()) == len(new)
    before = (directory / "train.jsonl").read_bytes()
    with pytest.raises(UserError, match="add --overwrite"):
        augment(recipe, RunMode())
    augment(recipe, RunMode(overwrite=True))
    assert (directory / "train.jsonl").read_bytes() == before


def test_pairs_of_a_regression_get_the_teachers_value(tmp_path):
    rows = [{"a": f"the {x} film\twas", "b": f'a {y} "book"\n', "s": 1.5} for x in GOOD for y in BAD]
    write_jsonl(tmp_path / "t.jsonl", rows)
    write_jsonl(tmp_path / "v.jsonl", rows[:2])
    task = {"kind": "regression", "text": ["a", "b"], "label": "s"}
    data = {"train": str(tmp_path / "t.jsonl"), "validation": str(tmp_path / "v.jsonl"), "max_length": 32}
    directory, about = augment(make_recipe(recipe_with_teacher(tmp_path, 1, task=task, data=data)), RunMode())
    found = read_jsonl(directory / "train.jsonl")
    assert found[: len(rows)] == rows
    assert "new_labels" not in about
    teacher, tokenizer = tiny_model(num_labels=1), tiny_tokenizer()
    for row in found[len(rows) :: 9]:
        with torch.no_grad():
            value = teacher(**tokenizer(row["a"], row["b"], return_tensors="pt")).logits.item()
        assert row["s"] == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize(
    ("names", "written"),
    [
        ({0: "LABEL_0", 1: "LABEL_1"}, ("0", "1")),
        ({0: "Entailment", 1: "Not_Entailment"}, ("0", "1")),
        ({0: "not_entailment", 1: "entailment"}, ("1", "0")),
    ],
)
def test_labels_are_written_as_the_data_write_them_whatever_the_teacher_calls_them(tmp_path, names, written):
    rows = [
        {"sentence1": f"the {x} film", "sentence2": f"a {y} book", "label": i % 2}
        for i, (x, y) in enumerate(zip(GOOD * 3, (BAD * 4)[3:], strict=False))
    ]
    write_jsonl(tmp_path / "t.jsonl", rows)
    data = {"train": str(tmp_path / "t.jsonl"), "validation_share": 0.2, "max_length": 32, "train_rows": 6}
    content = recipe_with_teacher(tmp_path, task="rte", data=data)
    model = tiny_model(id2label=names, label2id={name: i for i, name in names.items()})
    model.save_pretrained(tmp_path / "teacher")
    path = write_recipe(tmp_path, content)
    labels = labels_of(model.config)
    before = load_task_data(load_recipe(path).task, load_recipe(path).data, model=labels)
    assert before.labels.written == written
    _, about = augment(load_recipe(path), RunMode())
    recipe = load_recipe(path, overrides(load_recipe(path)))
    after = load_task_data(recipe.task, recipe.data, model=labels)
    # The rows that were cut off for validation stay the same, and the limit of rows counts once.
    assert about["rows"]["original"] == 6
    assert after.train[:6] == before.train[:]
    assert len(after.train) == sum(about["rows"].values())
    assert after.validation[""][:] == before.validation[""][:]
    with torch.no_grad():
        for row in list(after.train)[6::5]:
            tokens = tiny_tokenizer()(row["sentence1"], row["sentence2"], return_tensors="pt")
            assert row["label"] == int(model(**tokens).logits.argmax())


def test_the_command_says_what_to_run_next_and_the_stages_train_on_it(tmp_path, capsys):
    tiny_masked_lm(tmp_path / "lm")
    content = recipe_with_teacher(tmp_path, augmentation={"masked_lm": str(tmp_path / "lm"), "copies": 2})
    recipe = str(write_recipe(tmp_path, content))
    assert main(["augment", recipe]) == 0
    printed = capsys.readouterr().out
    directory = tmp_path / "run" / "augmented"
    assert f"results: {directory}\n" in printed
    override = f"data.train={directory / 'train.jsonl'}"
    assert f"next: dynackd train-width {recipe} --set {override}\n" in printed
    assert main(["augment", recipe]) == 2
    assert "add --overwrite" in capsys.readouterr().err
    once = (directory / "train.jsonl").read_bytes()
    assert main(["augment", recipe, "--overwrite", "--set", "training.bf16=false"]) == 0
    assert (directory / "train.jsonl").read_bytes() == once
    assert main(["train-width", recipe, "--set", override, "--set", "training.max_steps=2"]) == 0


@pytest.mark.parametrize("model", ["masked_slots", "predict"])
def test_a_killed_run_goes_on_to_the_same_result_without_doing_its_work_again(tmp_path, monkeypatch, model):
    monkeypatch.setattr("dynackd.training.augment.PART_TEXTS", 5)
    monkeypatch.setattr("dynackd.training.augment.PART_ROWS", 8)
    tiny_masked_lm(tmp_path / "lm")
    section = {"masked_lm": str(tmp_path / "lm"), "copies": 2}
    recipe = make_recipe(recipe_with_teacher(tmp_path, augmentation=section))
    whole = (augment(recipe, RunMode())[0] / "train.jsonl").read_bytes()
    calls, ask = [], getattr(augmentation, model)

    def killed(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return ask(*arguments, **options)

    monkeypatch.setattr(augmentation, model, killed)
    with pytest.raises(KeyboardInterrupt):
        augment(recipe, RunMode(overwrite=True))
    assert (tmp_path / "run" / "augmented" / "train.jsonl").read_bytes() == whole
    shutil.rmtree(tmp_path / "run" / "augmented")
    with pytest.raises(UserError, match="unfinished run; add --resume"):
        augment(recipe, RunMode())
    changed = make_recipe(recipe_with_teacher(tmp_path, augmentation={**section, "probability": 0.9}))
    with pytest.raises(UserError, match=r"recipe has changed since .*in augmentation"):
        augment(changed, RunMode(resume=True))
    part = next((tmp_path / "run").glob("*/*-????????????????????????????????.json"))
    part.write_text(json.dumps({**json.loads(part.read_text()), "seconds": 1000}))
    directory, _ = augment(recipe, RunMode(resume=True))
    assert (directory / "train.jsonl").read_bytes() == whole
    assert 1000 <= json.loads((directory / "augment.json").read_text())["seconds"] < 2000, "with those before the kill"
    resumed = len(calls)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["augmented"]
    calls[:] = [1] * 3  # never killed again
    augment(recipe, RunMode(overwrite=True))
    assert len(calls) - 3 == resumed - 1  # all parts but the one that was cut off were done once


def test_what_was_kept_of_other_rows_is_not_taken_for_these(tmp_path, monkeypatch):
    monkeypatch.setattr("dynackd.training.augment.PART_ROWS", 8)
    recipe = make_recipe(recipe_with_teacher(tmp_path))
    whole = (augment(recipe, RunMode())[0] / "train.jsonl").read_bytes()
    lines = (tmp_path / "train.tsv").read_text().splitlines(keepends=True)
    (tmp_path / "train.tsv").write_text("".join([lines[0], *reversed(lines[1:])]))
    monkeypatch.setattr(augmentation, "new_directory", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        augment(recipe, RunMode(overwrite=True))
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "run" / "augmented")
    (tmp_path / "train.tsv").write_text("".join(lines))
    with pytest.raises(UserError, match="the 48 training rows are others or in another order"):
        augment(recipe, RunMode(resume=True))
    assert (augment(recipe, RunMode(overwrite=True))[0] / "train.jsonl").read_bytes() == whole


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"copys": 3}, "unknown key 'augmentation.copys', did you mean 'copies'"),
        ({"copies": 0}, "augmentation.copies must be a whole number of 1 or more, not 0"),
        ({"copies": True}, "augmentation.copies must be a whole number"),
        ({"candidates": 1.5}, "augmentation.candidates must be a whole number"),
        ({"seed": -1}, "augmentation.seed must be a whole number of 0 or more"),
        ({"probability": 0}, "augmentation.probability must be a number above 0 up to 1, not 0"),
        ({"probability": 1.5}, "augmentation.probability must be a number above 0 up to 1, not 1.5"),
        ({"probability": "often"}, "augmentation.probability must be a number above 0 up to 1, not 'often'"),
        ({"masked_lm": 3}, "augmentation.masked_lm must be a text, or null, not 3"),
        ([1], "augmentation must be a mapping"),
    ],
)
def test_a_mistake_in_the_section_is_told_when_the_recipe_is_read(tmp_path, section, message):
    with pytest.raises(UserError, match=message) as error:
        make_recipe(tiny_recipe(tmp_path, augmentation=section))
    assert "\n" not in str(error.value)


def test_what_is_no_masked_language_model_is_refused(tmp_path):
    def refusal(name):
        with pytest.raises(UserError) as error:
            augment(make_recipe(recipe_with_teacher(tmp_path, augmentation={"masked_lm": str(name)})), RunMode())
        assert not (tmp_path / "run").exists()
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "'no_such_package' is not installed" in refusal("package:no_such_package/m")
    assert "there is no model directory" in refusal(tmp_path / "nothing")
    assert "is no masked language model" in refusal(tmp_path / "encoder")
    BertForMaskedLM(tiny_config("bert")).save_pretrained(tmp_path / "language-model")
    tiny_tokenizer().save_pretrained(tmp_path / "language-model")
    assert "has no mask token" in refusal(tmp_path / "language-model")
    _, tokenizer = tiny_masked_lm()
    tokenizer.save_pretrained(tmp_path / "encoder")
    assert "is no masked language model" in refusal(tmp_path / "encoder")


def test_without_a_teacher_or_a_word_to_replace_there_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="run dynackd finetune"):
        augment(make_recipe(tiny_recipe(tmp_path)), RunMode())
    (tmp_path / "train.tsv").write_text("sentence\tlabel\nit is\t1\nthe one\t0\n")
    with pytest.raises(UserError, match="no word of the 2 training rows can be replaced"):
        augment(make_recipe(recipe_with_teacher(tmp_path)), RunMode())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("data", [None, "glue/mnli", {"hub": "glue/mnli", "max_length": 9, "train_rows": 5}])
def test_rows_from_the_hub_become_files(data):
    source = resolve_source(data, TASKS["mnli"].hub)
    content = {} if data is None else {"data": data}
    overrides = _overrides(source, Path("run"), ["", "_mm"])
    now = resolve_source(apply_overrides(content, overrides)["data"], TASKS["mnli"].hub)
    assert (now.hub, now.train, now.train_rows) == (None, "run/train.jsonl", None)
    assert (now.validation, now.validation_mm) == ("run/validation.jsonl", "run/validation_mm.jsonl")
