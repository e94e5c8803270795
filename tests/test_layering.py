"""Imports go one way: a module may import only those above it in this list."""

import ast
from pathlib import Path

import pytest

import dynackd

ORDER = [
    "version",
    "errors",
    "yamltext",
    "labels",
    "interruption",
    "processes",
    "spec",
    "families",
    "places",
    "checkpoints",
    "origins",
    "supernet",
    "importance",
    "relations",
    "distill",
    "tasks",
    "tables",
    "delimited",
    "json_rows",
    "readers",
    "sources",
    "disk",
    "rows",
    "data",
    "tokens",
    "words",
    "docstrings",
    "slicing",
    "student",
    "cost",
    "evaluation",
    "teacher_check",
    "trainer",
    "graph",
    "rates",
    "report",
    "benchmark",
    "quantize",
    "compat",
    "travel",
    "tokenizer_files",
    "validation",
    "card",
    "export",
    "arguments",
    "recipe",
    "lineage",
    "stages",
    "augment",
    "quickstart",
    "cli",
    "__main__",
]
PACKAGE = Path(dynackd.__file__).parent


def imported(path):
    """Names of dynackd's modules that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "dynackd":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dynackd."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("dynackd.")}
        assert not (isinstance(node, ast.ImportFrom) and node.level), "relative imports hide the direction"
    return names


def modules():
    return sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def test_every_module_has_its_place():
    assert set(modules()) == set(ORDER)


@pytest.mark.parametrize("module", modules())
def test_imports_point_upwards_in_the_list_only(module):
    above = ORDER[: ORDER.index(module)]
    assert imported(PACKAGE / f"{module}.py") <= set(above)


def test_the_library_never_imports_its_recipes_tests_or_benchmarks():
    for path in PACKAGE.glob("*.py"):
        assert not imported(path) & {"recipes", "tests", "benchmarks"}
