"""What CKD costs: dynackd's four terms beside the authors' code, how the cost grows, accuracy, the share of a step.

    git clone https://github.com/GeondoPark/CKD /tmp/ckd
    python benchmarks/ckd_loss.py --reference /tmp/ckd
    python benchmarks/ckd_loss.py --growth --accuracy --step

Every measurement runs forward and backward in a process of its own, the sides taking turns, and medians are shown.
Memory is the peak beyond the inputs: of resident memory on a CPU, of allocated memory on a GPU. On a busy machine take
--threads 1, which counts processor time instead of wall time.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "distill"))

SHAPES = [(32, 128, 768, 7, 21), (32, 64, 384, 7, 21), (8, 512, 768, 13, 21)]
TERMS = ("wr_pair", "wr_triple", "ltr_pair", "ltr_triple")
REFERENCE_BYTES = 6 * 4  # the authors' wr_triple: about six float32 copies of [batch, layers, length, window, hidden]
console = Console(width=120)


# ---------------------------------------------------------------------------------------------------- one measurement


def theirs(term, directory, window):
    """The authors' function of (student, teacher, mask)."""
    sys.path.insert(0, directory)
    import loss

    return {
        "wr_pair": lambda s, t, m: loss.WR_Dist()(t, s, m, "cos", "kldiv"),
        "wr_triple": lambda s, t, m: (
            loss.WR_Angle_window()(t, s, m, "l2loss", window) if window else loss.WR_Angle()(t, s, m, "l2loss")
        ),
        "ltr_pair": lambda s, t, m: loss.LTR_Dist()(t, s, m, "cos", "kldiv"),
        "ltr_triple": lambda s, t, m: loss.LTR_Angle()(t, s, m, "l2loss"),
    }[term]


def ours(term, _, window):
    """dynackd's function of (student, teacher, mask)."""
    from dynackd.distill import ckd

    if term == "all":
        return lambda s, t, m: all_terms(s, t, m, window)
    options = {"window": window} if term == "wr_triple" else {}
    return lambda s, t, m: getattr(ckd, term)(s, t, m, **options)


def all_terms(student, teacher, mask, window):
    """All four as the trainer calls them, the teacher's share included."""
    from dynackd.distill import signals as distill
    from dynackd.tasks.classification import CLASSIFICATION

    settings = distill.DistillationSettings(weights=dict.fromkeys(TERMS, 1.0), window=window)
    outputs = {"logits": teacher.new_zeros(len(mask), 2)}
    signal = distill.TeacherSignal(settings, CLASSIFICATION, outputs, teacher.unbind(1), {"attention_mask": mask})
    stack = tuple(range(student.shape[1] - 1))
    return distill.distillation_loss(settings, [distill.Student(outputs, student.unbind(1), stack)], signal)[0]


class Memory:
    """Peak memory in bytes beyond what was in use at the start."""

    def __init__(self, device):
        self.cuda = device == "cuda"
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.base = torch.cuda.memory_allocated()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
            self.base = self._status("VmRSS")

    @staticmethod
    def _status(field):
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) * 1024

    def peak(self):
        return (torch.cuda.max_memory_allocated() if self.cuda else self._status("VmHWM")) - self.base


def run_once(function, student, teacher, mask, clock):
    student.grad = None
    if student.is_cuda:
        torch.cuda.synchronize()
    start = clock()
    value = function(student, teacher, mask)
    value.backward()
    if student.is_cuda:
        torch.cuda.synchronize()
    return clock() - start, float(value.detach())


def child(side, term, shape, device, threads, reference, warm):
    """One process: a small warm-up, `warm` unmeasured runs, then time, memory and value of one forward and backward."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    clock = time.thread_time if threads == 1 and device == "cpu" else time.perf_counter
    batch, length, hidden, layers, window = shape
    function = {"theirs": theirs, "ours": ours}[side](term, reference, window)

    def inputs(batch, length, hidden, layers):
        generator = torch.Generator().manual_seed(0)
        states = [torch.randn(batch, layers, length, hidden, generator=generator).to(device) for _ in range(2)]
        return states[0].requires_grad_(), states[1], torch.ones(batch, length, device=device)

    run_once(function, *inputs(2, 8, 8, 3), clock)
    tensors = inputs(batch, length, hidden, layers)
    memory = Memory(device)
    seconds, value = run_once(function, *tensors, clock)
    peak = memory.peak()
    for _ in range(warm):  # time is that of a later run, once the allocator and the caches are warm
        seconds, value = run_once(function, *tensors, clock)
    print(json.dumps({"seconds": seconds, "peak_bytes": peak, "value": value}))


def measure(side, term, shape, options, warm=1):
    arguments = [side, term, list(shape), options.device, options.threads, options.reference, warm]
    command = [sys.executable, __file__, "--child", json.dumps(arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{side} {term} {shape} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def median(results, key):
    return statistics.median(result[key] for result in results)


# ---------------------------------------------------------------------------------------------------- side by side


def same_definition(term, shape):
    """What the authors' value is multiplied by to be ours, without padding: they also count i = j, j = k and i = k.

    Not so for windowed triples, where they count clamped edge words twice.
    """
    points = shape[3] if term.startswith("ltr") else shape[1]
    if term.endswith("pair"):
        return points / (points - 1)
    if term == "wr_triple" and shape[4]:
        window = shape[4]
        return window**2 / ((window - 1) * (window - 2))
    return points**2 / ((points - 1) * (points - 2))


def available_bytes():
    line = next(x for x in Path("/proc/meminfo").read_text().splitlines() if x.startswith("MemAvailable"))
    return int(line.split()[1]) * 1024


def compare(options):
    rows = []
    for shape, term in itertools.product(SHAPES, TERMS):
        batch, length, hidden, layers, window = shape
        need = REFERENCE_BYTES * batch * layers * length * hidden * (window if term == "wr_triple" else layers)
        row = {"shape": list(shape), "term": term}
        rows.append(row)
        if options.device == "cpu" and need * 1.1 > available_bytes():
            row["note"] = f"theirs needs about {need / 1e9:.0f} GB: not available"
            row["ours"] = [measure("ours", term, shape, options) for _ in range(options.repeats)]
            continue
        row |= {"theirs": [], "ours": []}
        for _ in range(options.repeats):  # taking turns
            for side in ("theirs", "ours"):
                row[side].append(measure(side, term, shape, options, warm=int(need < 4e9 or side == "ours")))
        their_value, value = row["theirs"][0]["value"], row["ours"][0]["value"]
        row["value_difference"] = abs(their_value * same_definition(term, shape) - value) / value
        if their_value != their_value:
            row["note"] = "theirs: NaN (a)"
        elif term == "wr_triple":
            row["note"] = "edges differ (b)"
        console.print(f"[dim]measured {term} {shape}")
    table = Table(
        "shape",
        "term",
        title="the authors' code and dynackd, forward and backward; shape = batch, length, hidden, layers, window",
    )
    for head in ("theirs s", "ours s", "time", "theirs MB", "ours MB", "memory", "difference"):
        table.add_column(head, justify="right")
    table.add_column("note")
    for row in rows:
        cells = [f"{median(row[side], 'seconds'):.3f}" if side in row else "-" for side in ("theirs", "ours")]
        peaks = [f"{median(row[side], 'peak_bytes') / 1e6:,.0f}" if side in row else "-" for side in ("theirs", "ours")]
        ratios = ["-", "-"]
        if "theirs" in row:
            ratios = [f"{median(row['theirs'], k) / median(row['ours'], k):.1f}x" for k in ("seconds", "peak_bytes")]
        difference = f"{row['value_difference']:.1e}" if "value_difference" in row else "-"
        shape = ", ".join(map(str, row["shape"]))
        table.add_row(shape, row["term"], *cells, ratios[0], *peaks, ratios[1], difference, row.get("note", ""))
    console.print(table)
    console.print("(a) -inf times 0 inside kl_div on current torch  (b) theirs counts clamped edge words twice")
    return rows


# ---------------------------------------------------------------------------------------------------- growth


def growth(options):
    base = {"batch": 8, "length": 128, "hidden": 384, "layers": 7, "window": 21}
    changes = [
        *({"length": n} for n in (32, 64, 128, 256, 512)),
        *({"layers": n} for n in (3, 7, 13, 25)),
        *({"window": n} for n in (5, 11, 21, 51, None)),
    ]
    terms = ("wr_triple", "ltr_triple", "all")  # the two that grow fastest, and all four as the trainer calls them
    table = Table("changed", title=f"how the cost grows, from {base}")
    for term in terms:
        table.add_column(f"{term} s", justify="right")
    table.add_column("peak MB, all", justify="right")
    rows = []
    for change in changes:
        shape = tuple({**base, **change}.values())
        results = {term: measure("ours", term, shape, options) for term in terms}
        rows.append({"change": change, "shape": list(shape), "results": results})
        times = [f"{result['seconds']:.3f}" for result in results.values()]
        name = ", ".join(f"{key} {value}" for key, value in change.items())
        console.print(f"[dim]measured {name}")
        table.add_row(name, *times, f"{results['all']['peak_bytes'] / 1e6:,.0f}")
    console.print(table)
    return rows


# ---------------------------------------------------------------------------------------------------- accuracy


def difficult_states():
    """float32 student states whose differences or cosines lose digits, by name."""
    generator = torch.Generator().manual_seed(0)
    states, noise = (torch.randn(1, 3, 12, 64, generator=generator, dtype=torch.float64) for _ in range(2))
    multiples = torch.arange(1, 13, dtype=torch.float64).view(1, 1, 12, 1)
    return {
        "random": states,
        "common offset of 100": states + 100,
        "words nearly equal, 1e-3": states[:, :, :1] + 1e-3 * noise,
        "words nearly equal, 1e-5": states[:, :, :1] + 1e-5 * noise,
        "layers nearly equal, 1e-4": states[:, :1] + 1e-4 * noise,
        "words nearly parallel": states[:, :, :1] * multiples + 1e-3 * noise,
        "lengths from 1e-3 to 1e3": states * torch.logspace(-3, 3, 12, dtype=torch.float64).view(1, 1, 12, 1),
    }


def accuracy(_):
    """Relative errors of value and gradient against the float64 twins, of dynackd and of the twins run in float32."""
    import distill_reference as reference

    from dynackd.distill import ckd

    def with_gradient(function, student, *arguments):
        student = student.clone().requires_grad_()
        value = function(student, *arguments)
        return value.detach(), torch.autograd.grad(value, student)[0]

    table = Table("states", "term", title="float32 errors against float64, relative; naive = the formulas in float32")
    for head in ("value, ours", "value, naive", "gradient, ours", "gradient, naive"):
        table.add_column(head, justify="right")
    teacher = torch.randn(1, 3, 12, 64, generator=torch.Generator().manual_seed(1))
    mask, rows = torch.ones(1, 12), []
    for (name, states), term in itertools.product(difficult_states().items(), TERMS):
        student, twin = states.float(), getattr(reference, term)
        truth, true_gradient = with_gradient(twin, student.double(), teacher.double(), mask)
        errors = []
        for function in (getattr(ckd, term), twin):
            value, gradient = with_gradient(function, student, teacher, mask)
            errors.append(
                (float((value - truth).abs() / truth), float((gradient - true_gradient).norm() / true_gradient.norm()))
            )
        (value, gradient), (naive_value, naive_gradient) = errors
        cells = (value, naive_value, gradient, naive_gradient)
        rows.append({"states": name, "term": term, "errors": cells})
        table.add_row(name, term, *(f"{cell:.1e}" for cell in cells))
    console.print(table)
    return rows


# ---------------------------------------------------------------------------------------------------- share of a step


def narrowed(model, width, depth):
    """A BERT with the first heads and neurons of each layer and the layers that the depth rule keeps."""
    total = len(model.encoder.layer)
    count = max(1, int(depth * total + 0.5))
    kept = [(i * total) // count - 1 for i in range(1, count + 1)]
    model.encoder.layer = torch.nn.ModuleList(model.encoder.layer[i] for i in kept)
    for layer in model.encoder.layer:
        attention, own = layer.attention, layer.attention.self
        size = max(1, int(width * own.num_attention_heads + 0.5)) * own.attention_head_size
        neurons = layer.intermediate.dense.out_features * size // own.all_head_size
        for name in ("query", "key", "value"):
            setattr(own, name, torch.nn.Linear(own.query.in_features, size))
        attention.output.dense = torch.nn.Linear(size, attention.output.dense.out_features)
        layer.intermediate.dense = torch.nn.Linear(layer.intermediate.dense.in_features, neurons)
        layer.output.dense = torch.nn.Linear(neurons, layer.output.dense.out_features)
    return model, tuple(kept)


def step(options):
    """The share of a training step of a MiniLM (6 layers, hidden 384) that distillation takes."""
    from transformers import BertConfig, BertModel

    from dynackd.distill import signals as distill
    from dynackd.tasks.classification import CLASSIFICATION

    torch.set_num_threads(options.threads)
    clock = time.thread_time if options.threads == 1 else time.perf_counter
    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    ids, settings = torch.randint(0, 30000, (32, 64)), distill.DistillationSettings()
    batch, outputs = {"attention_mask": torch.ones_like(ids)}, {"logits": torch.randn(32, 2)}
    inputs = {"input_ids": ids, **batch, "output_hidden_states": True}
    stages = {
        "width stage: 0.25, 0.5, 0.75, 1.0": [(0.25, 1.0), (0.5, 1.0), (0.75, 1.0), (1.0, 1.0)],
        "depth stage: the same at depth 0.5, 0.75, 1.0": list(
            itertools.product((0.25, 0.5, 0.75, 1.0), (0.5, 0.75, 1.0))
        ),
    }
    table = Table("stage", title="the share of distillation in a step: batch 32, length 64, all four terms")
    for head in ("networks ms", "relations of the teacher ms", "terms ms", "share"):
        table.add_column(head, justify="right")
    rows = []
    for name, specs in stages.items():
        width_count = len({width for width, _ in specs}) if any(depth < 1 for _, depth in specs) else 1
        times = {"networks": [], "teacher": [], "terms": []}
        models = [narrowed(BertModel(config), *spec) for spec in specs]
        teacher_model = BertModel(config).eval()
        for _ in range(1 + options.repeats):
            marks = dict.fromkeys(times, 0.0)

            def timed(what, function, marks=marks):
                start = clock()
                result = function()
                marks[what] += clock() - start
                return result

            for _ in range(width_count):  # in the depth stage each width has a teacher of its own
                with torch.no_grad():
                    states = timed("networks", lambda m=teacher_model: m(**inputs))
                about = (settings, CLASSIFICATION, outputs, states.hidden_states, batch)
                signal = timed("teacher", lambda a=about: distill.TeacherSignal(*a))
            for model, kept in models:
                out = timed("networks", lambda m=model: m(**inputs).hidden_states)
                leaves = [state.detach().requires_grad_() for state in out]

                def terms(leaves=leaves, kept=kept, signal=signal):
                    distill.distillation_loss(settings, [distill.Student(outputs, leaves, kept)], signal)[0].backward()

                timed("terms", terms)
                timed("networks", lambda o=out, g=leaves: torch.autograd.backward(o, [leaf.grad for leaf in g]))
            for what, value in marks.items():
                times[what].append(value * 1000)
        networks, teacher, terms_ms = (statistics.median(values[1:]) for values in times.values())
        share = (teacher + terms_ms) / (networks + teacher + terms_ms)
        rows.append(
            {"stage": name, "networks_ms": networks, "teacher_ms": teacher, "terms_ms": terms_ms, "share": share}
        )
        table.add_row(name, f"{networks:.0f}", f"{teacher:.0f}", f"{terms_ms:.0f}", f"{share:.1%}")
    console.print(table)
    return rows


# ---------------------------------------------------------------------------------------------------- command line


def machine(options):
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    description = (
        f"{name}, {os.cpu_count()} cores, {options.threads} threads, {torch.backends.cpu.get_cpu_capability()}"
    )
    if options.device == "cuda":
        description += f", {torch.cuda.get_device_name()}"
    return f"{description}, torch {torch.__version__}, Python {platform.python_version()}, {platform.system()}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", metavar="DIR", help="a clone of github.com/GeondoPark/CKD to compare with")
    for part in (growth, accuracy, step):
        parser.add_argument(f"--{part.__name__}", action="store_true")
    parser.add_argument("--repeats", type=int, default=3, help="processes a side (3)")
    parser.add_argument("--shapes", type=int, default=len(SHAPES), help="only the first so many shapes")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="processor cores (all)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*json.loads(options.child))
        return
    if options.reference and not (Path(options.reference) / "loss.py").exists():
        parser.error(f"--reference: there is no loss.py in {options.reference}")
    del SHAPES[options.shapes :]
    parts = [part for part in (growth, accuracy, step) if getattr(options, part.__name__)]
    parts = [*([compare] if options.reference else []), *parts]
    if not parts:
        parser.error("nothing to do: name --reference DIR, --growth, --accuracy or --step")
    console.print(machine(options))
    figures = {"machine": machine(options)} | {part.__name__: part(options) for part in parts}
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
