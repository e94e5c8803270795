"""The recipe that is written down: what was guessed and planned, to be read, edited and run again."""

from collections.abc import Mapping
from pathlib import Path

from dynackd.training.recipe import Recipe

RECIPE = "recipe.yaml"


def recipe_text(recipe: Recipe, directory: Path, head: str, comments: Mapping[str, str]) -> str:
    """The recipe as a file in `directory`, with `head` above it and a comment above each key that has one."""
    lines = [f"# {line}".rstrip() for line in head.splitlines()]
    for line in recipe.to_yaml(directory).splitlines():
        if comment := comments.get(line.partition(":")[0]):
            lines += [f"# {part}" for part in comment.splitlines()]
        lines.append(line)
    return "\n".join(lines) + "\n"
