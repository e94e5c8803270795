"""Imports go one way: down the floors, by package, and inside a package by module."""

import ast
from pathlib import Path

import pytest

import dynackd

# From the top down; packages on the same floor do not import one another.
FLOORS = [
    {"__main__"},
    {"cli"},
    {"quickstart"},
    {"compress"},
    {"search"},  # it reads a recipe's rows, as a training does, and exports and measures what it finds
    {"deploy", "training"},
    {"measure"},
    {"distill", "onnx", "students"},
    {"supernet"},
    {"families", "tasks"},
    {"data"},
    {"grid"},
    {"subnet"},
    {"report"},
    {"system"},
    {"errors", "version"},
]
PACKAGE = Path(dynackd.__file__).parent
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]
MOST_LINES = 400


def module_of(path):
    """`training.stages` of a file, `training` of a package's own."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def imported(path):
    """Names of dynackd's modules that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide the direction"
            if node.module == "dynackd" or (node.module or "").startswith("dynackd."):
                base = node.module.removeprefix("dynackd").removeprefix(".")
                inner = {f"{base}.{alias.name}".removeprefix(".") for alias in node.names}
                names |= {name if name in MODULES else base for name in inner}
        elif isinstance(node, ast.Import):
            names |= {a.name.removeprefix("dynackd.") for a in node.names if a.name.startswith("dynackd.")}
    return names - {""}


def package_of(module):
    return module.partition(".")[0]


def floor_of(package):
    return next(index for index, packages in enumerate(FLOORS) if package in packages)


def test_every_package_has_its_floor():
    assert {package_of(module) for module in MODULES} == set.union(*FLOORS)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down_the_floors_only(module):
    own = package_of(module)
    for other in imported(MODULES[module]):
        below = package_of(other)
        assert below == own or floor_of(below) > floor_of(own), f"{module} imports {other}"


def test_no_modules_of_a_package_import_one_another_in_a_circle():
    below = {module: {m for m in imported(path) if package_of(m) == package_of(module)}
             for module, path in MODULES.items()}
    while free := {module for module, others in below.items() if not others & below.keys() - {module}}:
        below = {module: others for module, others in below.items() if module not in free}
    assert not below, f"these import one another: {sorted(below)}"


@pytest.mark.parametrize("module", MODULES)
def test_a_long_module_says_at_its_head_why(module):
    text = MODULES[module].read_text(encoding="utf-8")
    if len(text.splitlines()) > MOST_LINES:
        assert "One module because" in (ast.get_docstring(ast.parse(text)) or "")


def test_the_library_never_imports_its_recipes_tests_or_benchmarks():
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert not any(f"import {name}" in text for name in ("recipes", "tests", "benchmarks", "conftest"))


def test_the_tests_stand_in_the_same_tree():
    packages = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    folders = {path.parent.name for path in Path(__file__).parent.glob("*/test_*.py")}
    assert folders <= packages


def show():
    """`python tests/test_layering.py`: the tree with lines a module, and which packages each package imports."""
    lines = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in MODULES.items()}
    packages = [package for floor in FLOORS for package in sorted(floor)]
    for package in packages:
        own = {module: count for module, count in lines.items() if package_of(module) == package}
        below = {package_of(other) for module in own for other in imported(MODULES[module])} - {package}
        inner = ", ".join(f"{module.partition('.')[2]} {count}" for module, count in own.items() if "." in module)
        print(f"{package} {sum(own.values())} <- {', '.join(p for p in packages if p in below) or '-'}\n    {inner}")


if __name__ == "__main__":
    show()
