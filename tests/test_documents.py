"""The documents hold: links, command lines, recipes, Python, the recipe reference, the front page's numbers, the
picture, the errors that the FAQ answers."""

import copy
import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import transformers
from bad_inputs import all_cases
from conftest import tiny_model, tiny_tokenizer
from test_layering import FLOORS, floor_of

import dynackd
from dynackd.cli.command_line import _parser
from dynackd.deploy.export import export_student
from dynackd.distill.terms import TERMS
from dynackd.families.table import FAMILIES, REFUSED
from dynackd.grid import Grid, read_subnet
from dynackd.subnet import Geometry, SubnetSpec
from dynackd.supernet.network import Supernet
from dynackd.system.yamltext import read_yaml
from dynackd.tasks.glue import TASKS
from dynackd.tasks.kinds import KINDS
from dynackd.training.recipe import make_recipe

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "RESULTS.md"]
NAMES = [document.relative_to(ROOT).as_posix() for document in DOCUMENTS]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def blocks(document, *languages):
    """The code blocks of these languages."""
    return [code for language, code in FENCE.findall(document.read_text(encoding="utf-8")) if language in languages]


def prose(document):
    return FENCE.sub("", document.read_text(encoding="utf-8"))


def anchor(heading):
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_every_relative_link_leads_somewhere(document):
    for target in LINK.findall(prose(document)):
        if re.match(r"https?://", target):
            continue
        path, _, place = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), f"{target} does not exist"
        assert ROOT in file.parents, f"{target} lies outside the repository"
        if place:
            assert place in map(anchor, HEADING.findall(prose(file))), f"{target}: no such heading"


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_every_file_that_a_page_names_is_there(document):
    named = re.findall(r"`((?:dynackd|tests|benchmarks|recipes|docs)/[\w./-]+)`", prose(document))
    missing = {name for name in named if not (ROOT / name).exists()}
    assert missing <= {"dynackd/families/ernie.py"}  # which the reader is to write


def test_every_page_is_reached_from_the_front_page():
    linked = set(LINK.findall(prose(ROOT / "README.md")))
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= linked


def commands(document):
    """The command lines of dynackd in bash blocks, and behind a prompt in those that show what is printed."""
    text = "\n".join(blocks(document, "bash"))
    text += "\n" + "\n".join(re.findall(r"^\$ (.*(?:\\\n.*)*)$", "\n".join(blocks(document, "console")), re.MULTILINE))
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        for name in ("dynackd", "torchrun"):
            if words[:1] == [name]:
                yield words[1:] if name == "dynackd" else words[words.index("-m") + 2 :]


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_every_command_line_is_one(document):
    for words in commands(document):
        _parser().parse_args(words)


def test_the_guide_shows_every_command_of_the_road():
    shown = {words[0] for words in commands(ROOT / "docs" / "guide.md")}
    assert shown >= {"finetune", "train-width", "train-depth", "evaluate", "export", "benchmark"}


BASE = {
    "model": "a/model",
    "task": {"kind": "classification", "text": "review", "label": "verdict"},
    "data": {"train": "train.csv", "validation": "dev.csv"},
    "output_dir": "runs/reviews",
}


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_every_recipe_and_every_part_of_one_passes(document):
    """A part is checked within a whole recipe, whose keys it replaces."""
    for text in blocks(document, "yaml"):
        content = read_yaml(text)
        content.pop("paths", None)
        make_recipe({**copy.deepcopy(BASE), **content})


def test_every_spec_is_one_of_minilm(tmp_path):
    shown = [text for document in DOCUMENTS for text in blocks(document, "json") if '"layers"' in text]
    assert len(shown) >= 2
    for text in shown:
        (tmp_path / "spec.json").write_text(text, encoding="utf-8")
        read_subnet(tmp_path / "spec.json", Geometry(layers=6, heads=12, head_size=32, neurons=1536, hidden=384))


@pytest.fixture
def run_directory(tmp_path, monkeypatch):
    """A directory with a tiny supernet and a student at the places that the documents name."""
    supernet = Supernet(tiny_model(), Grid((1.0, 0.5), (1.0, 0.5))).eval()
    (tmp_path / "runs" / "reviews" / "depth").mkdir(parents=True)
    supernet.save(tmp_path / "runs" / "reviews" / "depth", tiny_tokenizer())
    export_student(supernet, tiny_tokenizer(), SubnetSpec(0.5, 0.5), tmp_path / "student")
    monkeypatch.chdir(tmp_path)


EXTENDING = ROOT / "docs" / "extending.md"
WITH_PYTHON = [document for document in DOCUMENTS if blocks(document, "python") and document != EXTENDING]


@pytest.mark.parametrize("document", WITH_PYTHON, ids=[path.name for path in WITH_PYTHON])
def test_the_python_of_a_page_runs_from_top_to_bottom(document, run_directory, capsys):
    names = {}
    for code in blocks(document, "python"):
        if "import openvino" in code and importlib.util.find_spec("openvino") is None:
            continue
        exec(compile(code, str(document), "exec"), names)
    assert capsys.readouterr().out


def test_the_registries_that_the_page_about_extending_names_are_there():
    named = re.findall(r"^\| an? [^|]* \| `dynackd\.([\w.]+)\.([A-Z_]+)` \|", prose(EXTENDING), re.MULTILINE)
    assert len(named) >= 12
    for module, name in named:
        assert isinstance(getattr(importlib.import_module(f"dynackd.{module}"), name), dict)


# What the page adds, used: rows in its format, its score and rule in a training, its file and client in a student.
USED = """
import sys
from pathlib import Path

import pyarrow.csv
from conftest import tiny_recipe, tiny_tokenizer, write_recipe
from dynackd import SubnetSpec
from dynackd.cli.command_line import main
from dynackd.deploy.export import export_student

def commands(*lines):
    for line in lines:
        assert main(line.split()) == 0, line

content = tiny_recipe(Path.cwd(), importance={"score": "random", "rows": 16})
for split in ("train", "validation"):
    rows = pyarrow.csv.read_csv(f"{split}.tsv", parse_options=pyarrow.csv.ParseOptions(delimiter="\\t"))
    feather.write_feather(rows, f"{split}.feather")
    content["data"][split] = f"{split}.feather"
content["grid"]["kept_layers"] = "first"
write_recipe(Path.cwd(), content)
commands("finetune recipe.yaml", "train-width recipe.yaml", "export run/width --rounded --max-drop 1 --output student")
assert Path("student/onnx/model_rounded.onnx").is_file()
assert "dynackd, checked before it is built" in Path("student/README.md").read_text()
assert keep_first(2, 4) == (0, 1)
rating = {"kind": "rating", "text": "sentence", "label": "label"}
write_recipe(Path.cwd(), tiny_recipe(Path.cwd(), task=rating, output_dir="rated"))
commands("finetune recipe.yaml", "train-width recipe.yaml", "export rated/width --width 0.5 --output rater")
assert "stars_right" in Path("rated/width/metrics.json").read_text()
assert "A smaller rater" in Path("rater/README.md").read_text()
export_student(net, tiny_tokenizer(), SubnetSpec(0.5, 0.5), Path("ernie"))
assert AutoModelForSequenceClassification.from_pretrained("ernie").config.model_type == "dynackd-ernie"
"""


def test_the_additions_of_the_page_about_extending_work_as_they_stand(tmp_path):
    """In a process of its own: it changes the registries."""
    code = "\n".join(blocks(EXTENDING, "python")) + USED
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_python_page_names_everything_that_is_public():
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    assert all(f"`{name}" in text for name in dynackd.__all__)


PINNED = re.search(r"^transformers==(.*)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.skipif(PINNED is None or PINNED[1] != transformers.__version__, reason="the library's fields are others")
def test_the_recipe_reference_is_the_schemas(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import recipe

    monkeypatch.delitem(sys.modules, "recipe")
    assert recipe.FILE.read_text(encoding="utf-8") == recipe.page(), "write it anew: python docs/recipe.py"


def table_rows(text):
    return [re.split(r" *\| *", line.strip("| ")) for line in text.splitlines() if line.startswith("| ")]


def test_the_numbers_of_the_front_page_are_the_results():
    results = {tuple(row[:2]): row for row in table_rows(prose(ROOT / "docs" / "results.md")) if len(row) == 12}
    shown = [row for row in table_rows(prose(ROOT / "README.md")) if re.match(r"[\d.]+ x", row[0])]
    assert len(shown) >= 4
    for size, params, flops, accuracy, torch_share, onnx, int8, int8_accuracy in shown:
        row = results[tuple(size.split(" x "))]
        at_128 = [row[place].split(" / ")[1] for place in (6, 7, 9)]
        assert [params, flops, accuracy, torch_share, onnx, int8, int8_accuracy] == [*row[2:5], *at_128, row[11]]


def test_the_map_of_the_code_names_every_package_in_the_order_of_the_floors():
    _, _, part = prose(ROOT / "docs" / "how-it-works.md").partition("## Map of the code")
    named = [row[0].strip("`") for row in table_rows(part)][1:]
    assert set(named) == set.union(*FLOORS) - {"__main__", "version"}
    assert sorted(named, key=floor_of) == named


def test_the_page_about_the_signal_names_every_term():
    rows = table_rows(prose(ROOT / "docs" / "how-it-works.md"))
    assert set(TERMS) == {row[0].strip("`") for row in rows if len(row) == 3} - {"term"}


def test_the_page_about_tasks_names_all_of_them_as_they_are():
    rows = {row[0].strip("`"): row[1:] for row in table_rows(prose(ROOT / "docs" / "tasks.md")) if len(row) == 4}
    for name, task in TASKS.items():
        columns, labels, metrics = rows[name]
        assert columns == ", ".join(task.text_columns)
        assert labels == (", ".join(task.label_names) if task.label_names else "a number")
        assert metrics.startswith(", ".join(task.metrics))
    text = prose(ROOT / "docs" / "tasks.md")
    assert all(f"`{name}`" in text for kind in KINDS.values() for name in (kind.name, *kind.metrics))


def test_the_page_about_families_names_all_of_them():
    text = prose(ROOT / "docs" / "families.md")
    about = text.replace(text.partition("## With which task kinds")[2].partition("\n## ")[0], "")
    named = {name for row in table_rows(about) for name in re.findall(r"`([a-z0-9_-]+)`", row[0])}
    assert named - {"model_type"} == set(FAMILIES) | set(REFUSED)
    assert all(reason in text for reason in REFUSED.values())


def test_the_picture_is_drawn_from_the_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import picture

    monkeypatch.delitem(sys.modules, "picture")
    assert picture.told(picture.points()) in (ROOT / "docs" / "picture.svg").read_text(encoding="utf-8")
    assert len(picture.points()["ONNX Runtime, int8"]) == 12


def test_the_front_pages_picture_is_a_reports_and_of_the_run_in_the_results():
    """Its description holds the points: the teacher and (1, 1), (0.5, 1), (0.5, 0.75), (0.5, 0.5) of the table."""
    picture = ROOT / "docs" / "report.svg"
    assert "(docs/report.svg)" in (ROOT / "README.md").read_text(encoding="utf-8")
    text = picture.read_text(encoding="utf-8")
    assert "dynackd report" in text
    assert picture.stat().st_size < 150_000
    row = next(row for row in table_rows(prose(ROOT / "docs" / "results.md")) if row[0].startswith("goemotions"))
    assert all(f"0{value}" in text for value in (*row[2:7], row[8]))


def test_the_errors_that_the_faq_answers_are_the_ones_that_are_printed():
    """Each is a sentence of `bad_inputs`, or stands in the code; what lies between its `...` must be word for word."""
    code = [re.sub(r'"\s*\n\s*f?"', "", path.read_text(encoding="utf-8")) for path in (ROOT / "dynackd").rglob("*.py")]
    known = [*(case.sentence for _, case in all_cases()), *code]
    messages = re.findall(r"^\*\*`([^`]*)`\*\*$", prose(ROOT / "docs" / "faq.md"), re.MULTILINE)
    assert len(messages) >= 18
    for message in (" ".join(message.split()) for message in messages):
        parts = [part.strip(" ,;:()'") for part in message.split("...")]
        pattern = ".*".join(re.escape(part) for part in parts if part)
        assert any(re.search(pattern, text) for text in known), message


