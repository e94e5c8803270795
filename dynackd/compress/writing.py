"""The recipe that is written down: what was guessed and planned, to be read, edited and run again."""

from pathlib import Path

from dynackd.compress.preparing import Prepared
from dynackd.compress.request import Request
from dynackd.compress.state import RECIPE
from dynackd.system.places import new_file
from dynackd.training.recipe import load_recipe

HEAD = """# What dynackd compress made of {model}{data}.
# Change what you like, then run all of it again:
#     dynackd compress {recipe} --output runs/another
# or one stage after the other: dynackd {stages} {recipe}.
# The keys: docs/recipe.md.
"""


def write_recipe(request: Request, prepared: Prepared, output: Path) -> None:
    """The recipe into `output`, with a comment above each key that was decided; one that lies there and says the same
    stays as its owner wrote it."""
    recipe, file = prepared.recipe, output / RECIPE
    if recipe.file and file.is_file() and file.samefile(recipe.file) and load_recipe(file).content == recipe.content:
        return
    stages = "finetune, train-width and train-depth" if prepared.finetunes else "train-width and train-depth"
    data = f" and {request.data}" if request.data else ""
    lines = HEAD.format(model=request.model, data=data, recipe=file, stages=stages).splitlines()
    for line in recipe.to_yaml(output).splitlines():
        comment = prepared.comments.get(line.partition(":")[0], "")
        lines += [*(f"# {part}" for part in comment.splitlines()), line]
    with new_file(file) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
