"""Searched sizes against the uniform grid's at equal measured latency: what `dynackd search` claims.

    python benchmarks/search_claim.py runs/sst2/depth runs/sst2-mixed/depth --output runs/claim     # on a quiet machine
    python benchmarks/search_claim.py --show --output runs/claim

For every supernet and budget (shares of the full network's latency) a search compares candidates on some rows, chooses
on others, both held out of the training rows, and the claim is made on a third set, the recipe's validation rows. The
grid's best under the same budget is chosen on the same rows, exported and timed beside it. What was measured and
evaluated is kept under --output, so that a killed run goes on, and serves every budget and all supernets of one shape.
"""

import argparse
import json
import statistics
from pathlib import Path

from dynackd.errors import UserError
from dynackd.search.searching import search
from dynackd.search.settings import Budget, Effort, Setting

SHARES = (0.15, 0.25, 0.35, 0.5, 0.7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("supernets", type=Path, nargs="*", metavar="SUPERNET")
    parser.add_argument("--shares", type=float, nargs="+", default=list(SHARES), help="of the full network's latency")
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--evaluations", type=int, default=Effort().evaluations)
    parser.add_argument("--rows", type=int, default=Effort().rows)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--output", type=Path, default=Path("runs/claim"))
    parser.add_argument("--show", action="store_true", help="print the tables of what is kept only")
    options = parser.parse_args()
    for supernet in [] if options.show else options.supernets:
        claim(supernet, options)
    show(options.output)


def claim(supernet: Path, options: argparse.Namespace) -> None:
    """Search `supernet` under every budget; each result lies under --output."""
    own = options.output / supernet.resolve().parent.name
    own.mkdir(parents=True, exist_ok=True)
    setting = Setting(length=options.length)
    full_ms = searched(supernet, Budget(max_latency_ms=1e9), setting, Effort(1, 8), own / "full.json")["full"]
    for seed in options.seeds:
        effort = Effort(evaluations=options.evaluations, rows=options.rows, seed=seed)
        for share in options.shares:
            budget = Budget(max_latency_ms=share * full_ms["latency_ms"])
            place = own / f"share{share:g}-seed{seed}.json"
            print(f"{place}: at most {budget.max_latency_ms:.3f} ms", flush=True)
            try:
                searched(supernet, budget, setting, effort, place)
            except UserError as error:
                print(f"{place}: {error}", flush=True)


def searched(supernet: Path, budget: Budget, setting: Setting, effort: Effort, place: Path) -> dict:
    """The result of a search, found now or earlier."""
    if not place.is_file():
        found = search(supernet, budget, setting, effort, output=place.parents[1] / "search", overwrite=True)
        place.write_text(json.dumps(found))
    return json.loads(place.read_text())


def show(output: Path) -> None:
    """The tables, as Markdown."""
    for own in sorted({file.parent for file in output.glob("*/share*.json")}):
        found = [json.loads(file.read_text()) for file in sorted(own.glob("share*.json"))]
        name, model = found[0]["metric"]["name"], found[0]["latency_model"]
        print(f"\n{own.name}: {name} on the choice's rows / on the validation rows; {_rows(found[0])}\n")
        print(f"| budget, ms | grid | ms | {name} | searched | ms | {name} | lead | difference | of the choice |")
        print("|---|---|---|---|---|---|---|---|---|---|")
        differences = []
        for result in sorted(found, key=lambda one: one["budget"]["max_latency_ms"]):
            grid, choice = result["grid"], result["choice"]
            if grid is None:
                continue
            searched = result["searched"] or grid
            differences.append([_value(own, name) - _value(grid, name) for own in (searched, choice)])
            clear = f"{searched['lead']:+.4f} ± {searched['lead_error']:.4f}" if searched is not grid else "-"
            print(
                f"| {result['budget']['max_latency_ms']:.2f} | {_size(grid)} | {_cells(grid, name)} | "
                f"{_size(searched)} | {_cells(searched, name)} | {clear} | {differences[-1][0]:+.4f} | "
                f"{differences[-1][1]:+.4f} |"
            )
        searched_mean, choice_mean = map(statistics.fmean, zip(*differences, strict=True))
        print(
            f"\nmean difference on the validation rows over {len(differences)} budgets: {searched_mean:+.4f} of what"
            f" was searched, {choice_mean:+.4f} of what is chosen"
        )
        errors = {key: value for key, value in model.items() if "error" in key or "unseen" in key}
        print(f"latency model: {json.dumps(errors)}; full network {found[0]['full']['latency_ms']:.2f} ms")


def _rows(result: dict) -> str:
    return ", ".join(f"{key}: {value}" for key, value in result["rows"].items() if isinstance(value, int | str))


def _value(own: dict, name: str) -> float:
    return own["validation"][name]


def _cells(own: dict, name: str) -> str:
    return f"{own['latency_ms']:.2f} | {own['metric']:.4f} / {_value(own, name):.4f}"


def _size(own: dict) -> str:
    """`0.5 x 0.75` of a size of the same share everywhere, else the heads / neurons of each layer."""
    heads, neurons = own["heads"], own["neurons"]
    if isinstance(heads, int) and isinstance(neurons, int):
        return f"{own['width']:.2g} x {own['depth']:.2g}"
    count = len(own["layers"])
    columns = [value if isinstance(value, list) else [value] * count for value in (heads, neurons)]
    return ", ".join(f"{index}: {h} / {n}" for index, h, n in zip(own["layers"], *columns, strict=True))


if __name__ == "__main__":
    main()
