"""The search for the best sub-network within a budget."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dynackd.data.origins import weights_sha256
from dynackd.errors import UserError
from dynackd.families.table import max_positions
from dynackd.measure.evaluation import this_device
from dynackd.report.terminal import machine_name
from dynackd.search.choosing import Candidate, Chooser, refuse_impossible
from dynackd.search.costs import Additive, ByHidden, Cost
from dynackd.search.held_out import HeldOut, hold_out
from dynackd.search.keeping import Lines, add_measured, kept_directory, read_measured
from dynackd.search.latency_model import Fit, fit
from dynackd.search.optimiser import Fitter, optimise
from dynackd.search.quality import Judge, Metric, whole_batches
from dynackd.search.settings import Budget, Effort, Setting
from dynackd.search.sizes import ENOUGH, size_model
from dynackd.search.space import Space
from dynackd.search.timing import PARTS, Measured, Workshop, check_device, steady_ms, usual_references_ms
from dynackd.search.validating import validated
from dynackd.subnet import Subnet
from dynackd.supernet.cost import FlopCounter, count_parameters
from dynackd.supernet.network import check_supernet, load_supernet, only_of
from dynackd.system.places import new_directory, occupied_output, refuse_existing, write_json
from dynackd.training.recipe import Recipe, load_recipe

SEARCH = "a search's result"  # what its manifest calls it
UNSEEN = 4  # one in so many of the measured sub-networks tells the latency model's error
MOST_MARGIN = 0.05  # of the budget that is left free for what the model is off by
OnProgress = Callable[[str, int, int], None]  # what is done now, how many of it are done, of how many


def search(
    directory: Path,
    budget: Budget,
    setting: Setting | None = None,
    effort: Effort | None = None,
    recipe: Recipe | None = None,
    output: Path | None = None,
    overwrite: bool = False,
    on_progress: OnProgress = lambda what, done, total: None,
) -> dict[str, Any]:
    """Find the best sub-network of a supernet directory within a budget, and write what was found.

    setting: where it will run, one thread of ONNX Runtime on the CPU by default. recipe: whose rows are looked at, the
    supernet's own `recipe.yaml` by default. output: the directory of `best.json` (for `grid.read_subnet` and `export
    --spec`) and `search.json`, by default `search` beside the supernet. What was measured and evaluated is kept beside
    it, so that a search that was killed goes on where it was.

    Returns the content of `search.json`: "choice", "grid" (the best of the same share everywhere, or None) and "full",
    each with "subnet", "heads", "neurons", "layers", "parameters", "flops", "size_mb", "latency_ms" (as measured),
    "metric" (on rows of its own) and "validation" (metrics by name, where the recipe has such rows); "front", a list of
    such; "searched", the best where layers differ, if it was better than the grid's, with its "lead" before that on the
    rows of the choice, the standard error of the lead ("lead_error", None on few rows) and whether it is "clear", so
    that this is the choice; and "metric", "rows", "latency_model", "budget", "setting", "effort", "machine",
    "versions", "output" (the directory). Raises `UserError` where nothing fits the budget.
    """
    directory, setting, effort = Path(directory), setting or Setting(), effort or Effort()
    output = Path(output) if output else directory.resolve().parent / "search"
    config = check_supernet(directory)
    if only_of(config):
        raise UserError(f"{directory} is good for one sub-network, which was polished; search what that came from")
    check_device(setting)
    recipe = recipe or load_recipe(directory / "recipe.yaml")
    with occupied_output(output):
        refuse_existing(output, SEARCH, overwrite, {"supernet": directory})
        found = _Search(directory, budget, setting, effort, recipe, on_progress).run(output)
        with new_directory(output, SEARCH, overwrite) as temporary:
            write_json(temporary / "best.json", found["choice"]["subnet"])
            write_json(temporary / "search.json", found)
    return found | {"output": str(output)}


class _Search:
    """One search; its parts are made when they are first needed, in the order of `run`."""

    def __init__(
        self,
        directory: Path,
        budget: Budget,
        setting: Setting,
        effort: Effort,
        recipe: Recipe,
        on_progress: OnProgress,
    ) -> None:
        self.directory, self.budget, self.setting, self.effort = directory, budget, setting, effort
        self.recipe, self.on_progress = recipe, on_progress
        self.supernet, self.tokenizer = load_supernet(directory)
        self.length = setting.length or recipe.data.max_length
        if self.length > (most := max_positions(self.supernet.model.config)):
            raise UserError(f"--length {self.length} is beyond the {most} tokens that {directory} takes")
        sizes = dict.fromkeys(own.hidden for own in self.supernet.subnets.values())
        self.space = Space(self.supernet.geometry, tuple(sizes))
        self.flops = FlopCounter(self.supernet)
        self.fits: dict[int, Fit] = {}  # by the hidden size
        self.files: dict[str, Lines] = {}

    def run(self, output: Path) -> dict[str, Any]:
        """The content of search.json."""
        costs = self._counted()
        refuse_impossible(self.budget, costs, self.space)
        held_out = hold_out(
            self.directory, self.recipe, self.supernet, self.tokenizer, self.effort.rows, self.effort.seed
        )
        self.kept = kept_directory(output)
        costs |= self._measured()
        refuse_impossible(self.budget, costs, self.space)
        bounds = self._bounds()
        axis = "latency_ms" if "latency_ms" in costs else next(iter(bounds))
        self.supernet.to(this_device())
        fitter = Fitter(self.space, costs, bounds)
        asked = self._optimised(held_out, fitter, costs[axis])
        chooser = Chooser(
            self.budget,
            axis,
            costs,
            self.judge.known,
            Metric(self.supernet, held_out, self.tokenizer),
            self._timed,
            on_progress=self.on_progress,
        )
        chosen = chooser.choose(asked, [own for own in self._even() if own in set(asked)], self.supernet.whole)
        reported = validated(self.supernet, held_out, self.tokenizer, chosen.reported)
        told = {name: self._told(own, reported) for name, own in chosen.named().items()}
        if told["searched"] and chosen.lead:
            told["searched"] |= chosen.lead.to_dict()
        return {
            **told,
            "front": [self._told(own, reported) for own in chosen.front],
            "axis": axis,
            "metric": {"name": chooser.metric.name, "lower_is_better": chooser.metric.lower_is_better},
            "evaluated": len(asked),
            "rows": held_out.to_dict(),
            "latency_model": self._fits_told(),
            "budget": self.budget.to_dict(),
            "setting": self.setting.to_dict() | {"length": self.length},
            "effort": asdict(self.effort),
            "supernet": {"name": self.directory.resolve().name, "sha256": self.sha256},
            "machine": machine_name(),
            "versions": self._versions(),
        }

    # ------------------------------------------------------------------------------------------------------- costs

    def _counted(self) -> dict[str, Cost]:
        """The costs that are counted."""
        geometry, sizes = self.supernet.geometry, self.space.hidden_sizes

        def counted(count: Callable[[Subnet], int]) -> dict[int, Additive]:
            return {hidden: Additive.of(count, geometry, hidden) for hidden in sizes}

        self.parameters = counted(lambda subnet: count_parameters(self.supernet, subnet))
        flops = counted(lambda subnet: self.flops.count(subnet, self.length))
        return {"parameters": ByHidden(self.parameters), "flops": ByHidden(flops)}

    def _measured(self) -> dict[str, Cost]:
        """The costs that follow from sub-networks that are written and measured, those that the budget is about;
        latency where it names none. Each hidden size has laws of its own."""
        bounds, timed = self.budget.bounds, "latency_ms" in self.budget.bounds or not self.budget.bounds
        costs: dict[str, Cost] = {}
        self.usual_ms: tuple[float, ...] | None = None
        if timed:
            found = self._samples("sampled", self.effort.samples, self.workshop.time)
            self.usual_ms = usual_references_ms([own for some in found.values() for own in some])
            self.fits = {hidden: self._fitted(hidden, some) for hidden, some in found.items()}
            costs["latency_ms"] = ByHidden({hidden: own.model for hidden, own in self.fits.items()})
        if "size_mb" in bounds:
            found = found if timed else self._samples("weighed", ENOUGH, self.workshop.weigh)
            costs["size_mb"] = ByHidden({hidden: size_model(some) for hidden, some in found.items()})
        return costs

    def _fitted(self, hidden: int, found: Sequence[Measured]) -> Fit:
        latencies_ms = [steady_ms(own, self.usual_ms) for own in found]
        weights = self.parameters[hidden].weights
        return fit([own.subnet for own in found], latencies_ms, max(1, len(found) // UNSEEN), weights)

    def _fits_told(self) -> dict[str, Any] | None:
        """The latency model of the full hidden size, and below "smaller" those of the others."""
        told = {hidden: own.to_dict() for hidden, own in self.fits.items()}
        if not told:
            return None
        whole = told.pop(self.supernet.geometry.hidden)
        return {**whole, **({"smaller": {str(hidden): own for hidden, own in told.items()}} if told else {})}

    def _samples(
        self, name: str, count: int, measure: Callable[[Sequence[Subnet]], Iterator[list[Measured]]]
    ) -> dict[int, list[Measured]]:
        """By hidden size `count` sub-networks of all sizes, measured now or earlier; the smallest first."""
        wanted: dict[int, list[Subnet]] = {}
        for hidden in self.space.hidden_sizes:
            own, whole = self.space.at(hidden), replace(self.supernet.whole, hidden=hidden)
            wanted[hidden] = list(dict.fromkeys([own.smallest, whole, *own.sample(count, seed=0)]))[:count]
        every = [subnet for some in wanted.values() for subnet in some]
        found = {own.subnet: own for own in self._known(name, every, measure, "measuring sizes")}
        return {hidden: [found[subnet] for subnet in some] for hidden, some in wanted.items()}

    def _known(
        self,
        name: str,
        wanted: Sequence[Subnet],
        measure: Callable[[Sequence[Subnet]], Iterator[list[Measured]]],
        what: str,
    ) -> list[Measured]:
        """What was measured of these, those that are not in the file now."""
        lines = self._lines(name)
        known = {own.subnet: own for own in read_measured(lines)}
        missing = [subnet for subnet in wanted if subnet not in known]
        if missing:
            self.on_progress(what, len(wanted) - len(missing), len(wanted))
        for some in measure(missing):
            add_measured(lines, some)
            known |= {own.subnet: own for own in some}
            self.on_progress(what, sum(subnet in known for subnet in wanted), len(wanted))
        return [known[subnet] for subnet in wanted]

    def _lines(self, name: str) -> Lines:
        """The file of measurements of this setting."""
        if name not in self.files:
            self.files[name] = Lines(self.kept, name, self._depends_on(), anew=self.effort.remeasure)
        return self.files[name]

    def _timed(self, subnets: Sequence[Subnet]) -> list[tuple[float, float, float]]:
        """(ms, MB, ms of the full network) of each, from files that are really exported."""
        found = self._known("timed", subnets, self.workshop.time, "exporting and timing the best")
        usual_ms = self.usual_ms or usual_references_ms(found)
        return [(steady_ms(own, usual_ms), own.size_bytes / 1e6, usual_ms[0] if usual_ms else 0.0) for own in found]

    @cached_property
    def workshop(self) -> Workshop:
        return Workshop(load_supernet(self.directory)[0], self.tokenizer, self.setting, self.length)

    def _depends_on(self) -> dict[str, Any]:
        """What a measurement of a sub-network depends on: not what its weights hold."""
        config = self.supernet.model.config
        geometry = asdict(self.supernet.geometry)
        return {
            "machine": machine_name(),
            "setting": self.setting.to_dict() | {"length": self.length},
            "references": PARTS,
            "model": {"type": config.model_type, "class": type(self.supernet.model).__name__, **geometry},
            "sizes": {"words": config.vocab_size, "labels": config.num_labels},
            "versions": self._versions(),
        }

    def _versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("dynackd", "torch", "transformers", "onnxruntime", "pymoo")}

    # --------------------------------------------------------------------------------------------------- the search

    def _bounds(self) -> dict[str, float]:
        """What candidates may cost by the models: of latency a little less than the budget, since a model that is off
        by some percent would let half of the best exceed it."""
        bounds = dict(self.budget.bounds)
        if self.fits and "latency_ms" in bounds:
            bounds["latency_ms"] *= 1 - min(MOST_MARGIN, max(own.median_error for own in self.fits.values()))
        return bounds

    @cached_property
    def sha256(self) -> str | None:
        return weights_sha256(str(self.directory))

    def _even(self) -> list[Subnet]:
        """The sizes of the same share everywhere, those that were trained first."""
        return list(dict.fromkeys([*self.supernet.subnets.values(), *self.space.even(self.supernet.grid)]))

    def _optimised(self, held_out: HeldOut, fitter: Fitter, axis: Cost) -> list[Subnet]:
        """The sub-networks that were looked at; their losses are in `self.judge`."""
        kind, total = held_out.task.kind, self.effort.evaluations
        batches = whole_batches(held_out.search, kind, self.tokenizer)
        depends_on = {
            "supernet": self.sha256,
            "places": held_out.places["search"].tolist(),
            "inputs": [sum(int(batch["input_ids"].sum()) for batch in batches), len(held_out.search)],
            "device": this_device().type,
        }
        if min(self.supernet.grid.hidden) < 1:
            depends_on["loss"] = "of any size"
        self.judge = Judge(self.supernet, kind, batches, Lines(self.kept, "evaluated", depends_on))
        done: set[Subnet] = set()

        def losses(subnets: Sequence[Subnet]) -> list[float]:
            found = []
            for subnet in subnets:
                found += self.judge.losses([subnet])
                done.add(subnet)
                self.on_progress("evaluating sub-networks", min(len(done), total), total)
            return found

        return optimise(self.space, self._start(fitter, axis), losses, axis, fitter, total, self.effort.seed)

    def _start(self, fitter: Fitter, axis: Cost) -> list[Subnet]:
        """The trained sizes, and of each depth the widest of the same share everywhere that fits, where a budget says
        what fits; else the even sizes at equal distances."""
        trained = [subnet for subnet in self.supernet.subnets.values() if fitter.fits(subnet)]
        even = [subnet for subnet in self.space.even(self.supernet.grid) if fitter.fits(subnet)]
        if self.budget.bounds:
            # Of a depth and a hidden size the last is the widest.
            widest = {(subnet.indices, subnet.hidden): subnet for subnet in even}
            return list(dict.fromkeys([*widest.values(), *trained]))
        even.sort(key=axis)
        return list(dict.fromkeys([*trained, *even[:: max(1, len(even) // 12)], even[-1]]))

    def _told(self, own: Candidate | None, reported: dict[Subnet, dict[str, float]]) -> dict[str, Any] | None:
        """What search.json says of a sub-network."""
        if own is None:
            return None
        (heads, neurons), geometry = own.subnet.sizes, self.supernet.geometry
        named = self.supernet.trained(own.subnet)
        return {
            "subnet": own.subnet.to_dict(),
            "heads": heads,
            "neurons": neurons,
            "layers": list(own.subnet.indices),
            "width": own.subnet.width(geometry),
            "depth": len(own.subnet.layers) / geometry.layers,
            "hidden": own.subnet.hidden / geometry.hidden,
            "trained": named is not None,
            "parameters": count_parameters(self.supernet, own.subnet),
            "flops": self.flops.count(own.subnet, self.length),
            "size_mb": round(own.size_mb, 3),
            "latency_ms": round(own.latency_ms, 4),
            "modelled_ms": round(self.fits[own.subnet.hidden].model(own.subnet), 4) if self.fits else None,
            "loss": own.loss,
            "metric": own.metric,
            "validation": reported.get(own.subnet, {}),
        }
