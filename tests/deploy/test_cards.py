"""The snippets of every kind's model card, run as they stand.

    PYTHONPATH=tests:tests/deploy python tests/deploy/test_cards.py

prints all of them, Python's too, with what each prints: the clients' transcripts. The Python ones are tested beside
each kind.
"""

import re
import tempfile
from pathlib import Path

import pytest
from conftest import GOOD, tiny_model, tiny_tokenizer
from test_cells import SMALL, model_of, rows_of
from test_clients import CLIENTS, javascript_card, node, run, snippets  # noqa: F401

from dynackd.data.sources import resolve_source
from dynackd.deploy.card import facts_of_training
from dynackd.deploy.export import ExportOptions, export_student
from dynackd.deploy.validation import Validation
from dynackd.grid import Grid
from dynackd.supernet.network import Supernet
from dynackd.tasks.kinds import KINDS
from dynackd.tasks.task import resolve_task


def student_of(name, directory, **options):
    """A tiny student of a kind."""
    kind, data, inputs = rows_of(name, directory)
    net = Supernet(model_of("bert", kind, data, directory), Grid((1.0, 0.5), (1.0, 0.5)))
    validation = Validation(data.task, {"": inputs["validation"]}, tiny_tokenizer())
    place = directory / "student"
    export_student(net, tiny_tokenizer(), SMALL, place, options=ExportOptions(**options), validation=validation)
    return place


@pytest.mark.client
@pytest.mark.parametrize("kind", [name for name in KINDS if name != "regression"])
def test_the_javascript_snippet_of_a_kinds_card_runs_as_it_stands(node, kind, tmp_path):  # noqa: F811
    (tmp_path / "place").mkdir()
    assert javascript_card(student_of(kind, tmp_path), tmp_path / "place").strip()


def test_a_card_names_its_data_without_the_places_of_this_machine(tmp_path):
    task = resolve_task({"kind": "classification", "text": "text", "label": "label"})
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    file = resolve_source({"train": "/home/ada/rows/train.csv", "max_length": 64})
    models = [None, tmp_path / "missing", tmp_path]
    assert facts_of_training(task, file, models) == {
        "task": "custom", "data": "train.csv", "trained_max_length": 64, "licence": "mit",
    }  # fmt: skip
    hub = resolve_source({"hub": "owner/name/config", "max_length": 64})
    assert facts_of_training(task, hub, []) == {"task": "custom", "data": "owner/name/config", "trained_max_length": 64}


@pytest.mark.client
def test_the_javascript_snippet_of_a_tagger_prints_its_entities(node, tmp_path, monkeypatch):  # noqa: F811
    """Words that the tiny vocabulary lacks would be passed over, and the list be empty."""
    kind = KINDS["token_classification"]
    monkeypatch.setattr(kind, "example", " ".join(GOOD[:3]))
    (tmp_path / "place").mkdir()
    printed = javascript_card(student_of(kind.name, tmp_path), tmp_path / "place")
    assert "entity_group: 'X'" in printed


def show():
    for name in KINDS:
        with tempfile.TemporaryDirectory() as temporary:
            directory = Path(temporary)
            student = student_of(name, directory, with_code=True)
            print(f"\n===== {name}")
            for code in snippets(student, "python"):
                blocked = "import sys; sys.modules['dynackd'] = None\n" if "trust_remote_code" in code else ""
                print(f"--- python\n{code}>>>\n{run(blocked + code, cwd=directory).strip()[:600]}", flush=True)
            for code in snippets(student, "js"):
                (directory / "place").mkdir()
                printed = javascript_card(student, directory / "place") if (CLIENTS / "node_modules").is_dir() else "-"
                print(f"--- js\n{code}>>>\n{printed.strip()[:600]}", flush=True)

def test_the_snippets_of_a_pair_give_the_model_two_texts(tmp_path):
    """All clients were shown with one, which the model had never seen."""
    task = resolve_task({"kind": "classification", "text": ["one", "other"], "label": "score"})
    facts = facts_of_training(task, resolve_source({"train": "rows.csv", "max_length": 16}), [])
    net = Supernet(tiny_model(), Grid((1.0, 0.5), (1.0, 0.5)))
    place = tmp_path / "student"
    export_student(net, tiny_tokenizer(), SMALL, place, facts=facts)
    card = (place / "README.md").read_text()
    assert '({"text": "a fine film", "text_pair": "a cold day"}, truncation=True))' in card
    assert '.encode("a fine film", "a cold day")' in card
    assert "text_pair: others, padding: true" in card
    assert '"a fine film")' not in card
    one = facts_of_training(resolve_task({"kind": "regression", "text": "one", "label": "score"}),
                            resolve_source({"train": "rows.csv", "max_length": 16}), [])  # fmt: skip
    two = facts_of_training(resolve_task({"kind": "embedding", "pair": ["one", "other"], "score": "score"}),
                            resolve_source({"train": "rows.csv", "max_length": 16}), [])  # fmt: skip
    assert "texts" not in {*one, *two}, "an embedder reads one of them at a time"


@pytest.mark.parametrize("kind", ["classification", "multi_label", "regression", "plain"])
def test_the_pipeline_of_a_card_cuts_long_texts(kind, tmp_path, monkeypatch):
    """It read on, and gave other answers than were evaluated, or failed behind the model's last position."""
    place = student_of(kind, tmp_path)
    card = (place / "README.md").read_text()
    snippet = next(own for own in re.findall(r"```python\n(.*?)```", card, re.DOTALL) if "pipeline(" in own)
    monkeypatch.chdir(tmp_path)
    exec(snippet.replace("a fine film", "a fine film " * 200), {})


@pytest.mark.parametrize("kind", ["ranking", "embedding"])
def test_what_runs_a_students_own_code_asks_nobody_for_the_tokenizer(kind, tmp_path):
    """transformers asked in a terminal whether to run it."""
    card = (student_of(kind, tmp_path, with_code=True) / "README.md").read_text()
    own = re.search(r"Without dynackd, running.*?```python\n(.*?)```", card[card.index("### transformers, without") :],
                    re.DOTALL)[1]  # fmt: skip
    assert own.count("from_pretrained(") == own.count(", trust_remote_code=True)") == 2


if __name__ == "__main__":
    show()
