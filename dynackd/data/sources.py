"""Where data comes from: the `data` of a recipe.

    source = resolve_source({"train": "train.tsv", "validation": "dev.tsv", "train_rows": 10_000})
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from dynackd.data.readers import READERS, kind_of_file
from dynackd.errors import UserError, nearest
from dynackd.system.settings import Number, Whole, checked, section

Place = tuple[str, str | None]  # of a data set on the hub: its path and config

GLUE = "nyu-mll/glue"
GLUE_CONFIGS = ("ax", "cola", "mnli", "mnli_matched", "mnli_mismatched", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb",
                "wnli")


def _hub_place(name: Any) -> Any:
    if not isinstance(name, str):
        return name  # the place itself, or what pydantic refuses
    parts = name.split("/")
    if not all(parts) or len(parts) > 3:
        raise UserError(f"data: '{name}' is no hub name; write glue/sst2, owner/name or owner/name/config")
    if parts[0] == "glue" or name.startswith(GLUE + "/"):
        if parts[-1] not in GLUE_CONFIGS:
            raise UserError(f"data: GLUE has no '{parts[-1]}'{nearest(parts[-1], list(GLUE_CONFIGS))}; "
                            f"known: {', '.join(GLUE_CONFIGS)}")
        return GLUE, parts[-1]
    return "/".join(parts[:2]), (parts[2] if len(parts) == 3 else None)


Name = Annotated[str, Field(min_length=1)]
Rows = Annotated[Whole, Field(ge=1)]
OTHERS, SHARE = "unlabelled", "unlabelled_share"  # keys of rows without labels
Hub = Annotated[Place, BeforeValidator(_hub_place, json_schema_input_type=Name)]


@section("data")
class DataSource:
    """Where the rows come from and how many of them are used.

    `hub` is (path, config) and `train`, `validation`, `validation_mm` are then split names (None: the task's own);
    without `hub` they are file paths.
    """

    hub: Hub | None = Field(default=None, description="A data set on the hub, such as glue/sst2 or owner/name/config")
    train: Name | None = Field(default=None, description="File of the training rows; beside hub, name of a split")
    validation: Name | None = Field(default=None, description="File of the validation rows; beside hub, a split")
    validation_mm: Name | None = Field(default=None, description="A second one, such as MNLI's mismatched rows")
    validation_share: Annotated[Number, Field(gt=0, lt=1)] | None = Field(
        default=None, description="Share of the training rows that is cut off to validate on, where there are no others"
    )
    unlabelled: Name | list[Name] | None = Field(
        default=None,
        description="Files of rows without labels, which the teacher labels: the task's columns of texts, or one text "
        "a line; beside hub files too",
    )
    unlabelled_share: Annotated[Number, Field(gt=0, lt=1)] = Field(
        default=0.5, description="Their share of an epoch's rows in the general, width, depth and polish stages"
    )
    max_length: Rows = Field(default=128, description="Tokens after which a text is cut off")
    train_rows: Rows | None = Field(default=None, description="At most so many training rows, a random subset")
    validation_rows: Rows | None = Field(default=None, description="At most so many validation rows, a random subset")
    seed: Whole = Field(default=42, ge=0, description="Seed of the random subsets, which depend on nothing else")

    @property
    def unlabelled_files(self) -> tuple[str, ...]:
        """The files of rows without labels, by name."""
        return (self.unlabelled,) if isinstance(self.unlabelled, str) else tuple(self.unlabelled or ())


def resolve_source(value: str | Mapping[str, Any] | None, hub: Place | None = None) -> DataSource:
    """The `data` of a recipe: a hub name ("glue/sst2", "owner/name", "owner/name/config") or a mapping with
    `DataSource`'s fields; where it names no place, `hub`, the task's own one, is taken. Raises UserError.
    """
    if isinstance(value, str):
        if _is_file(value):
            raise UserError(f"data: '{value}' is a file; write {{train: {value}, validation: ...}}")
        value = {"hub": value}
    if isinstance(value, Mapping):
        value = {key: own for key, own in value.items() if own is not None}
    source = checked(DataSource, value or {}, "data")
    if isinstance(value, Mapping) and SHARE in value and not source.unlabelled_files:
        raise UserError(f"data.{SHARE}: the share of what? name files under data.{OTHERS}, or remove it")
    if source.validation and source.validation_share:
        raise UserError("data: give either validation or validation_share, not both")
    files = {key: getattr(source, key) for key in ("train", "validation", "validation_mm")}
    for key, name in files.items():
        if source.hub and name and _is_file(name):
            raise UserError(f"data.{key}: '{name}' is a file, but data.hub names the data set "
                            f"'{'/'.join(filter(None, source.hub))}'; for files alone set data.hub to null")
    if source.hub or source.train or source.validation:
        return source
    if hub is None:
        raise UserError("data: give train: and validation: files, or hub: the name of a data set on the hub")
    return replace(source, hub=hub)


def _is_file(name: str) -> bool:
    return kind_of_file(Path(name)) in READERS
