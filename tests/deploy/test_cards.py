"""The snippets of every kind's model card, run as they stand.

    PYTHONPATH=tests:tests/deploy python tests/deploy/test_cards.py

prints all of them, Python's too, with what each prints: the clients' transcripts. The Python ones are tested beside
each kind.
"""

import tempfile
from pathlib import Path

import pytest
from conftest import tiny_tokenizer
from test_cells import SMALL, model_of, rows_of
from test_clients import CLIENTS, javascript_card, node, run, snippets  # noqa: F401

from dynackd.deploy.export import ExportOptions, export_student
from dynackd.deploy.validation import Validation
from dynackd.grid import Grid
from dynackd.supernet.network import Supernet
from dynackd.tasks.kinds import KINDS


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


if __name__ == "__main__":
    show()
