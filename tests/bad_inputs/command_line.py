"""Command lines."""

from bad_inputs import Bad

CASES = [
    Bad("no such recipe", "train-width {d}/none.yaml", "there is no recipe {d}/none.yaml"),
    Bad("a share above 1", "export {d}/run/depth --width 1.5", "width 1.5 is outside (0, 1]"),
    Bad(
        "resume and overwrite",
        "train-width {d}/recipe.yaml --resume --overwrite",
        "--resume and --overwrite exclude each other; give one of them",
    ),
]
