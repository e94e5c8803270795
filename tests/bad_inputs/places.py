"""Places: outputs that would destroy something, cannot be written or are somebody else's; `~`; unknown options."""

from pathlib import Path

from bad_inputs import Bad
from dynackd.compress.state import COMPRESSED, FILES, STATE
from dynackd.system.places import mark


def holding(*names: str):
    """The directory with a file of the user's at each of these places."""

    def change(directory: Path) -> None:
        for name in names:
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text("mine\n")

    return change


EXPORT = "export {d}/run/depth --width 0.5 --depth 0.5 --overwrite --output"
READS_SUPERNET = "holds the supernet {d}/run/depth that this command reads; name another output"
EVALUATE, BENCHMARK = "evaluate {d}/run/depth --json", "benchmark {d}/student --repeats 1 --json"
NO_TABLE = "is a file already, and no table that this command wrote; name another file"
FRESH = "finetune {d}/fresh.yaml --set"

CASES = [
    Bad(
        "a search for its choice",
        "export {d}/run/depth --output {d}/s --spec {d}/run/search",
        "{d}/run/search is a directory; name a file in it, such as {d}/run/search/best.json",
        holding("run/search/best.json"),
    ),
    Bad("a student over its supernet", f"{EXPORT} {{d}}/run/depth", f"{{d}}/run/depth {READS_SUPERNET}"),
    Bad("a student over the whole run", f"{EXPORT} {{d}}/run", f"{{d}}/run {READS_SUPERNET}"),
    Bad(
        "a student over another supernet",
        f"{EXPORT} {{d}}/run/width",
        "{d}/run/width holds a supernet of the width stage, not a student, and stays; name another directory",
    ),
    Bad(
        "a student over a folder that was never ours",
        f"{EXPORT} {{d}}/photos",
        "{d}/photos holds what dynackd did not write (such as 2019/cat.jpg) and stays; name another directory",
        holding("photos/2019/cat.jpg"),
    ),
    Bad(
        "a student over a student with notes in it",
        f"{EXPORT} {{d}}/student",
        "{d}/student holds notes.txt, which dynackd did not write; move that away first",
        holding("student/notes.txt"),
    ),
    Bad(
        "a student over a student with a folder linked into it",
        f"{EXPORT} {{d}}/student",
        "{d}/student holds photos, which dynackd did not write; move that away first",
        lambda d: (holding("photos/cat.jpg")(d), (d / "student" / "photos").symlink_to(d / "photos")),
    ),
    Bad(
        "a manifest that is none",
        f"{EXPORT} {{d}}/student",
        "{d}/student holds what dynackd did not write (such as README.md) and stays; name another directory",
        lambda d: (d / "student" / ".dynackd.json").write_text('{"dynackd": "0.1.0", "what": "a student"}'),
    ),
    Bad(
        "a student over the working directory",
        f"{EXPORT} .",
        ". is the working directory or holds it, and cannot be replaced; name another one",
    ),
    Bad(
        "a student over what is above the working directory",
        f"{EXPORT} ..",
        ".. is the working directory or holds it, and cannot be replaced; name another one",
    ),
    Bad(
        "a student over a file",
        f"{EXPORT} {{d}}/train.tsv",
        "{d}/train.tsv is a file; the output must be a directory",
    ),
    Bad(
        "a student below a file",
        f"{EXPORT} {{d}}/train.tsv/student",
        "{d}/train.tsv cannot be made: {d}/train.tsv is no directory",
    ),
    Bad(
        "a student with too long a name",
        f"{EXPORT} {{d}}/{'x' * 300}",
        f"{{d}}/{'x' * 300} could not be written: File name too long ({{d}}/{'x' * 300}/.dynackd.lock)",
    ),
    Bad(
        "a teacher over the model that it is made from",
        "finetune {d}/recipe.yaml --overwrite --set model={d}/run/teacher",
        "{d}/run/teacher holds the model {d}/run/teacher that this command reads; name another output",
    ),
    Bad(
        "a stage over its own rows",
        "train-width {d}/recipe.yaml --overwrite --set data.train={d}/run/width/rows.tsv",
        "{d}/run/width holds the data.train {d}/run/width/rows.tsv that this command reads; name another output",
        holding("run/width/rows.tsv"),
    ),
    Bad(
        "a stage over its recipe",
        "train-depth {d}/run/depth/recipe.yaml --overwrite",
        "{d}/run/depth holds the recipe {d}/run/depth/recipe.yaml that this command reads; name another output",
    ),
    Bad(
        "a stage over notes",
        "train-width {d}/recipe.yaml --overwrite",
        "{d}/run/width holds a/notes.txt, which dynackd did not write; move that away first",
        holding("run/width/a/notes.txt"),
    ),
    Bad(
        "checkpoints in a folder that was never ours",
        "finetune {d}/fresh.yaml",
        "{d}/fresh/teacher-checkpoints holds what dynackd did not write (such as notes.txt) and stays; "
        "name another directory",
        holding("fresh/teacher-checkpoints/notes.txt"),
    ),
    Bad(
        "checkpoints in such a folder, by --resume",
        "finetune {d}/fresh.yaml --resume",
        "{d}/fresh/teacher-checkpoints holds what dynackd did not write (such as notes.txt) and stays; "
        "name another directory",
        holding("fresh/teacher-checkpoints/notes.txt"),
    ),
    Bad(
        "rows over what dynackd did not write",
        "augment {d}/recipe.yaml --overwrite",
        "{d}/run/augmented holds what dynackd did not write (such as train.jsonl) and stays; name another directory",
        holding("run/augmented/train.jsonl"),
    ),
    Bad(
        "a quickstart over a home",
        "quickstart --output {d} --overwrite",
        "{d} holds what no dynackd compress wrote; name another directory with --output",
    ),
    Bad(
        "a quickstart that goes on in another run",
        "quickstart --output {d}/run --resume",
        "{d}/run holds what no dynackd compress wrote; name another directory with --output",
    ),
    Bad(
        "a quickstart where one has begun",
        "quickstart --output {d}/q",
        "{d}/q holds a run already; add --resume to go on with it or --overwrite to begin again",
        lambda d: (mark(d / "q", COMPRESSED, FILES), (d / "q" / STATE).write_text("{}")),
    ),
    Bad(
        "a compress that goes on with what is damaged",
        "compress {d}/encoder --data {d}/train.tsv --output {d}/q --resume",
        "{d}/q/compress.json is damaged; begin again with --overwrite",
        lambda d: (mark(d / "q", COMPRESSED, FILES), (d / "q" / STATE).write_text("{}")),
    ),
    Bad(
        "a table over a directory",
        f"{EVALUATE} {{d}}/run",
        "--json {d}/run is a directory; name a file in it, such as {d}/run/table.json",
    ),
    Bad("a table over a model's config", f"{EVALUATE} {{d}}/run/depth/config.json",
        f"--json {{d}}/run/depth/config.json {NO_TABLE}"),
    Bad("a table over a result's own", f"{EVALUATE} {{d}}/run/depth/metrics.json",
        f"--json {{d}}/run/depth/metrics.json {NO_TABLE}"),
    Bad("a table over rows", f"{BENCHMARK} {{d}}/train.tsv", f"--json {{d}}/train.tsv {NO_TABLE}"),
    Bad(
        "a table below a file",
        f"{BENCHMARK} {{d}}/train.tsv/table.json",
        "{d}/train.tsv cannot be made: {d}/train.tsv is no directory",
    ),
    Bad(
        "a table where the system writes",
        f"{BENCHMARK} /proc/new/table.json",
        "/proc/new could not be written: No such file or directory (/proc/new)",
    ),
    Bad(
        "a run below a file",
        f"{FRESH} output_dir={{d}}/train.tsv/run",
        "{d}/train.tsv/run cannot be made: {d}/train.tsv is no directory",
    ),
    Bad(
        "a run where the system writes",
        f"{FRESH} output_dir=/proc/run",
        "/proc/run could not be written: No such file or directory (/proc/run)",
    ),
    Bad(
        "nobody's home",
        "train-width ~no-such-user/recipe.yaml",
        "'~no-such-user/recipe.yaml': there is no user 'no-such-user' here; write ./~no-such-user/recipe.yaml for a "
        "place of that name",
    ),
    Bad(
        "nobody's home in a recipe",
        f"{FRESH} output_dir=~no-such-user/run",
        "{d}/fresh.yaml: '~no-such-user/run': there is no user 'no-such-user' here; write ./~no-such-user/run for a "
        "place of that name",
    ),
    Bad(
        "a misspelt option",
        "export {d}/run/depth --widht=0.5",
        "export: unknown option --widht, did you mean '--width'?",
    ),
    Bad("an option of no command", "evaluate --zzz", "evaluate: unknown option --zzz; see dynackd evaluate --help"),
    Bad(
        "a second recipe",
        "finetune {d}/recipe.yaml {d}/fresh.yaml",
        "finetune: {d}/fresh.yaml is one argument too many; see dynackd finetune --help",
    ),
]
