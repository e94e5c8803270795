"""Where results come from: named by content and by relative places, so that they can be checked, moved and shared.

Every result directory holds an `origin.json` that is written with the rest of it: the model, teacher and parent by the
SHA-256 of their weights, the rows by the SHA-256 of texts and labels, and what else decides what a result is.
"""

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from datasets import Dataset
from huggingface_hub import try_to_load_from_cache

from dynackd.errors import UserError
from dynackd.system.places import at_home, read_json

ORIGIN_FILE = "origin.json"
PACKAGE_PREFIX = "package:"
WEIGHTS_FILE = "model.safetensors"
# Beside the weights, what makes a model give other outputs for the same text.
SETTINGS_FILES = (
    *("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "bpe.codes", "spiece.model", "sentencepiece.bpe.model"),
)
ROWS_AT_A_TIME = 1000


# --- places ----------------------------------------------------------------------------------------------------------


def resolve_model(name: str) -> str:
    """A hub name, or a path with its `~` expanded; `package:NAME/sub/directory` is one inside an installed package."""
    if not name.startswith(PACKAGE_PREFIX):
        return at_home(name)
    package, _, rest = name.removeprefix(PACKAGE_PREFIX).partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or spec.origin is None:
        raise UserError(f"model {name!r}: the Python package {package!r} is not installed; pip install 'dynackd[demo]'")
    return str(Path(spec.origin).parent / rest)


def local_model(name: str) -> Path | None:
    """The directory of a model that is here; None for a name on the hub, a missing package and a missing directory."""
    try:
        place = Path(resolve_model(name))
    except UserError:
        return None
    return place if place.is_dir() else None


def is_place(name: str) -> bool:
    """Whether a model's name can only be a directory, there or not; otherwise it is a name on the hub."""
    if name.startswith(PACKAGE_PREFIX):
        return False
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).is_dir()


def portable(path: str | Path, directory: Path) -> str:
    """A path as a file in `directory` names it: relative to that, with a dot in front."""
    relative = os.path.relpath(os.path.abspath(Path(path).expanduser()), os.path.realpath(directory))
    return relative if relative.startswith(".") else f"./{relative}"


def located(path: str, directory: Path) -> str:
    """The absolute place of a path that a file in `directory` names.

    Where nothing lies there, the end of a path that leads upwards is looked for in each directory above: what stayed
    where it was when the rest was moved.
    """
    base = Path(os.path.realpath(directory))
    place = Path(os.path.normpath(base / Path(path).expanduser()))
    end = [part for part in PurePosixPath(path).parts if part != ".."]
    found = [above.joinpath(*end) for above in base.parents] if path.startswith("..") and end else []
    return str(next((other for other in [place, *found] if other.exists()), place))


def public_name(source: str) -> str:
    """A model's name as it may be told to the world: on the hub, in a package, or its directory's own name."""
    return Path(os.path.abspath(Path(source).expanduser())).name if is_place(source) else source


# --- content ---------------------------------------------------------------------------------------------------------


def weights_sha256(source: str) -> str | None:
    """SHA-256 of a model's weights, as sha256sum and the hub say it; of several files, of their names and hashes.
    None where the weights are not on this machine."""
    directory = local_model(source)
    files = _cached(source) if directory is None else sorted(directory.glob("*.safetensors"))
    hashes = [_sha256(file) for file in files]
    if len(hashes) < 2:
        return hashes[0] if hashes else None
    listed = "".join(f"{own} {file.name}\n" for own, file in zip(hashes, files, strict=True))
    return hashlib.sha256(listed.encode()).hexdigest()


def _cached(name: str) -> list[Path]:
    try:
        file = None if is_place(name) else try_to_load_from_cache(name, WEIGHTS_FILE)
    except ValueError:  # no name that the hub could have
        return []
    return [Path(file)] if isinstance(file, str) else []


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def model_record(source: str, directory: Path) -> dict[str, Any]:
    """A model, as `directory` remembers it: `name`, `sha256` of the weights, and of one that is a directory its
    relative `path` and `settings`, the hash of its config's and tokenizer's files."""
    record: dict[str, Any] = {"name": public_name(source), "sha256": weights_sha256(source)}
    if is_place(source):
        record["path"] = portable(source, directory)
    place = local_model(source)
    if place is not None:
        files = [place / name for name in SETTINGS_FILES if (place / name).is_file()]
        listed = "".join(f"{_sha256(file)} {file.name}\n" for file in files)
        record["settings"] = hashlib.sha256(listed.encode()).hexdigest()
    return record


def rows_record(rows: Dataset) -> dict[str, Any]:
    """How many `rows`, and the SHA-256 of what stands in them as lines of JSON, in order."""
    digest = hashlib.sha256()
    for batch in rows.iter(ROWS_AT_A_TIME):
        for row in zip(*batch.values(), strict=True):
            digest.update(json.dumps(row).encode() + b"\n")
    return {"rows": len(rows), "sha256": digest.hexdigest()}


# --- comparing -------------------------------------------------------------------------------------------------------

Record = Mapping[str, Any]


def read_origin(directory: Path) -> Record:
    """What `origin.json` in a directory says; nothing where there is none (a model that dynackd did not make)."""
    file = directory / ORIGIN_FILE
    content = read_json(file) if file.is_file() else {}
    if not isinstance(content, dict):
        raise UserError(f"{file} is damaged: it holds no object")
    return content


def differences(before: Record, now: Record, keys: Iterable[str]) -> list[str]:
    """In words, how two origins differ in some of their keys; one that either of them lacks is passed over."""
    both = [key for key in keys if before.get(key) is not None and now.get(key) is not None]
    return [words for key in both if (words := _difference(key, before[key], now[key]))]


def _difference(key: str, before: Any, now: Any) -> str:
    if before == now:
        return ""
    if not isinstance(before, dict) or not isinstance(now, dict):
        return f"{key} was {before}, is {now}"
    if "rows" in before:
        return _rows_difference(key, before, now)
    if "name" in before:
        return _model_difference(key, before, now)
    return ", ".join(differences(before, now, before))


def _model_difference(key: str, before: Record, now: Record) -> str:
    if _same_model(before, now):
        return ""
    if before["name"] != now["name"]:
        return f"the {key} was {before['name']}, is {now['name']}"
    what = "other weights" if before["sha256"] != now["sha256"] else "another config or tokenizer"
    return f"the {key} {now['name']} has {what}"


def _same_model(before: Record, now: Record) -> bool:
    known = all(one.get("sha256") for one in (before, now))
    by_name = not known or not ("path" in before or "path" in now)  # a name on the hub stands for what lies there
    if by_name and before["name"] == now["name"]:
        return True
    keys = ("sha256", *(["settings"] if "settings" in before and "settings" in now else []))
    return known and all(before[key] == now[key] for key in keys)


def _rows_difference(key: str, before: Record, now: Record) -> str:
    if before["sha256"] == now["sha256"]:
        return ""
    if before["rows"] != now["rows"]:
        return f"the {key} rows were {before['rows']:,}, are {now['rows']:,}"
    return f"the {now['rows']:,} {key} rows are others or in another order"


def original_rows(record: Record) -> Record:
    """A stage's record with the rows that its augmented rows were made from in the place of those."""
    return {**record, "training": record.get("augmented_from") or record.get("training")}
