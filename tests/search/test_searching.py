"""A whole search on a tiny supernet, on a machine whose latencies are known."""

import dataclasses
import json
import types

import pytest
from search_world import install_machine, law_ms, made_supernet

from dynackd.cli.command_line import main
from dynackd.errors import UserError
from dynackd.grid import read_subnet
from dynackd.search import searching, timing
from dynackd.search.choosing import Chooser
from dynackd.search.keeping import Lines
from dynackd.search.quality import Judge, Lead, Metric
from dynackd.search.searching import search
from dynackd.search.settings import Budget, Effort, Setting
from dynackd.search.space import Space
from dynackd.search.timing import Workshop
from dynackd.students.loading import load_student
from dynackd.subnet import Layer, Subnet
from dynackd.supernet.cost import count_parameters
from dynackd.supernet.network import load_supernet

EFFORT = Effort(evaluations=40, rows=16, samples=12)
FAST = Budget(max_latency_ms=1.2)


@pytest.fixture(scope="module")
def supernet_directory(tmp_path_factory):
    return made_supernet(tmp_path_factory.mktemp("supernet"), train_rows=100)


@pytest.fixture
def machine(monkeypatch):
    return install_machine(monkeypatch)


def found_in(output):
    return json.loads((output / "search.json").read_text())


def choices(found):
    """What must be the same again."""
    return {key: found[key] for key in ("choice", "grid", "front", "evaluated", "latency_model", "rows")}


def test_the_choice_meets_every_bound_and_can_be_exported(supernet_directory, machine, tmp_path):
    supernet, _ = load_supernet(supernet_directory)
    geometry = supernet.geometry
    bound = count_parameters(supernet, supernet.whole) * 0.8
    budget = Budget(max_latency_ms=1.2, max_params=bound, max_flops=1e6, min_metric=0.01)
    found = search(supernet_directory, budget, Setting(length=9), EFFORT, output=tmp_path / "s")
    assert found.pop("output") == str(tmp_path / "s")
    assert found == found_in(tmp_path / "s")
    chosen = read_subnet(tmp_path / "s" / "best.json", geometry)
    assert chosen == Subnet.from_dict(found["choice"]["subnet"])
    assert law_ms(chosen) <= 1.2
    for name in ("choice", "grid"):
        own = Subnet.from_dict(found[name]["subnet"])
        assert found[name]["latency_ms"] == pytest.approx(law_ms(own), rel=1e-3)
        assert found[name]["latency_ms"] <= 1.2
        assert found[name]["parameters"] == count_parameters(supernet, own) <= bound
        assert found[name]["flops"] <= 1e6
        assert found[name]["metric"] >= 0.01
        assert "accuracy" in found[name]["validation"]
    assert found["choice"]["metric"] >= found["grid"]["metric"]
    assert isinstance(found["grid"]["heads"], int)  # the same in all layers
    assert found["latency_model"]["worst_error"] < 0.01
    assert [row["modelled_ms"] for row in found["front"]] == sorted(row["modelled_ms"] for row in found["front"])
    assert found["choice"] in found["front"]
    assert max(row["latency_ms"] for row in found["front"]) <= 1.2


def test_a_budget_that_only_a_smaller_hidden_size_meets_is_met_and_told(machine, tmp_path, capsys):
    """Of this machine one layer of the full hidden size takes .4 ms at least, one of half of it .375."""
    place = made_supernet(tmp_path, train_rows=100, hidden=(1.0, 0.5))
    effort = ["--evaluations", "40", "--rows", "16", "--samples", "12", "--length", "9"]
    assert main(["search", str(place), "--max-latency-ms", "0.39", *effort, "--output", str(tmp_path / "s")]) == 0
    found, supernet = found_in(tmp_path / "s"), load_supernet(place)[0]
    chosen = read_subnet(tmp_path / "s" / "best.json", supernet.geometry)
    assert chosen.hidden == supernet.geometry.hidden // 2
    assert law_ms(chosen) <= 0.39
    assert found["choice"]["hidden"] == 0.5
    assert found["choice"]["parameters"] == count_parameters(supernet, chosen)
    models = found["latency_model"]
    assert [own["worst_error"] < 0.01 for own in (models, *models["smaller"].values())] == [True, True]
    told = capsys.readouterr().out
    assert f"at hidden size {chosen.hidden}: off by" in " ".join(told.split())
    assert f"3 {chosen.hidden}" in " ".join(told.split())  # the table: the last of four layers, and the hidden size
    student = ["--spec", str(tmp_path / "s" / "best.json"), "--output", str(tmp_path / "st")]
    assert main(["export", str(place), *student]) == 0
    assert load_student(tmp_path / "st")[0].config.hidden_size == chosen.hidden


def test_an_encoder_whose_texts_have_no_labels_is_searched_over_its_hidden_sizes(machine, tmp_path):
    """A smaller hidden size has no angle to the full network's states: what all have is compared, in the distances and
    in the choice."""
    place = made_supernet(tmp_path, train_rows=100, hidden=(1.0, 0.5), plain=True)
    effort = ["--evaluations", "40", "--rows", "16", "--samples", "12", "--length", "9"]
    assert main(["search", str(place), "--max-latency-ms", "2", *effort, "--output", str(tmp_path / "s")]) == 0
    found = found_in(tmp_path / "s")
    assert found["metric"]["name"] == "relations"
    smaller = [row for row in found["front"] if row["hidden"] == 0.5]
    assert smaller
    assert all(0.05 < row["loss"] < 2 for row in smaller), "1 - a correlation, and of an untrained size not near 0"


def test_the_same_seed_gives_the_same_and_measures_nothing_again(supernet_directory, machine, tmp_path):
    setting = Setting(length=9)
    first = search(supernet_directory, FAST, setting, EFFORT, output=tmp_path / "s")
    measured = len(machine)
    second = search(supernet_directory, FAST, setting, EFFORT, output=tmp_path / "s", overwrite=True)
    assert choices(first) == choices(second)
    assert len(machine) == measured
    machine.clear()  # whose groups are slow and fast in turn from here
    search(supernet_directory, FAST, setting, dataclasses.replace(EFFORT, remeasure=True), output=tmp_path / "s",
           overwrite=True)  # fmt: skip
    assert len(machine) == measured
    search(supernet_directory, FAST, dataclasses.replace(setting, threads=2), EFFORT, output=tmp_path / "t")
    assert len(machine) > measured


@pytest.mark.parametrize("stopped_at", ["measuring sizes", "evaluating sub-networks", "judging the best"])
def test_a_search_that_was_killed_goes_on_and_ends_alike(
    supernet_directory, machine, tmp_path, stopped_at, monkeypatch
):
    straight = search(supernet_directory, FAST, Setting(length=9), EFFORT, output=tmp_path / "straight")

    def stop(what, done, total):
        if what == stopped_at and done >= total // 2:
            raise KeyboardInterrupt

    machine.clear()  # whose groups are slow and fast in turn from here
    with pytest.raises(KeyboardInterrupt):
        search(supernet_directory, FAST, Setting(length=9), EFFORT, output=tmp_path / "s", on_progress=stop)
    assert not (tmp_path / "s").exists()
    kept = list((tmp_path / "s-kept").glob("evaluated-*"))
    for file in kept:
        file.write_bytes(file.read_bytes()[:-9])  # as a kill in the middle of a line
    evaluated = []
    loss = Judge._loss
    monkeypatch.setattr(Judge, "_loss", lambda self, subnet: evaluated.append(subnet) or loss(self, subnet))
    again = search(supernet_directory, FAST, Setting(length=9), EFFORT, output=tmp_path / "s")
    assert {**choices(again), "latency_model": None} == {**choices(straight), "latency_model": None}
    assert len(evaluated) <= (len(again["front"]) + again["evaluated"] if not kept else again["evaluated"] // 2 + 3)


def test_a_choice_that_is_slower_than_the_model_thinks_gives_way(supernet_directory, machine, tmp_path, monkeypatch):
    """Every export of the best takes 1.3 times as long as the sizes promised."""
    right = searching._Search._timed
    slower = lambda self, subnets: [(1.3 * ms, mb, full) for ms, mb, full in right(self, subnets)]  # noqa: E731
    monkeypatch.setattr(searching._Search, "_timed", slower)
    found = search(supernet_directory, FAST, Setting(length=9), EFFORT, output=tmp_path / "s")
    assert max(row["latency_ms"] for row in found["front"]) <= 1.2
    assert 1.3 * law_ms(Subnet.from_dict(found["choice"]["subnet"])) <= 1.2


def test_the_least_metric_alone_gives_the_fastest_that_has_it(supernet_directory, machine, tmp_path):
    easy = search(supernet_directory, Budget(min_metric=0.01), Setting(length=9), EFFORT, output=tmp_path / "easy")
    assert easy["axis"] == "latency_ms"
    assert easy["choice"]["latency_ms"] == min(row["latency_ms"] for row in easy["front"])
    full = easy["full"]["metric"]
    hard = search(supernet_directory, Budget(min_metric=full), Setting(length=9), EFFORT, output=tmp_path / "hard")
    assert hard["choice"]["metric"] >= full
    assert hard["choice"]["latency_ms"] <= hard["full"]["latency_ms"]


def test_a_share_of_the_full_networks_metric_is_kept_on_the_same_rows(
    supernet_directory, machine, tmp_path, monkeypatch
):
    """The metric of a sub-network is the share of heads that it has."""
    heads = lambda self, subnet: sum(own.heads for own in subnet.layers) / 8  # noqa: E731
    monkeypatch.setattr(Metric, "of", heads)
    setting = Setting(length=9)
    found = search(supernet_directory, Budget(keep=0.5), setting, EFFORT, output=tmp_path / "s")
    full, choice = found["full"]["metric"], found["choice"]
    assert full >= choice["metric"] >= 0.5 * full
    cheaper = [row for row in found["front"] if row["latency_ms"] < choice["latency_ms"]]
    assert cheaper
    assert all(row["metric"] < 0.5 * full for row in cheaper)
    with pytest.raises(UserError, match=r"within the budget keeps 99% of the full network's accuracy \("):
        search(supernet_directory, Budget(0.7, keep=0.99), setting, EFFORT, output=tmp_path / "t")


@pytest.mark.parametrize(("lower", "of_whole", "least"), [(False, 0.8, 0.4), (True, 0.8, 1.6), (False, -0.1, -0.1)])
def test_of_a_metric_where_less_is_better_the_share_is_turned_round(lower, of_whole, least):
    metric = types.SimpleNamespace(lower_is_better=lower)
    chooser = Chooser(Budget(keep=0.5), "latency_ms", {}, {}, metric, timed=lambda subnets: [])
    assert chooser._least_metric(of_whole) == pytest.approx(least)


class KnownMetric:
    """A metric whose value is a function of a sub-network."""

    name, lower_is_better = "accuracy", False

    def __init__(self, of):
        self.of = of

    def reaches(self, value, least):
        return least is None or value >= least

    def rank(self, value):
        return -value

    def lead(self, own, other):
        return Lead(self.of(own) - self.of(other), 0.001)


def layer_of(heads, neurons):
    return Subnet((Layer(0, heads, neurons),), 8)


def cost_of(subnet):
    return float(subnet.layers[0].neurons)


def chooser_of(budget, losses, of, measured=cost_of):
    costs = dict.fromkeys(("latency_ms", "parameters", "flops"), cost_of)
    def timed(some):
        return [(measured(own), 1.0, 200.0) for own in some]

    return Chooser(budget, "latency_ms", costs, losses, KnownMetric(of), timed)


@pytest.mark.parametrize("enough", [2, 13, 20, 66, 100])
def test_the_fastest_that_keeps_the_metric_is_the_fastest_there_is(enough):
    """Not only the fastest of the few that were judged first: between each two of these on the front lie ten others."""
    asked = [layer_of(1, count + 1) for count in range(100)]
    losses = {own: 1 / cost_of(own) for own in asked}
    chooser = chooser_of(Budget(keep=0.97), losses, lambda own: 1.0 if cost_of(own) >= enough else 0.5)
    found = chooser.choose(asked, [], layer_of(2, 999))
    assert found.choice.latency_ms == enough
    assert min(own.latency_ms for own in found.front if own.metric == 1.0) == enough


def test_what_was_judged_beside_the_best_by_loss_may_be_chosen():
    asked = [layer_of(1, count + 1) for count in range(40)]
    losses = {own: 1 / cost_of(own) for own in asked}
    chooser = chooser_of(Budget(max_latency_ms=97), losses, lambda own: 0.95 if 25 <= cost_of(own) <= 33 else 0.9)
    found = chooser.choose(asked, [], layer_of(2, 99))
    assert found.choice.metric == max(own.metric for own in chooser.known.values()) == 0.95


def test_one_of_the_same_share_everywhere_is_looked_for_until_one_fits():
    """Those nearest by loss were measured slower than expected; uneven ones that fit are no reason to stop there."""
    uneven = [layer_of(1, 50 - place) for place in range(10)]  # cheaper and nearer by loss: no even one is on the front
    even = [*(layer_of(2, 95 - place) for place in range(3)), layer_of(2, 70), layer_of(2, 60)]
    losses = {own: 0.01 + 0.001 * place for place, own in enumerate(uneven)}
    losses |= {own: 0.05 + 0.001 * place for place, own in enumerate(even)}
    chooser = chooser_of(Budget(max_latency_ms=97), losses, lambda own: 0.9 if own in even else 0.8,
                         lambda own: cost_of(own) * (1.06 if own in even[:3] else 1.0))  # fmt: skip
    found = chooser.choose([*uneven, *even], even, layer_of(9, 200))
    assert found.choice.subnet == found.grid.subnet == even[3]


def metric_on(values, lower=False):
    """A metric whose value on each of the blocks is known, by sub-network."""
    metric = object.__new__(Metric)
    metric.lower_is_better = lower
    count = len(next(iter(values.values())))
    metric._held_out = types.SimpleNamespace(blocks=[(block, None) for block in range(count)])
    metric._on = lambda subnet, block, task: values[subnet][block]
    return metric


@pytest.mark.parametrize(
    ("own", "mean", "error", "clear"),
    [
        ([0.5, 0.7, 0.6, 0.6], 0.1, 0.0408, True),  # leads of 0, .2, .1, .1: their standard deviation is .0816
        ([0.5, 0.5, 0.5, 0.6], 0.025, 0.025, False),
        ([0.6, 0.6, float("nan"), 0.6], 0.1, 0.0, True),
        ([0.9, float("nan"), float("nan"), float("nan")], 0.0, float("inf"), False),
    ],
)
def test_a_lead_is_a_mean_over_blocks_with_its_standard_error(own, mean, error, clear):
    lead = metric_on({"own": own, "other": [0.5] * 4}).lead("own", "other")
    assert (lead.mean, lead.error) == pytest.approx((mean, error), abs=1e-4)
    assert lead.clear is clear
    turned = metric_on({"own": own, "other": [0.5] * 4}, lower=True).lead("other", "own")
    assert turned == lead


def test_on_few_rows_no_lead_is_clear():
    metric = metric_on({"own": [], "other": []})
    assert metric.lead("own", "other").to_dict() == {"lead": 0.0, "lead_error": None, "clear": False}


@pytest.mark.parametrize(("error", "clear"), [(0.01, True), (0.2, False)])
def test_uneven_layers_are_chosen_where_their_lead_is_clear(
    supernet_directory, machine, tmp_path, monkeypatch, error, clear, capsys
):
    monkeypatch.setattr(Metric, "of", lambda self, subnet: 0.8 + 0.1 * uneven_of(subnet))
    monkeypatch.setattr(Metric, "lead", lambda self, own, other: Lead(0.1, error))
    line = ["search", str(supernet_directory), "--max-latency-ms", "1.2", "--length", "9", "--evaluations", "40",
            "--rows", "16", "--samples", "12", "--output", str(tmp_path / "s")]  # fmt: skip
    assert main(line) == 0
    found, told = found_in(tmp_path / "s"), " ".join(capsys.readouterr().out.split())
    assert found["searched"]["clear"] is clear
    assert (found["searched"]["lead"], found["searched"]["lead_error"]) == (0.1, error)
    assert found["choice"]["subnet"] == (found["searched"] if clear else found["grid"])["subnet"]
    assert found["choice"] == found["grid"] or clear
    assert ("is ahead by 0.1000 ± 0.2000, which is not clear" in told) is not clear
    assert read_subnet(tmp_path / "s" / "best.json", load_supernet(supernet_directory)[0].geometry) == Subnet.from_dict(
        found["choice"]["subnet"]
    )


def uneven_of(subnet):
    """Whether its layers have different sizes."""
    return any(isinstance(own, list) for own in subnet.sizes)


def test_sizes_are_those_of_files_and_follow_from_a_few(supernet_directory, monkeypatch, tmp_path):
    """Without a latency in the budget only the best are timed."""
    machine = install_machine(monkeypatch, weighed=True)
    budget = Budget(max_size_mb=0.11)
    effort = dataclasses.replace(EFFORT, evaluations=24)
    found = search(supernet_directory, budget, Setting(length=9), effort, output=tmp_path / "s")
    assert found["axis"] == "size_mb"
    assert found["latency_model"] is None
    assert 0.06 < found["choice"]["size_mb"] <= 0.11 < found["full"]["size_mb"]
    assert sum(map(len, machine)) <= 16
    assert main(["export", str(supernet_directory), "--spec", str(tmp_path / "s" / "best.json"), "--output",
                 str(tmp_path / "student")]) == 0  # fmt: skip
    size = (tmp_path / "student" / "onnx" / "model.onnx").stat().st_size
    assert size == pytest.approx(found["choice"]["size_mb"] * 1e6, abs=501)


def test_the_command_tells_what_it_found_and_the_next_command(supernet_directory, machine, tmp_path, capsys):
    line = ["search", str(supernet_directory), "--max-latency-ms", "1.2", "--max-params", "1M", "--length", "9",
            "--evaluations", "24", "--rows", "16", "--samples", "12", "--int8", "--output", str(tmp_path / "s"),
            "--json", str(tmp_path / "found.json")]  # fmt: skip
    assert main(line) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert f"next: dynackd export {supernet_directory} --spec {tmp_path}/s/best.json --int8" in told
    assert "training rows that the supernet has not seen" in told
    assert "sub-networks that it was not fitted to" in told
    assert "best:" in told
    assert json.loads((tmp_path / "found.json").read_text())["choice"] == found_in(tmp_path / "s")["choice"]
    assert main(line[:-2]) == 2
    assert "already holds a finished result; add --overwrite" in capsys.readouterr().err


def test_what_no_sub_network_meets_says_how_close_the_closest_comes(supernet_directory, machine, tmp_path):
    setting = Setting(length=9)
    with pytest.raises(UserError, match=r"--max-latency-ms 0.1 is less than the smallest sub-network has: .* 0.40 ms"):
        search(supernet_directory, Budget(max_latency_ms=0.1), setting, EFFORT, output=tmp_path / "s")
    with pytest.raises(UserError, match=r"no sub-network within the budget reaches --min-metric 2: the best of .* has"):
        search(supernet_directory, dataclasses.replace(FAST, min_metric=2.0), setting, EFFORT, output=tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_foreign_directory_in_the_place_of_what_is_kept_stays(supernet_directory, tmp_path):
    (tmp_path / "s-kept").mkdir()
    (tmp_path / "s-kept" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds what no search wrote, and stays"):
        search(supernet_directory, FAST, Setting(length=9), EFFORT, output=tmp_path / "s")
    assert [file.name for file in (tmp_path / "s-kept").iterdir()] == ["mine.txt"]


def test_kept_lines_of_something_else_are_never_taken(tmp_path):
    one, other = (Lines(tmp_path, "evaluated", {"supernet": name}) for name in ("a", "b"))
    one.add({"loss": 1.0})
    assert other.read() == []
    assert Lines(tmp_path, "evaluated", {"supernet": "a"}).read() == [{"loss": 1.0}]


def test_what_is_timed_runs_and_is_weighed(supernet_directory, monkeypatch):
    supernet, tokenizer = load_supernet(supernet_directory)
    workshop = Workshop(supernet, tokenizer, Setting(int8=True), 9)
    workshop._full_ms = timing.RUNS_MS  # so that few runs will do
    smallest = Space(supernet.geometry).smallest
    ((found,),) = workshop.time([smallest])
    assert found.subnet == smallest
    assert 0 < found.latency_ms < 1000
    assert len(found.references_ms) == 4
    assert all(0 < own < 1000 for own in found.references_ms)
    assert found.size_bytes < next(workshop.weigh([supernet.whole]))[0].size_bytes


def test_for_torch_a_directory_is_written_that_loads(supernet_directory, tmp_path):
    supernet, tokenizer = load_supernet(supernet_directory)
    smallest = Space(supernet.geometry).smallest
    path, size = Workshop(supernet, tokenizer, Setting(runtime="torch"), 9).export(smallest, tmp_path)
    model, _ = load_student(path)
    assert sum(parameter.numel() for parameter in model.parameters()) == count_parameters(supernet, smallest)
    assert size == (path / "model.safetensors").stat().st_size
