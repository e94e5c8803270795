"""The road from a checkpoint to a trained supernet: finetune, train-width, train-depth, and evaluate.

A run trains in `<output_dir>/<stage>-checkpoints` and its result appears as `<output_dir>/<stage>` in one rename, so
a result that exists is whole, and a killed run is resumed from its last whole checkpoint.
"""

import functools
import os
import signal
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    DataCollatorWithPadding,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from dynackd.data.labels import PROBLEM_TYPES, WRITTEN_KEY, head_fits, labels_of
from dynackd.data.origins import (
    ORIGIN_FILE,
    Record,
    differences,
    is_place,
    local_model,
    model_record,
    read_origin,
    resolve_model,
    weights_sha256,
)
from dynackd.errors import UserError, out_of_memory
from dynackd.families.family import FAMILIES, FAMILY_KEY, family_of, max_positions
from dynackd.measure.evaluation import batches_of, evaluate_grid
from dynackd.measure.teacher_check import doubt
from dynackd.report.terminal import console, grid_table, progress_bar, say, show
from dynackd.subnet import Grid, describe
from dynackd.supernet.checkpoints import (
    check_safetensors_file,
    load_classifier,
    load_classifier_config,
    load_config,
    load_tokenizer,
    name_outputs,
    reset_head,
    set_attribute,
)
from dynackd.supernet.importance import IMPORTANCE, rewire
from dynackd.supernet.network import CONFIG_KEY, Origin, Supernet, load_supernet
from dynackd.system.interruption import Interrupted, Interruption
from dynackd.system.places import (
    at_home,
    holds,
    manifest_of,
    mark,
    new_directory,
    occupied_run,
    read_json,
    refuse_existing,
    remove,
    write_json,
    writing,
)
from dynackd.tasks.loading import TaskData, load_task_data
from dynackd.tasks.task import compute_metrics
from dynackd.tasks.tokens import tokenize, unknown
from dynackd.training.arguments import FINETUNE
from dynackd.training.lineage import (
    INHERITED,
    record_of,
    refuse_changed_content,
    refuse_changed_recipe,
    refuse_other,
    write_record,
)
from dynackd.training.rates import default_learning_rate, still_falling
from dynackd.training.recipe import Recipe, StageSettings
from dynackd.training.trainer import (
    DEPTH_STAGE,
    WIDTH_STAGE,
    ResumableTrainer,
    Stage,
    SupernetTrainer,
    check_steps,
    one_device,
    set_dropout,
)

TEACHER = "teacher"
# What a command makes in a run's directory, and what its manifest calls that.
RESULTS = {
    TEACHER: "a teacher",
    "width": "a supernet of the width stage",
    "depth": "a supernet of the depth stage",
    "augmented": "augmented rows",
}
CHECKPOINTS = "the checkpoints of a run"
LEFT_OVER = "what is left of a finished run's checkpoints"
# What `begin`, the Trainer (in checkpoint-N) and `augment` write there; all else is somebody else's.
CHECKPOINT_FILES = [
    *("recipe.yaml", ORIGIN_FILE),
    *("candidates-*.json", "labels-*.json", ".*.tmp", "README.md", "runs/*/*", "runs/*/*/*"),
    *(f"{PREFIX_CHECKPOINT_DIR}-*/{name}" for name in (
        *("config.json", "generation_config.json", "*.safetensors", "model.safetensors.index.json"),
        *("trainer_state.json", "training_args.bin", "optimizer.*", "scheduler.pt", "scaler.pt", "rng_state*.pth"),
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "*.jinja"),
        *("vocab.txt", "vocab.json", "merges.txt", "*.model", "bpe.codes", "user_content.pt", ".*.tmp"),
    )),
]
T = TypeVar("T")
# How a result that no longer fits is made anew.
_AGAIN = {
    TEACHER: "run dynackd finetune with --overwrite",
    WIDTH_STAGE.name: "run dynackd train-width with --overwrite, or undo the change",
    DEPTH_STAGE.name: "run dynackd train-depth with --overwrite, or undo the change",
}
GRIDS = {stage.name: stage.grid_of for stage in (WIDTH_STAGE, DEPTH_STAGE)}


@dataclass(frozen=True)
class RunMode:
    """What to do with what the output directory already holds, and what interrupts the run."""

    resume: bool = False
    overwrite: bool = False
    interruption: Interruption = field(default_factory=Interruption, compare=False)

    def __post_init__(self) -> None:
        if self.resume and self.overwrite:
            raise UserError("--resume and --overwrite exclude each other; give one of them")


@dataclass(frozen=True)
class Run:
    """One stage's places, the mode it was started in and the checkpoint that it resumes from."""

    recipe: Recipe
    settings: StageSettings
    directory: Path
    arguments: TrainingArguments
    mode: RunMode
    checkpoint: Path | None

    @property
    def checkpoints(self) -> Path:
        return Path(str(self.arguments.output_dir))


def alone(command: Callable[[Recipe, RunMode], T]) -> Callable[[Recipe, RunMode], T]:
    """The command with the recipe's output directory for itself while it runs; `UserError` where another is there."""

    @functools.wraps(command)
    def run(recipe: Recipe, mode: RunMode) -> T:
        with occupied_run(recipe.output_dir, list(RESULTS)):
            return command(recipe, mode)

    return run


@alone
def finetune(recipe: Recipe, mode: RunMode) -> Path:
    """Stage 0: fine-tune a bare encoder with the stock Trainer. Returns the teacher's directory."""
    run = prepare(recipe, "finetune", TEACHER, mode)
    source = resolve_model(recipe.model)
    config = load_config(source)
    _refuse_student(source, config)
    tokenizer = load_tokenizer(source, config)
    data = load_task_data(recipe.task, recipe.data)
    _check_rows(data, run)
    record = _checked(run, record_of(recipe, data, {"model": model_record(recipe.model, run.directory)}))
    foreign_head = _has_foreign_head(source, config, data)
    name_outputs(config, data.output_names)
    config.problem_type = PROBLEM_TYPES[data.task.kind]
    _remember_labels(config, data)
    _choose_rate(run, "finetune", config)
    torch.manual_seed(run.arguments.seed)  # the new head is random
    model = load_classifier(source, config, new_head=True)
    if foreign_head:
        reset_head(model)
    train, validation = _tokenized(data, recipe, tokenizer, max_positions(config))
    trainer = ResumableTrainer(
        model,
        run.arguments,
        train_dataset=train,
        eval_dataset=validation[""],
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        stop=mode.interruption.asked,
        compute_metrics=lambda p: compute_metrics(data.task, np.asarray(p.predictions), np.asarray(p.label_ids)),
    )
    set_dropout(model, run.settings.dropout)
    seconds = _train(trainer, run, record)
    metrics = {
        name: value
        for suffix, rows in validation.items()
        for name, value in compute_metrics(data.task, *_predicted(trainer, rows), suffix).items()
    }

    def save(directory: Path) -> None:
        model.save_pretrained(directory)
        set_attribute(tokenizer, "model_max_length", recipe.data.max_length)  # clients cut where the training did
        tokenizer.save_pretrained(directory)

    about = {"task": data.task.name, "metrics": metrics, "train_seconds": round(seconds, 1)}
    _finish(run, trainer, record, save, about)
    console.print("teacher: " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    return run.directory


@alone
def train_width(recipe: Recipe, mode: RunMode) -> Path:
    """Stages 1 and 2: rewire the teacher's heads and neurons, then train all widths. Returns the supernet's
    directory."""
    run = prepare(recipe, "width", "width", mode)
    source = teacher_of(recipe)
    teacher = load_teacher(source, recipe.grid)
    tokenizer = load_tokenizer(resolve_model(source), teacher.model.config)
    data = load_task_data(recipe.task, recipe.data, model=labels_of(teacher.model.config))
    _check_rows(data, run)
    grid, known = WIDTH_STAGE.grid_of(recipe.grid), model_record(source, run.directory)
    record = _checked(run, record_of(recipe, data, {"teacher": known}, grid))
    refuse_other_teacher(recipe, record)
    train, validation = _tokenized(data, recipe, tokenizer, max_positions(teacher.model.config))
    if run.checkpoint is None:
        check_teacher(teacher.to(run.arguments.device), data, train, tokenizer, recipe.data.seed)
    origin = Origin(WIDTH_STAGE.name, source, source, known["sha256"], known["sha256"])
    supernet = Supernet(teacher.frozen_copy().requires_grad_(True).model, grid, origin)
    _remember_labels(supernet.model.config, data)
    _describe_grid(supernet)
    _choose_rate(run, WIDTH_STAGE.name, supernet.model.config)
    if run.checkpoint is None:
        _rewire(supernet.to(run.arguments.device), recipe, train, tokenizer)
    return _train_stage(run, record, WIDTH_STAGE, supernet, teacher, teacher, data, train, validation, tokenizer)


@alone
def train_depth(recipe: Recipe, mode: RunMode) -> Path:
    """Stage 3: train all widths x depths, each taught by the width stage's network of its width. Returns the
    supernet's directory."""
    run = prepare(recipe, "depth", "depth", mode)
    parent = recipe.output_dir / WIDTH_STAGE.name
    if not parent.is_dir():
        raise UserError(f"{parent} does not exist; run dynackd train-width with this recipe first")
    source = teacher_of(recipe)
    known, own = model_record(source, run.directory), model_record(str(parent), run.directory)
    refuse_other(parent, {"teacher": known}, ("teacher",), _AGAIN["width"])
    teacher, tokenizer = load_supernet(parent)
    if teacher.grid != WIDTH_STAGE.grid_of(recipe.grid):
        raise UserError(
            f"{parent} was trained at widths {list(teacher.grid.widths)} with the rule {teacher.grid.kept_layers!r}, "
            f"the recipe asks for {list(recipe.grid.widths)} with {recipe.grid.kept_layers!r}; make them agree"
        )
    data = load_task_data(recipe.task, recipe.data, model=labels_of(teacher.model.config))
    _check_rows(data, run)
    grid = DEPTH_STAGE.grid_of(recipe.grid)
    record = _checked(run, record_of(recipe, data, {"teacher": known, "parent": own}, grid))
    refuse_other_teacher(recipe, record)
    refuse_other(parent, record, INHERITED, _AGAIN["width"])
    train, validation = _tokenized(data, recipe, tokenizer, max_positions(teacher.model.config))
    if run.checkpoint is None:
        check_teacher(teacher.to(run.arguments.device), data, train, tokenizer, recipe.data.seed)
    origin = Origin(DEPTH_STAGE.name, source, str(parent), known["sha256"], own["sha256"])
    supernet = Supernet(teacher.frozen_copy().requires_grad_(True).model, grid, origin)
    _describe_grid(supernet)
    _choose_rate(run, DEPTH_STAGE.name, supernet.model.config)
    original = load_teacher(source, recipe.grid)
    return _train_stage(run, record, DEPTH_STAGE, supernet, teacher, original, data, train, validation, tokenizer)


def evaluate(directory: Path, recipe: Recipe, length: int | None, teacher: str | None = None) -> dict[str, Any]:
    """Every sub-network of a supernet directory on the recipe's validation data; the content of `evaluate --json`.

    FLOPs are counted at `length` tokens, or at the recipe's `data.max_length`.
    """
    _refuse_missing_rows(recipe)
    supernet, tokenizer = load_supernet(directory)
    positions = max_positions(supernet.model.config)
    length = length or recipe.data.max_length
    if length > positions:
        raise UserError(f"--length {length} is beyond the {positions} tokens that {directory} takes")
    original = load_teacher(_teacher_of_supernet(directory, supernet.origin, teacher), supernet.grid)
    data = load_task_data(recipe.task, recipe.data, ("validation",), model=labels_of(supernet.model.config))
    keys = [f"validation{suffix}" for suffix in data.validation]
    if differences(read_origin(directory), record_of(recipe, data, {}), keys):
        console.print(f"note: these validation rows are not those of {directory / 'metrics.json'}")
    _, validation = _tokenized(data, recipe, tokenizer, positions)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    found = doubt(original.to(device), data, validation[""], tokenizer, recipe.data.seed)
    if found and data.task.check_teacher:
        console.print(f"warning: {found.told}", markup=False)
    return _evaluate(supernet.to(device), original.to(device), data, validation, tokenizer, length)


def _refuse_missing_rows(recipe: Recipe) -> None:
    """`UserError` where a file of validation rows is not where the recipe says, as after a move of a run alone."""
    source = recipe.data
    keys = ("validation", "validation_mm") if source.validation_share is None else ("train",)
    for key in keys if source.hub is None else ():
        file = getattr(source, key)
        if file and not Path(at_home(file)).exists():
            raise UserError(f"data.{key}: there is no file {file}; name it with --set data.{key}=FILE")


def teacher_of(recipe: Recipe) -> str:
    """The name or absolute directory of the fine-tuned model: the recipe's `teacher`, else what `finetune` made, which
    must be of the recipe's model, else the recipe's `model` if that is fine-tuned already."""
    finetuned = recipe.output_dir / TEACHER
    if recipe.teacher:
        return _absolute(recipe.teacher)
    if finetuned.is_dir():
        refuse_other_teacher(recipe, {"model": model_record(recipe.model, finetuned)})
        return _absolute(str(finetuned))
    architectures = load_config(resolve_model(recipe.model)).architectures or ["nothing named"]
    if not architectures[0].endswith("ForSequenceClassification"):
        raise UserError(
            f"{recipe.model} is a bare encoder ({architectures[0]}), not a fine-tuned classifier; run dynackd finetune "
            f"with this recipe first, or name a fine-tuned model under 'teacher'"
        )
    return _absolute(recipe.model)


def refuse_other_teacher(recipe: Recipe, now: Record) -> None:
    """`UserError` where what `finetune` made came from something else than `now` says, unless the recipe itself names
    its teacher, whatever that is."""
    finetuned = recipe.output_dir / TEACHER
    if not recipe.teacher:
        keys = [key for key in INHERITED if key != TEACHER]
        refuse_other(finetuned, now, keys, f"{_AGAIN[TEACHER]}, or --set teacher={finetuned} to use it as it is")


def refuse_other_result(recipe: Recipe, name: str) -> None:
    """`UserError` where the finished result `name` of a recipe is not what its stage would make now, but for the
    training's settings."""
    directory = recipe.output_dir / name
    if not read_origin(directory):
        return
    config = load_config(str(directory))
    data = load_task_data(recipe.task, recipe.data, model=labels_of(config))
    models = {
        TEACHER: lambda: {"model": model_record(recipe.model, directory)},
        WIDTH_STAGE.name: lambda: {"teacher": model_record(teacher_of(recipe), directory)},
        DEPTH_STAGE.name: lambda: {"parent": model_record(str(recipe.output_dir / WIDTH_STAGE.name), directory)},
    }
    now = record_of(recipe, data, models[name](), GRIDS[name](recipe.grid) if name in GRIDS else None)
    refuse_other(directory, now, [*INHERITED, "parent", "grid"], _AGAIN[name])


def _absolute(source: str) -> str:
    """A local directory as a path that holds from everywhere; a name on the hub or in a package as it is."""
    return os.path.abspath(Path(source).expanduser()) if is_place(source) else source


def load_teacher(source: str, grid: Grid) -> Supernet:
    """A fine-tuned classifier as a frozen supernet, of which only the full network is asked."""
    source = resolve_model(source)
    config = load_classifier_config(source)
    _refuse_student(source, config)
    return Supernet(load_classifier(source, config), grid).frozen_copy()


def _teacher_of_supernet(directory: Path, origin: Origin, named: str | None) -> str:
    """The teacher that a supernet remembers, or the one that the user names, which is not refused."""
    source = named or origin.teacher
    if source is None:
        raise UserError(f"{directory} remembers no teacher; name it with --teacher DIR")
    place = local_model(source)
    if place is None and is_place(source) and not named:
        raise UserError(f"the teacher of {directory} is not at {source} any more; name it with --teacher DIR")
    if place is not None and origin.teacher_sha256 not in (None, weights_sha256(source)):
        what = f"{source} has other weights than the teacher of {directory}"
        if not named:
            raise UserError(f"{what} had; name the right one, or this one, with --teacher DIR")
        console.print(f"note: {what}")
    return source


def prepare(recipe: Recipe, stage: str, name: str, mode: RunMode) -> Run:
    """Check a stage's places before anything is loaded or written."""
    recipe.check_machine()
    settings, (directory, checkpoints) = recipe.stages[stage], claim(recipe, name, mode)
    checkpoint = last_checkpoint(checkpoints) if mode.resume else None
    if checkpoint is not None:
        refuse_changed_recipe(recipe, checkpoints)
    # Under torchrun this is where the processes meet, so none of them writes before all of them have checked.
    arguments = settings.arguments(checkpoints)
    if checkpoint is not None:
        _refuse_other_processes(checkpoint, arguments.world_size)
    console.quiet = arguments.process_index > 0
    if (devices := one_device(arguments)) > 1:
        command = f"torchrun --nproc_per_node {devices} -m dynackd {name_of_command(stage)} RECIPE"
        say(f"note: this process uses one of {devices} devices; to use all: {command}")
    return Run(recipe, settings, directory, arguments, mode, checkpoint)


def name_of_command(stage: str) -> str:
    return stage if stage == FINETUNE else f"train-{stage}"


def claim(recipe: Recipe, name: str, mode: RunMode) -> tuple[Path, Path]:
    """The directories of a result and of what is kept until that is whole; `UserError` where the mode does not allow
    for what they hold."""
    directory, checkpoints = recipe.output_dir / name, recipe.output_dir / f"{name}-checkpoints"
    inputs = _inputs(recipe, name)
    manifest = manifest_of(checkpoints)
    left_over = manifest is not None and manifest.what == LEFT_OVER  # killed while it cleared up after a whole result
    if left_over and os.environ.get("RANK", "0") == "0":
        drop(checkpoints)
    begun = not left_over and (manifest is not None or (checkpoints / "recipe.yaml").is_file())
    if mode.resume and holds(directory) and not begun:
        raise UserError(f"{directory} holds a finished run, nothing is left to resume; --overwrite begins again")
    # A run that began with --overwrite is gone on with beside the result that it will replace.
    refuse_existing(directory, RESULTS[name], mode.overwrite or mode.resume, inputs)
    if not left_over and (mode.overwrite or not begun):
        refuse_existing(checkpoints, CHECKPOINTS, mode.overwrite, inputs)
    elif begun and not mode.resume:
        raise UserError(
            f"{checkpoints} holds an unfinished run; add --resume to go on with it or --overwrite to begin again"
        )
    return directory, checkpoints


def _inputs(recipe: Recipe, name: str) -> dict[str, str | Path | None]:
    """What a command that makes the result `name` reads, as far as it may lie in a directory."""
    files = {key: getattr(recipe.data, key) for key in ("train", "validation", "validation_mm")}
    data = {f"data.{key}": at_home(file) for key, file in files.items() if file}
    inputs = {"recipe": recipe.file, "model": recipe.model, **({} if recipe.data.hub else data)}
    return inputs if name == TEACHER else {**inputs, "teacher": recipe.teacher}


def begin(recipe: Recipe, record: Record, checkpoints: Path) -> None:
    """An empty directory for what a run keeps, and what a resumed run will be compared with."""
    remove(checkpoints)
    mark(checkpoints, CHECKPOINTS, CHECKPOINT_FILES)
    write_record(checkpoints, recipe, record, checkpoints)


def _checked(run: Run, record: Record) -> Record:
    """A stage's record, which a resumed run must share with the one that it goes on with."""
    if run.checkpoint is not None:
        refuse_changed_content(record, run.checkpoints)
    return record


def drop(checkpoints: Path) -> None:
    """Delete what a finished run kept; what dynackd did not write there stays, and is told."""
    if manifest_of(checkpoints) is not None:
        mark(checkpoints, LEFT_OVER, CHECKPOINT_FILES)  # whatever a kill leaves of it is nothing to go on from
    for name in remove(checkpoints)[:1]:
        console.print(f"{checkpoints} stays: it holds {name}, which dynackd did not write")


def last_checkpoint(checkpoints: Path) -> Path | None:
    """The newest whole checkpoint. One without its last file was cut off while it was written and is passed over;
    one with it but damaged raises `UserError`."""
    found = sorted(
        checkpoints.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True
    )
    for checkpoint in found:
        if not (checkpoint / "trainer_state.json").is_file():
            console.print(f"{checkpoint} was cut off while it was written; passed over")
            continue
        weights = checkpoint / "model.safetensors"
        hint = f"; delete {checkpoint} to resume from the one before it"
        try:
            read_json(checkpoint / "trainer_state.json")
            check_safetensors_file(weights)
            torch.load(checkpoint / "optimizer.pt", map_location="meta", weights_only=True)
        except UserError as error:
            raise UserError(f"{error}{hint}") from error
        except Exception as error:  # torch raises whatever its unpickler meets
            raise UserError(f"{checkpoint / 'optimizer.pt'} is damaged ({type(error).__name__}){hint}") from error
        return checkpoint
    return None


def _refuse_other_processes(checkpoint: Path, count: int) -> None:
    """Each process has its own share of a batch and its own random numbers."""
    before = len(list(checkpoint.glob("rng_state*.pth")))
    if before != count:
        raise UserError(
            f"{checkpoint} was trained by {before} processes, these are {count}: start {before} to resume (torchrun "
            f"--nproc_per_node {before}), or begin again with --overwrite"
        )


def _check_rows(data: TaskData, run: Run) -> None:
    if data.train is not None:
        check_steps(len(data.train), run.arguments)


def _refuse_student(source: str, config: Any) -> None:
    if config.model_type not in FAMILIES and hasattr(config, FAMILY_KEY):
        raise UserError(f"{source} is a sliced student already; name the fine-tuned model that it was cut from")
    if hasattr(config, CONFIG_KEY):
        raise UserError(f"{source} is a supernet, not a plain fine-tuned model; name its teacher")


def warn_of_unknown(tokens: Dataset, tokenizer: PreTrainedTokenizerBase, split: str) -> None:
    """Tell the user when the tokenizer knows little of the texts."""
    if (report := unknown(tokens, tokenizer, split)) is not None:
        console.print(f"warning: {report}")


def _tokenized(
    data: TaskData, recipe: Recipe, tokenizer: PreTrainedTokenizerBase, positions: int
) -> tuple[Dataset, dict[str, Dataset]]:
    """The training rows (empty when not loaded) and validation rows by suffix; truncation is told to the user."""

    def tokens(dataset: Dataset, split: str) -> Dataset:
        encoded, report = tokenize(dataset, data.task, tokenizer, recipe.data.max_length, split, positions)
        if report is not None:
            console.print(f"note: {report}")
        warn_of_unknown(encoded, tokenizer, split)
        return encoded

    for note in data.notes:
        console.print(f"note: {note}", markup=False)
    train = tokens(data.train, "training") if data.train is not None else Dataset.from_dict({})
    return train, {suffix: tokens(rows, f"validation{suffix}") for suffix, rows in data.validation.items()}


def check_teacher(
    teacher: Supernet, data: TaskData, rows: Dataset, tokenizer: PreTrainedTokenizerBase, seed: int
) -> None:
    """Refuse (`UserError`) a teacher that is worse than chance on a sample of the tokenised training rows."""
    if data.task.check_teacher and (found := doubt(teacher, data, rows, tokenizer, seed)):
        if found.certain:
            raise UserError(found.told)
        console.print(f"warning: {found.told}", markup=False)


def _remember_labels(config: PreTrainedConfig, data: TaskData) -> None:
    """How these data write the classes, for everything that is later done with what is trained on them."""
    if data.labels is not None:
        setattr(config, WRITTEN_KEY, dict(data.labels.ids))


def _has_foreign_head(source: str, config: PreTrainedConfig, data: TaskData) -> bool:
    """Whether the model has a head of other classes than the data's; what becomes of a head is told."""
    if not (config.architectures or [""])[0].endswith("ForSequenceClassification"):
        return False
    kept, told = head_fits(source, labels_of(load_classifier_config(source)), data.output_names, data.task.kind)
    console.print(told, markup=False)
    return not kept


def _describe_grid(supernet: Supernet) -> None:
    for spec in supernet.grid.specs():
        console.print(describe(supernet.resolve(spec), supernet.geometry))


def _rewire(supernet: Supernet, recipe: Recipe, train: Dataset, tokenizer: PreTrainedTokenizerBase) -> None:
    """Order heads and neurons by importance on a sample of the training rows."""
    rows = train.shuffle(seed=recipe.data.seed).select(range(min(recipe.importance_rows, len(train))))
    batches = batches_of(rows, tokenizer, 32)
    device = next(supernet.parameters()).device
    with progress_bar() as progress:
        bar = progress.add_task(f"importance on {len(rows):,} training rows", total=len(batches))

        def told() -> Any:
            for batch in batches:
                yield {name: tensor.to(device) for name, tensor in batch.items()}
                progress.advance(bar)

        rewire(supernet.model, IMPORTANCE[recipe.importance](supernet.model, told()))


def _train_stage(
    run: Run,
    record: Record,
    stage: Stage,
    supernet: Supernet,
    teacher: Supernet,
    original: Supernet,
    data: TaskData,
    train: Dataset,
    validation: dict[str, Dataset],
    tokenizer: PreTrainedTokenizerBase,
) -> Path:
    trainer = SupernetTrainer(
        supernet,
        teacher,
        stage,
        data.task,
        run.settings.distillation,
        run.arguments,
        run.recipe.sampler,
        train_dataset=train,
        eval_dataset=validation,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        stop=run.mode.interruption.asked,
    )
    set_dropout(supernet, run.settings.dropout)
    seconds = _train(trainer, run, record)
    length = run.recipe.data.max_length
    evaluation = _evaluate(supernet, original.to(run.arguments.device), data, validation, tokenizer, length)
    about = {**evaluation, "stage": stage.name, "train_seconds": round(seconds, 1)}
    set_attribute(tokenizer, "model_max_length", length)  # clients, and the export, cut where the training did
    _finish(run, trainer, record, lambda directory: supernet.save(directory, tokenizer), about)
    show(grid_table(evaluation))
    return run.directory


def _choose_rate(run: Run, stage: str, config: PreTrainedConfig) -> None:
    """A recipe that names no learning rate gets the one for its encoder's hidden size, and is told so."""
    if "learning_rate" in run.settings.training:
        return
    hidden_size = getattr(config, family_of(config).hidden_key)
    run.arguments.learning_rate = default_learning_rate(stage, hidden_size)
    console.print(
        f"learning rate {run.arguments.learning_rate:g}, the default of this stage for hidden size {hidden_size} "
        "(training.learning_rate)"
    )


def _say_if_too_short(trainer: Trainer) -> None:
    """Whether the training loss was still falling fast; of the distillation stages' the term that no weight changes."""
    for name in ("loss_logits", "loss"):
        losses = [row[name] for row in trainer.state.log_history if name in row]
        if losses:
            break
    if fall := still_falling(losses):
        before, end = fall
        console.print(
            f"note: the training loss was still falling fast at the end ({before:.3f} -> {end:.3f} in the last third): "
            "not trained out, and all that follows imitates it; more epochs (training.num_train_epochs) or a larger "
            "training.learning_rate may help"
        )


def _train(trainer: ResumableTrainer, run: Run, record: Record) -> float:
    """Train, or go on from the checkpoint; returns the seconds it took."""
    _warn_of_slow_bf16(run.arguments)
    if run.checkpoint is None and run.arguments.should_save:
        begin(run.recipe, record, run.checkpoints)
    run.mode.interruption.resumable = True
    start = time.monotonic()
    try:
        with run.mode.interruption.held(), writing(run.checkpoints, "; put that right and go on with --resume"):
            trainer.train(resume_from_checkpoint=str(run.checkpoint) if run.checkpoint else None)
    except (MemoryError, RuntimeError) as error:
        if out_of_memory(error):
            raise UserError(_less_memory(run)) from error
        raise
    if trainer.stopped:  # by a signal that another process got
        raise Interrupted(signal.SIGTERM)
    seconds = time.monotonic() - start
    _say_if_too_short(trainer)
    return seconds


def _less_memory(run: Run) -> str:
    """What to change after the memory was too small for a step."""
    size, parts = run.arguments.per_device_train_batch_size, run.arguments.gradient_accumulation_steps
    halved = f"training.per_device_train_batch_size={max(1, size // 2)}"
    sampler = "" if run.directory.name == TEACHER else ", or grid.sampler=sandwich(1)"
    return (
        f"out of memory in a training step of {size} rows: add --set {halved} --set "
        f"training.gradient_accumulation_steps={2 * parts} (the same result in smaller parts), or lower "
        f"data.max_length{sampler}, and begin again with --overwrite"
    )


def _finish(
    run: Run, trainer: Trainer, record: Record, save: Callable[[Path], None], about: Mapping[str, Any]
) -> None:
    """Write the result directory in one rename, then drop the checkpoints."""
    if trainer.args.should_save:
        replace = run.mode.overwrite or run.mode.resume  # see `claim`
        with new_directory(run.directory, RESULTS[run.directory.name], replace) as directory:
            save(directory)
            write_record(directory, run.recipe, record, run.directory)
            write_json(directory / "metrics.json", {**about, "log": trainer.state.log_history})
        drop(run.checkpoints)


def _evaluate(
    supernet: Supernet,
    teacher: Supernet,
    data: TaskData,
    validation: dict[str, Dataset],
    tokenizer: PreTrainedTokenizerBase,
    length: int,
) -> dict[str, Any]:
    loaders = {suffix: batches_of(rows, tokenizer, 64) for suffix, rows in validation.items()}
    with progress_bar() as progress:
        count = len(supernet.grid.specs())
        bar = progress.add_task(f"evaluating {count} sub-networks", total=2 * sum(map(len, loaders.values())))
        return evaluate_grid(supernet, teacher, data.task, loaders, length, lambda: progress.advance(bar))


def _predicted(trainer: Trainer, rows: Dataset) -> tuple[Any, Any]:
    output = trainer.predict(rows)
    return output.predictions, output.label_ids


def _warn_of_slow_bf16(arguments: TrainingArguments) -> None:
    cpu = arguments.device.type == "cpu"
    if arguments.bf16 and cpu and not torch.cpu._is_avx512_bf16_supported():
        warnings.warn("this processor has no bf16 arithmetic: training.bf16 is about 30 times slower", stacklevel=2)
