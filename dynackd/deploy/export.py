"""A student directory: the sliced torch model and its ONNX files, written only if they agree with one another."""

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dynackd.deploy.card import licence_of, model_card
from dynackd.deploy.gates import USUAL, Gates, class_drops
from dynackd.deploy.tokenizer_files import check_max_length, check_saved_tokenizer, save_tokenizer
from dynackd.deploy.validation import Outputs, Validation, torch_predictor
from dynackd.deploy.vocabulary import Reader, Wish, with_fewer_words
from dynackd.errors import UserError, one_of
from dynackd.families.table import geometry_of, max_positions
from dynackd.grid import Grid
from dynackd.measure.latency import benchmark
from dynackd.onnx.choices import FASTEST
from dynackd.onnx.graphs import (
    DYNAMIC,
    GRAPHS,
    ONNX_FILE,
    Compared,
    Fixed,
    OnnxModel,
    allowed_difference,
    bytes_per_word,
    check_fixed,
    compared,
    example_batch,
    export_onnx,
    input_names,
    kind_of_model,
    max_length,
    opset_of,
    parity,
    parity_shapes,
)
from dynackd.onnx.quantize import VARIANTS
from dynackd.report.terminal import machine_name
from dynackd.students.cutting import cut
from dynackd.students.stock import stock_model
from dynackd.students.travel import CODE_FILE, add_code
from dynackd.subnet import Subnet, SubnetSpec
from dynackd.supernet.checkpoints import load_model
from dynackd.supernet.cost import FlopCounter
from dynackd.supernet.network import Supernet
from dynackd.system.places import MANIFEST, new_directory, write_files, write_json
from dynackd.system.processor import has_vnni
from dynackd.tasks.task import main_metric

STUDENT = "a student"  # what its manifest calls it
LENGTHS = (32, 128)  # tokens at which latencies are measured
FLOPS_LENGTH = 128


@dataclass(frozen=True)
class ExportOptions:
    """What is written beside the torch student and its float32 graph, and how.

    `variants` are names in `quantize.VARIANTS`; `graph` a name in `graph.GRAPHS`, or "fastest" to measure them all
    here; `gates` what a variant may lose; `max_length` where the tokenizer cuts texts, in tokens, by default at what is
    known of the training (`tokenizer.model_max_length`); `vocabulary` the words that are kept, by default all.
    """

    variants: tuple[str, ...] = ()
    graph: str = "plain"
    fixed: Fixed = DYNAMIC
    gates: Gates = USUAL
    compat: bool = False
    with_code: bool = False
    measure: bool = False
    max_length: int | None = None
    vocabulary: Wish | None = None

    def __post_init__(self) -> None:
        one_of("--graph", self.graph, [*GRAPHS, FASTEST])
        for name in self.variants:
            one_of("variants", name, VARIANTS)
        if self.compat and self.with_code:
            raise UserError("--compat and --with-code exclude each other: a stock checkpoint needs no code")


def export_student(
    supernet: Supernet,
    tokenizer: PreTrainedTokenizerBase,
    which: SubnetSpec | Subnet,
    directory: Path,
    overwrite: bool = False,
    facts: Mapping[str, Any] | None = None,
    options: ExportOptions | None = None,
    validation: Validation | None = None,
) -> dict[str, Any]:
    """Slice a sub-network out, write the student directory and return the content of its `export.json`.

    Raises `UserError`, and leaves no file behind, where the ONNX outputs differ from torch's by more than 1e-4, or of
    outputs beyond 10 by more than 1e-5 of the largest. A variant that loses more than `options.gates` allow on the
    validation data is left out, and why stands under "refused". `facts` are added to export.json; the card tells
    "task", "data", "licence" and "metrics" of them.
    """
    options = options or ExportOptions()
    subnet = supernet.resolve(which)
    with new_directory(Path(directory), STUDENT, overwrite) as temporary:
        whole = Reader(cut(supernet, subnet), tokenizer, validation)
        longest, limit = _lengths(whole, options)
        own, words = whole, dict[str, Any]()
        if options.vocabulary:
            own, words = with_fewer_words(whole, options.vocabulary, limit, options.gates)
        save_tokenizer(own.tokenizer, limit, options.fixed.length, temporary)
        check_saved_tokenizer(own.tokenizer, limit, temporary, own.validation.texts if own.validation else ())
        names = input_names(own.student, tokenizer)
        graph_facts, difference = _write_graph(own.student, names, longest, temporary / ONNX_FILE, options)
        _refuse_difference(difference, which, directory)
        about = {
            "name": Path(directory).name,
            **(which.to_dict() if isinstance(which, SubnetSpec) else {}),
            **_what_it_is(supernet, subnet, own.student, min(FLOPS_LENGTH, longest)),
            **graph_facts,
            **_how_it_reads(own.tokenizer, names, limit, longest, options.fixed),
            **supernet.origin.public_teacher(),
            "versions": {name: version(name) for name in ("dynackd", "torch", "transformers", "onnx", "onnxruntime")},
            **_write_torch(own.student, longest, temporary, options),
            **({"vocabulary": words} if words else {}),
        }
        write_files(temporary, kind_of_model(own.student).files(own.student.config))
        onnx_facts, measured = _write_variants(own, names, longest, temporary, options, about["parity_max_abs_diff"])
        if whole.validation is not None:
            about["metrics"] = _metrics(supernet, own, whole, onnx_facts[ONNX_FILE], temporary / ONNX_FILE)
        about |= {"licence": licence_of([supernet.origin.teacher]), **measured, **(facts or {})}
        if options.measure:
            about["latency"] = _measured(supernet, temporary, options, longest)
        if words and "refused" not in words:
            _note_whole_sizes(onnx_facts, temporary, words["rows"] - words["size"])
        return _write_card(about, supernet, onnx_facts, temporary)


def _lengths(whole: Reader, options: ExportOptions) -> tuple[int, int]:
    """(the most tokens that the student takes, where its tokenizer cuts texts). Raises `UserError`."""
    longest = max_positions(whole.student.config)
    limit = options.max_length or max_length(whole.student, whole.tokenizer)
    check_fixed(options.fixed, longest)
    check_max_length(limit, longest, whole.tokenizer)
    check_max_length(options.fixed.length or limit, longest, whole.tokenizer, "--static-length")
    return longest, min(limit, options.fixed.length or limit)


def _how_it_reads(
    tokenizer: PreTrainedTokenizerBase, names: list[str], limit: int, longest: int, fixed: Fixed
) -> dict[str, Any]:
    """What export.json says of a student's inputs."""
    return {
        "inputs": names,
        "max_length": limit,
        "truncation_side": tokenizer.truncation_side,
        "max_positions": longest,
        "static_batch": fixed.batch_size,
        "static_length": fixed.length,
    }


def _write_card(
    about: dict[str, Any], supernet: Supernet, onnx_facts: Mapping[str, dict[str, Any]], directory: Path
) -> dict[str, Any]:
    """README.md, which tells the sizes of the files, and export.json, which tells that of README.md too."""
    about["files"] = _sizes(directory, onnx_facts)
    full = sum(parameter.numel() for parameter in supernet.model.parameters())
    (directory / "README.md").write_text(model_card(about, supernet.geometry, full), encoding="utf-8")
    about["files"] = _sizes(directory, onnx_facts)
    write_json(directory / "export.json", about)
    return about


def _what_it_is(supernet: Supernet, subnet: Subnet, student: PreTrainedModel, length: int) -> dict[str, Any]:
    """What export.json says of a student's sizes, kind and cost; FLOPs at `length` tokens."""
    (heads, neurons), flops = subnet.sizes, FlopCounter(supernet)
    return {
        "family": supernet.model.config.model_type,
        "heads": heads,
        "neurons": neurons,
        "layers": list(subnet.indices),
        "subnet": subnet.to_dict(),
        "kind": kind_of_model(student).name,
        "labels": student.config.num_labels,
        **kind_of_model(student).facts(student.config),
        "parameters": sum(parameter.numel() for parameter in student.parameters()),
        "flops": {
            "length": length,
            "student": flops.count(subnet, length),
            "full": flops.count(supernet.whole, length),
        },
    }


# --- torch -----------------------------------------------------------------------------------------------------------


def _write_torch(
    student: PreTrainedModel, longest: int, directory: Path, options: ExportOptions
) -> dict[str, Any]:
    """The torch model; returns what is to be told of it."""
    if options.compat:
        return {"compat": _write_stock(student, longest, directory)}
    if options.with_code:
        add_code(student, directory)
    student.save_pretrained(directory)
    return {"with_code": CODE_FILE} if options.with_code else {}


@torch.no_grad()
def _write_stock(student: PreTrainedModel, longest: int, directory: Path) -> dict[str, Any]:
    """The plain checkpoint of `--compat`, compared with the student, and what it costs."""
    stock = stock_model(student)
    names, kind = ["input_ids", "attention_mask"], kind_of_model(student)
    for shape in parity_shapes(min(FLOPS_LENGTH, longest)):
        batch = example_batch(shape, names, student)
        ours, theirs = (kind.read(model(**batch), batch, model.config) for model in (student, stock))
        difference = float(torch.stack([(theirs[name] - output).abs().max() for name, output in ours.items()]).max())
        largest = float(torch.stack([output.abs().max() for output in ours.values()]).max())
        if not difference <= allowed_difference(largest):  # nor a NaN, which torch's max() keeps
            raise UserError(f"the stock checkpoint differs from the student by {difference:.1e}; nothing was written")
    stock.save_pretrained(directory)
    net = Supernet(stock, Grid((1.0,), (1.0,)))
    return {
        "heads": net.geometry.heads,
        "head_size": net.geometry.head_size,
        "head_size_from": geometry_of(student.config).head_size,
        "parameters": sum(parameter.numel() for parameter in stock.parameters()),
        "flops": FlopCounter(net).count(net.whole, min(FLOPS_LENGTH, longest)),
    }


# --- ONNX ------------------------------------------------------------------------------------------------------------


def _write_graph(
    student: PreTrainedModel, names: list[str], longest: int, file: Path, options: ExportOptions
) -> tuple[dict[str, Any], Compared]:
    """Write the float32 graph; returns what export.json says of it (its kind, how far it is from torch and, where all
    kinds were measured, their figures), and how it compares with torch."""
    graph, figures = options.graph, dict[str, Any]()
    if graph == FASTEST:
        graph, figures = _write_fastest(student, names, longest, file, options)
    else:
        export_onnx(student, names, file, options.fixed, graph)
    difference = compared(student, names, longest, file)
    facts = {"parity_max_abs_diff": difference.difference, "opset": opset_of(file), "graph": graph, "graphs": figures}
    return facts, difference


def _refuse_difference(found: Compared, which: SubnetSpec | Subnet, directory: Path) -> None:
    """`UserError` for a graph that is not the torch model."""
    if not math.isfinite(found.allowed):
        raise UserError(f"the outputs of ({which}) are not finite numbers in torch either; {directory} was not written")
    if not found.difference <= found.allowed:
        raise UserError(
            f"the ONNX graph of ({which}) differs from the torch student by {found.difference:.1e}, more than "
            f"{found.allowed:.0e}; {directory} was not written"
        )


def _write_fastest(
    student: PreTrainedModel, names: list[str], longest: int, file: Path, options: ExportOptions
) -> tuple[str, dict[str, Any]]:
    """Write the graph of the kind that is the fastest here; returns its kind and the figures of all."""
    figures, right = dict[str, Any](), list[str]()
    with tempfile.TemporaryDirectory() as directory:
        files = {name: Path(directory) / f"{name}.onnx" for name in GRAPHS}
        for name, place in files.items():
            export_onnx(student, names, place, options.fixed, name)
            figures[name] = {"max_abs_diff": (own := compared(student, names, longest, place)).difference}
            if own.difference <= own.allowed:
                right.append(name)
        sizes = _benchmark_sizes(options.fixed, longest)
        measured = benchmark([str(place) for place in files.values()], ["onnxruntime"], 1, *sizes, 100, 10)
        for row in measured["rows"]:
            facts = figures[Path(row["path"]).stem]
            facts.setdefault("p50_ms", {})[str(row["length"])] = row["latency_ms"]["p50"]
        best = min(right or ["plain"], key=lambda name: sum(figures[name]["p50_ms"].values()))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(files[best].read_bytes())
    return best, figures


def _write_variants(
    reader: Reader, names: list[str], longest: int, directory: Path, options: ExportOptions, difference: float
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Write the variants that were asked for; returns the facts of each ONNX file, and of those refused."""
    source, validation = directory / ONNX_FILE, reader.validation
    reference = _outputs(source, validation)
    facts: dict[str, dict[str, Any]] = {ONNX_FILE: {"max_abs_diff": difference}}
    if validation is not None:
        facts[ONNX_FILE]["metrics"] = validation.metrics(reference)
        options.gates.check(validation.task.kind.name, validation.per_class(reference))
    refused = {}
    for name in options.variants:
        file = directory / VARIANTS[name].file
        VARIANTS[name].write(source, file)
        own: dict[str, Any] = {"max_abs_diff": parity(reader.student, names, longest, file)}
        if VARIANTS[name].saturates:
            own["measured_on"] = {"processor": machine_name(), "vnni": has_vnni()}
        finite = math.isfinite(own["max_abs_diff"])
        if validation is not None and finite:
            outputs = _outputs(file, validation)
            finite = all(np.isfinite(array).all() for arrays in outputs.values() for array in arrays.values())
            own["max_abs_diff"] = own["max_abs_diff"] if finite else math.nan  # of texts, where it was of random ids
            own |= _loss(validation, facts[ONNX_FILE]["metrics"], reference, outputs) if finite else {}
        metric = main_metric(validation.task) if own.get("metrics") and validation else "fidelity"
        reason = options.gates.refusal(own, metric)
        if reason is None:
            facts[VARIANTS[name].file] = own
        else:
            refused[VARIANTS[name].file] = {"reason": reason, **(own if finite else {})}
            file.unlink()
    return facts, {"refused": refused} if refused else {}


def _outputs(file: Path, validation: Validation | None) -> Outputs:
    if validation is None:
        return {}
    model = OnnxModel(file, validation.task.kind)
    return validation.outputs(model, model.fixed.batch_size or 1)


def _loss(validation: Validation, before: dict[str, float], reference: Outputs, outputs: Outputs) -> dict[str, Any]:
    """What a variant loses against the float32 graph on the validation rows."""
    after = validation.metrics(outputs)
    # Rows without labels have no metrics.
    drop = validation.drop(before, after) if after else validation.unlabelled_drop(outputs, reference)
    lost = {"drop": drop} if drop is not None else {}
    classes = class_drops(validation.per_class(reference), validation.per_class(outputs))
    of_classes = {"class_drops": classes} if classes else {}
    return {"metrics": after, **lost, **of_classes, **validation.agreement(outputs, reference)}


def _metrics(supernet: Supernet, own: Reader, whole: Reader, facts: dict[str, Any], file: Path) -> dict[str, Any]:
    """The student's metrics, which are among its float32 file's `facts`, and, where its directory is here, the
    teacher's on the same rows as it reads them; where rows have no labels, how closely the file follows it."""
    assert own.validation is not None
    assert whole.validation is not None
    teacher, kind = supernet.origin.teacher_here(), own.validation.task.kind
    metrics: dict[str, Any] = {"rows": f"On {len(own.validation):,} validation rows", "student": facts["metrics"]}
    if teacher:
        model = load_model(teacher, kind=kind).eval()
        theirs = whole.validation.read_by_model(teacher, model.config)
        outputs = theirs.outputs(torch_predictor(model, kind), 32)
        metrics["teacher"] = theirs.metrics(outputs)
        if not facts["metrics"]:
            found = [_outputs(file, own.validation), outputs]
            of_rows = found if own.validation is theirs else map(whole.validation.of_rows, found)
            metrics["fidelity"] = own.validation.fidelity(*of_rows)
    return metrics


# --- sizes and latencies ---------------------------------------------------------------------------------------------


def _sizes(directory: Path, onnx_facts: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        name: {"size_bytes": file.stat().st_size, **onnx_facts.get(name, {})}
        for file in sorted(directory.rglob("*"))
        if file.is_file() and (name := file.relative_to(directory).as_posix()) != MANIFEST
    }


def _note_whole_sizes(onnx_facts: dict[str, dict[str, Any]], directory: Path, left_out: int) -> None:
    """How large each ONNX file would be with the words that were left out."""
    for name, own in onnx_facts.items():
        own["whole_size_bytes"] = (directory / name).stat().st_size + left_out * bytes_per_word(directory / name)


def _benchmark_sizes(fixed: Fixed, longest: int) -> tuple[list[int], list[int]]:
    """(batch sizes, lengths) at which a graph is measured."""
    lengths = [fixed.length] if fixed.length else sorted({min(length, longest) for length in LENGTHS})
    return [fixed.batch_size or 1], lengths


def _measured(supernet: Supernet, directory: Path, options: ExportOptions, longest: int) -> dict[str, Any]:
    """p50 latencies here on one thread, of the teacher where its directory is here, and of every file."""
    teacher = supernet.origin.teacher_here()
    variants = [str(directory / VARIANTS[name].file) for name in options.variants]
    named = {str(directory): "student", **{path: Path(path).relative_to(directory).as_posix() for path in variants}}
    paths = [*([teacher] if teacher else []), str(directory)]
    paths += [path for path in variants if Path(path).is_file()]
    result = benchmark(paths, ["torch", "onnxruntime"], 1, *_benchmark_sizes(options.fixed, longest), 100, 10)
    rows = [
        {
            "path": named.get(row["path"], "teacher"),
            **{key: row[key] for key in ("runtime", "provider", "batch_size", "length")},
            "p50_ms": row["latency_ms"]["p50"],
        }
        for row in result["rows"]
    ]
    return {"machine": result["machine"], "threads": 1, "rows": rows}
