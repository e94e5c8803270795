"""A tiny supernet for the search's tests, and machines whose latencies are known."""

from conftest import tiny_config, tiny_model, tiny_recipe, tiny_tokenizer, write_recipe, write_rows

from dynackd.data.origins import rows_record
from dynackd.grid import Grid
from dynackd.search.timing import Measured, Workshop
from dynackd.supernet.network import Supernet
from dynackd.system.places import write_json
from dynackd.tasks.loading import load_task_data
from dynackd.training.recipe import make_recipe


def made_supernet(directory, rows=400, hidden=(1.0,), plain=False, **data):
    """A supernet directory with its recipe over `rows` training rows, and a record of those that it was trained on.
    plain: of an encoder without a head, whose texts have no labels."""
    content = tiny_recipe(directory)
    if plain:
        content["task"] = {"kind": "plain", "text": "sentence"}
    write_rows(directory / "train.tsv", rows, 1)
    content["data"] |= data
    recipe = make_recipe(content)
    place = directory / "run" / "depth"
    model, grid = tiny_model().bert if plain else tiny_model(), Grid((1.0, 0.5), (1.0, 0.5), hidden=hidden)
    order = range(model.config.hidden_size) if len(hidden) > 1 else None
    Supernet(model, grid, hidden_order=order).save(place, tiny_tokenizer())
    trained = load_task_data(recipe.task, recipe.data, ("train",)).train
    write_json(place / "origin.json", {"training": rows_record(trained)})
    write_recipe(place, content)
    return place


HIDDEN = tiny_config("bert").hidden_size
LUCK = (1.0, 1.3, 1.0, 1.0)  # of the references' processes: what their weights' place in memory costs


def law_ms(subnet):
    """What a sub-network takes on the machine of these tests: of half the hidden size half of what heads and neurons
    do."""
    share = subnet.hidden / HIDDEN
    return 0.2 + sum(0.1 + share * (0.05 * own.heads + 0.01 * own.neurons) for own in subnet.layers)


def install_machine(monkeypatch, weighed=False):
    """A machine on which every export takes as long as the law says, twice as long in every third group, where one of
    the references has luck of its own, and weighs what it really weighs if `weighed`; a list of what was exported, in
    groups."""
    groups = []

    def timed(self, subnets):
        for begin in range(0, len(subnets), 5):
            group = list(subnets[begin : begin + 5])
            groups.append(group)
            slow = 1 + (len(groups) % 3 == 1)
            references = [law_ms(own) for own in self.compared]
            references_ms = tuple(
                slow * usual * LUCK[(place - len(groups)) % 4] for place, usual in enumerate(references)
            )
            sizes = [some[0].size_bytes for some in self.weigh(group)] if weighed else [1000] * len(group)
            yield [
                Measured(own, size, slow * law_ms(own), references_ms) for own, size in zip(group, sizes, strict=True)
            ]

    monkeypatch.setattr(Workshop, "time", timed)
    return groups
