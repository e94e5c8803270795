"""What the page's charts are drawn from, as data that JSON can hold; `page/page.js` draws it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

import numpy as np

from dynackd.report.axes import Axis
from dynackd.report.judging import Judge, name_of_metric, number, part
from dynackd.report.reading import Facts, Results, Training

# Okabe and Ito's colours, which colour-blind people tell apart, and lighter ones of the same hues on a dark page.
LIGHT = ("#0072b2", "#d55e00", "#00855f", "#b0548c", "#8a6d00", "#3f8fc4", "#5f5f5f", "#7a4fb0")
DARK = ("#62b5ea", "#f28c50", "#3ccf9f", "#e6a0c9", "#e8bf4a", "#a5d5f5", "#b8b8b8", "#bfa3ea")
Data = dict[str, Any]
Values = dict[Any, float | None]  # (width, depth) -> value


def chart_data(results: Results, judge: Judge, axes: Sequence[Axis]) -> Data:
    """All charts, and the words on them."""
    return {
        "metric": name_of_metric(judge.metric),
        "teacher": judge.teacher,
        "axes": [{**asdict(axis), "logarithmic": axis.logarithmic} for axis in axes],
        "heat": heat_maps(results, judge),
        "losses": [curves(training) for training in results.trained],
        "importance": importance(results),
    }


# --- the grid --------------------------------------------------------------------------------------------------------


def heat_maps(results: Results, judge: Judge) -> Data | None:
    """The grid in all its looks: values and their texts by depth and width, from small to large, of the full hidden
    size and then of each smaller one."""
    if results.judged is None:
        return None
    evaluation = results.judged.evaluation
    rows = [row for row in evaluation["subnetworks"] if number(row.get("width")) and number(row.get("depth"))]
    by_hidden: dict[float, dict[Any, Facts]] = {}
    for row in reversed(rows):
        by_hidden.setdefault(row.get("hidden", 1.0), {})[row["width"], row["depth"]] = row
    every = [place for places in by_hidden.values() for place in places]
    widths, depths = (sorted({place[index] for place in every}) for index in (0, 1))
    lower = [name_of_metric(name) for name in judge.lower]
    small = (*lower, *(f"fidelity: {name}" for name in lower), "M parameters", "MFLOPs")
    return {
        "widths": [f"{width:g}" for width in widths],
        "depths": [f"{depth:g}" for depth in depths],
        "looks": [
            {
                "name": name + (f", hidden {hidden:g}" if hidden < 1 else ""),
                "values": [[values.get((width, depth)) for width in widths] for depth in depths],
                "texts": [[_text(values.get((width, depth)), form) for width in widths] for depth in depths],
                "less_is_better": name in small,
            }
            for hidden in sorted(by_hidden, reverse=True)
            for name, values, form in _looks(by_hidden[hidden], evaluation, judge)
            if any(value is not None for value in values.values())
        ],
    }


def _looks(places: Mapping[Any, Facts], evaluation: Facts, judge: Judge) -> list[tuple[str, Values, str]]:
    """(name, values, how they are written) of what is known of the sizes of one hidden size."""
    whole = part(evaluation, "teacher")
    looks = [(name_of_metric(name), _values(places, "metrics", name), "{:.4f}") for name in part(whole, "metrics")]
    if judge.teacher is not None:
        shares = {place: judge.share(judge.of(row)) for place, row in places.items()}
        looks.insert(1, (f"share of the teacher's {name_of_metric(judge.metric)}", shares, "{:.1%}"))
    first: Facts = next(iter(places.values()), {})
    for name in part(first, "fidelity"):
        looks.append((f"fidelity: {name_of_metric(name)}", _values(places, "fidelity", name), "{:.4f}"))
    for key, name in (("parameters", "M parameters"), ("flops", "MFLOPs")):
        costs: Values = {place: value / 1e6 for place, row in places.items() if (value := number(row.get(key)))}
        looks.append((name, costs, "{:,.1f}"))
    return looks


def _values(places: Mapping[Any, Facts], key: str, name: str) -> Values:
    return {place: number(part(row, key).get(name)) for place, row in places.items()}


def _text(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


# --- losses ----------------------------------------------------------------------------------------------------------


def curves(training: Training) -> Data:
    """A stage's loss and each of its terms by step. Not finite values are gaps."""
    every = dict.fromkeys(name for row in training.log for name in row)
    names = [name for name in every if name in ("loss", "eval_loss") or name.startswith("loss_")]
    terms = []
    for name in names:
        rows = [(row.get("step"), number(row.get(name))) for row in training.log if name in row]
        kept = [(step, value) for step, value in rows if isinstance(step, int)]
        told = name.removeprefix("loss_").replace("_", " ")
        terms.append({"name": told, "steps": [step for step, _ in kept], "values": [value for _, value in kept]})
    return {"stage": training.name, "finished": training.finished, "terms": terms}


# --- importance ------------------------------------------------------------------------------------------------------


def importance(results: Results) -> Data | None:
    """Heads as shares of their layer's total, before and after rewiring, what neurons add up to in either order, and
    how many of both each width keeps."""
    kept = next((own for own in results.trainings if own.importance), None)
    if kept is None:
        return None
    told, heads, neurons = kept.importance, kept.importance.get("heads"), kept.importance.get("neurons")
    if not isinstance(heads, Mapping) or not isinstance(neurons, Mapping):
        return None
    before = [[score / (sum(layer) or 1) for score in layer] for layer in heads["scores"]]
    after = [[layer[head] for head in order] for layer, order in zip(before, heads["order"], strict=True)]
    return {
        "score": told.get("score", ""),
        "rows": told.get("rows"),
        "before": before,
        "after": after,
        "order": heads["order"],
        "ranks": neurons["shares"],
        "neurons_before": neurons["before"],
        "neurons_after": neurons["after"],
        "cuts": _cuts(kept, before, after, neurons),
        "hidden_cuts": _hidden_cuts(results.trainings, told.get("hidden")),
        "leaving": _leaving(told.get("layers")),
    }


def _cuts(
    training: Training, before: Sequence[Sequence[float]], after: Sequence[Sequence[float]], neurons: Facts
) -> list[Data]:
    """For each trained width: how many heads it keeps, and in the mean over layers which share of the heads' and the
    neurons' importance, had their order stayed and as it is."""
    found: dict[float, Data] = {}
    for row in training.evaluation.get("subnetworks", []):
        if isinstance(row.get("heads"), int) and (width := number(row.get("width"))):
            place = row["heads"] / len(before[0])
            found[width] = {
                "width": width,
                "heads": row["heads"],
                "heads_before": fmean(sum(layer[: row["heads"]]) for layer in before),
                "heads_after": fmean(sum(layer[: row["heads"]]) for layer in after),
                "neurons": row.get("neurons"),
                **{f"neurons_{when}": fmean(_held(neurons, when, place)) for when in ("before", "after")},
            }
    return list(found.values())


def _hidden_cuts(trainings: Sequence[Training], hidden: Any) -> list[Data]:
    """For each hidden size that any stage trained: which share of the hidden dimensions' importance its first ones
    hold, had their order stayed and as it is."""
    if not isinstance(hidden, Mapping):
        return []
    scores, order = hidden["scores"], hidden["order"]
    total, found = sum(scores) or 1, dict[float, Data]()
    for row in (row for own in trainings for row in own.evaluation.get("subnetworks", [])):
        if isinstance(row.get("hidden_size"), int) and (share := number(row.get("hidden"))):
            kept = row["hidden_size"]
            before, after = sum(scores[:kept]), sum(scores[place] for place in order[:kept])
            found[share] = {"hidden": share, "dimensions": kept, "before": before / total, "after": after / total}
    return [found[share] for share in sorted(found, reverse=True)]


def _leaving(layers: Any) -> list[Data]:
    """The layers in the order in which they leave, but for the last, and the loss of what is left then; before them
    none, and the loss of all."""
    if not isinstance(layers, Mapping):
        return []
    losses = [layers["before"], *layers["losses"]]
    gone = [None, *layers["order"][:-1]]
    return [{"layer": layer, "loss": number(loss)} for layer, loss in zip(gone, losses, strict=True)]


def _held(neurons: Facts, when: str, place: float) -> list[float]:
    """Of each layer, which share of its importance that share of its first neurons holds."""
    return [float(np.interp(place, neurons["shares"], layer)) for layer in neurons[when]]
