"""Which heads, neurons and layers a multiplier keeps, and which grids are refused."""

import json

import pytest

from dynackd.errors import UserError
from dynackd.grid import (
    Grid,
    hidden_size,
    keep_dynabert_code,
    keep_ends,
    keep_last,
    multiplier,
    read_subnet,
    resolve,
)
from dynackd.subnet import FULL, Geometry, Layer, Subnet, SubnetSpec, describe

BERT_BASE = Geometry(layers=12, heads=12, head_size=64, neurons=3072, hidden=768)


@pytest.mark.parametrize(
    ("total", "depth", "kept"),
    [
        (6, 0.5, (1, 3, 5)),
        (6, 0.75, (0, 1, 2, 3, 5)),
        (12, 0.5, (1, 3, 5, 7, 9, 11)),
        (12, 0.75, (0, 1, 3, 4, 5, 7, 8, 9, 11)),
        (24, 0.5, tuple(range(1, 24, 2))),
        (24, 0.75, (0, 1, 3, 4, 5, 7, 8, 9, 11, 12, 13, 15, 16, 17, 19, 20, 21, 23)),
    ],
)
def test_the_default_rule_keeps_the_papers_layers_and_always_the_last(total, depth, kept):
    # 12 layers at 0.75, 1-based: 1 2 4 5 6 8 9 10 12, as the design states it.
    assert keep_last(len(kept), total) == kept
    assert resolve(SubnetSpec(1.0, depth), Geometry(total, 12, 64, 3072, 768)).indices == kept


@pytest.mark.parametrize(
    ("total", "kept", "expected"),
    [
        (6, 3, (0, 2, 4)),
        (12, 6, (0, 2, 4, 6, 8, 10)),
        (12, 9, (0, 1, 2, 4, 5, 6, 8, 9, 10)),
        (24, 12, tuple(range(0, 24, 2))),
    ],
)
def test_the_authors_codes_rule_loses_the_last_layer(total, kept, expected):
    assert keep_dynabert_code(kept, total) == expected


@pytest.mark.parametrize(
    ("total", "kept", "expected"),
    [
        (6, 3, (0, 3, 5)),
        (6, 4, (0, 2, 3, 5)),
        (12, 6, (0, 2, 4, 7, 9, 11)),
        (12, 2, (0, 11)),
        (12, 1, (11,)),
        (1, 1, (0,)),
    ],
)
def test_the_rule_of_the_ends_keeps_the_first_and_the_last_layer_and_halves_up_between(total, kept, expected):
    assert keep_ends(kept, total) == expected


@pytest.mark.parametrize("rule", [keep_last, keep_ends, keep_dynabert_code])
@pytest.mark.parametrize("total", [1, 6, 12, 24])
def test_a_rule_keeps_as_many_different_layers_in_order_as_asked(rule, total):
    for kept in range(1, total + 1):
        layers = rule(kept, total)
        assert len(set(layers)) == kept
        assert list(layers) == sorted(layers)
        assert 0 <= layers[0] <= layers[-1] < total


@pytest.mark.parametrize(
    ("width", "heads"), [(0.125, 2), (0.04, 1), (0.3, 4), (0.375, 5), (0.29, 3), (0.5, 6), (1.0, 12)]
)
def test_heads_round_half_up_and_are_never_none(width, heads):
    # Python's round(0.375 * 12) is banker's and gives 4; 0.04 gave DynaBERT's code 0 heads.
    subnet = resolve(SubnetSpec(width), BERT_BASE)
    assert subnet.sizes == (heads, 3072 * heads // 12)


@pytest.mark.parametrize(
    ("text", "heads", "layers"),
    [("2/3", 8, 4), ("1/3", 4, 2), ("11/24", 6, 3), ("0.666667", 8, 4), ("1", 12, 6), (" 1 / 2 ", 6, 3)],
)
def test_a_fraction_is_the_share_that_it_says(text, heads, layers):
    # 11/24 of 12 heads are 5.5, which round up; the float 0.4583333333333333 is a little less than 11/24.
    share = multiplier("width", text)
    subnet = resolve(SubnetSpec(share, share), Geometry(6, 12, 64, 3072, 768))
    assert (subnet.sizes[0], len(subnet.layers)) == (heads, layers)
    assert Grid([text, 1.0] if share < 1 else [text]).widths[-1] == share


@pytest.mark.parametrize("value", ["66%", "half", "1/0", "", "2/3/4", None, True, [0.5]])
def test_what_is_no_share_is_refused_with_one_that_is(value):
    with pytest.raises(UserError, match=r"^grid.widths .* is no number; write a share such as 0.66 or 2/3$"):
        Grid([1.0, value])


@pytest.mark.parametrize("value", [1.5, "3/2", 0, -0.5, float("nan"), float("inf"), "nan", 10**30])
def test_a_share_outside_0_1_is_refused(value):
    with pytest.raises(UserError, match=r"^grid.widths .* is outside \(0, 1\]$"):
        Grid([1.0, value])


def test_a_spec_is_trained_when_its_network_is_whatever_its_numbers():
    def trained(grid, *spec):
        return grid.trained(resolve(SubnetSpec(*spec), BERT_BASE), BERT_BASE)

    grid = Grid((1.0, 0.5), (1.0, 0.5))
    for spec in ((0.49, 0.5), (0.5000001, 0.49), (0.5, 0.54)):
        assert trained(grid, *spec) == SubnetSpec(0.5, 0.5)
    assert trained(grid, 0.99, 0.97) == FULL
    assert trained(grid, 0.45, 0.5) is None
    assert trained(Grid((1.0, 2 / 3)), 0.666667) == SubnetSpec(2 / 3)


def test_rounding_is_exact_in_decimals():
    # 0.29 * 50 is 14.499999999999998 in floats; 14.5 rounds up.
    assert resolve(SubnetSpec(0.29), Geometry(6, 50, 1, 100, 50)).sizes[0] == 15


@pytest.mark.parametrize("value", [0, -0.5, 1.5, float("nan"), True, "0.5", None])
@pytest.mark.parametrize("name", ["width", "depth", "hidden"])
def test_a_multiplier_outside_0_1_is_refused(name, value):
    with pytest.raises(UserError, match=rf"{name} .* is outside \(0, 1\]"):
        SubnetSpec(**{name: value})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": []}, "empty"),
        ({"widths": [1.0, 0.5, 0.5]}, "twice"),
        ({"depths": [0.5, 0.75]}, "lacks 1.0"),
        ({"depths": [1.0, 1.5]}, r"grid.depths 1.5 is outside"),
        ({"kept_layers": "first"}, "kept_layers: 'first' is unknown; known: last, ends, importance, dynabert-code"),
        ({"layer_order": [0, 2]}, r"layer_order \[0, 2\] is no order of layers, each of them once, counted from 0"),
        ({"layer_order": [1, 1, 0]}, r"grid.layer_order \[1, 1, 0\] is no order of layers"),
        ({"layer_order": "012"}, "grid.layer_order must be a list, or null, not '012'"),
    ],
)
def test_a_bad_grid_is_refused_in_one_sentence(arguments, message):
    with pytest.raises(UserError, match=message) as error:
        Grid(**arguments)
    assert "\n" not in str(error.value)


def test_two_entries_that_are_the_same_network_are_refused():
    with pytest.raises(UserError, match=r"same network here, 6 of 12 heads"):
        Grid((1.0, 0.5, 0.51), (1.0,)).subnets(BERT_BASE)
    assert len(Grid((1.0, 0.5, 0.25), (1.0, 0.75)).subnets(BERT_BASE)) == 6


MEASURED = Grid((1.0, 0.5), (1.0, 2 / 3, 0.5, 1 / 6), "importance")
SIX = Geometry(layers=6, heads=12, head_size=32, neurons=1536, hidden=384)


def test_layers_by_importance_are_those_that_leave_last_in_their_own_order():
    grid = MEASURED.ordered([2, 5, 0, 4, 1, 3])
    kept = [grid.resolve(SubnetSpec(0.5, depth), SIX).indices for depth in grid.depths]
    assert kept == [(0, 1, 2, 3, 4, 5), (0, 1, 3, 4), (1, 3, 4), (3,)]
    assert Grid(**grid.to_dict()) == grid
    assert len(grid.subnets(SIX)) == 8


def test_an_order_that_is_not_measured_yet_is_said_and_never_guessed():
    assert MEASURED.resolve(SubnetSpec(0.5), SIX) == Grid().resolve(SubnetSpec(0.5), SIX)
    with pytest.raises(UserError, match=r"which 3 of 6 layers the rule 'importance' keeps .* is not known yet"):
        MEASURED.resolve(SubnetSpec(1.0, 0.5), SIX)
    with pytest.raises(UserError, match=r"grid.layer_order \[1, 0\] is of 2 layers, the network has 6"):
        MEASURED.ordered([1, 0]).resolve(SubnetSpec(1.0, 0.5), SIX)
    assert len(MEASURED.supposed(SIX).subnets(SIX)) == 8
    assert MEASURED.layer_order is None


def test_a_rule_of_places_takes_no_order():
    assert Grid().ordered([1, 0]) == Grid()
    assert Grid().supposed(SIX) == Grid()


def test_the_grid_lists_the_full_network_first_and_finds_the_nearest():
    grid = Grid((0.5, 1.0), (0.5, 1.0))
    assert grid.specs()[0] == FULL
    assert len(grid.specs()) == 4
    assert grid.nearest(SubnetSpec(0.6, 0.9)) == SubnetSpec(0.5, 1.0)


def test_what_a_multiplier_resolved_to_is_told():
    spec = SubnetSpec(0.3, 0.5)
    text = describe(spec, resolve(spec, BERT_BASE), BERT_BASE)
    assert "width 0.3 -> 4 of 12 heads, 1024 of 3072 neurons" in text
    assert "depth 0.5 -> 6 of 12 layers (1, 3, 5, 7, 9, 11)" in text


@pytest.mark.parametrize(
    ("share", "total", "kept"),
    [(0.5, 384, 192), (0.75, 384, 288), (0.7, 384, 272), (0.66, 768, 504), (1.0, 100, 100), (0.5, 100, 48),
     (0.52, 100, 56), (0.01, 384, 8), (0.99, 30, 30), (0.9, 12, 8), (0.5, 4, 2), ("1/3", 384, 128)],
)  # fmt: skip
def test_a_hidden_size_is_a_multiple_of_8_rounded_half_up(share, total, kept):
    # .7 of 384 are 33.6 eights; .52 of 100 are 6.5 eights, which round up to 56; .99 of 30 would be 32.
    assert hidden_size(multiplier("hidden", share), total) == kept


def test_the_grid_of_three_axes_begins_with_the_full_network_and_ends_with_the_smallest():
    grid = Grid((1.0, 0.5), (1.0, 0.5), hidden=(0.5, 1.0))
    assert (grid.specs()[0], grid.specs()[-1], len(grid.specs())) == (FULL, SubnetSpec(0.5, 0.5, 0.5), 8)
    assert {subnet.hidden for subnet in grid.subnets(BERT_BASE).values()} == {768, 384}
    assert grid.nearest(SubnetSpec(0.6, 0.9, 0.6)) == SubnetSpec(0.5, 1.0, 0.5)
    assert Grid(**grid.to_dict()) == grid
    assert "hidden" not in Grid((1.0,), (1.0,)).to_dict()  # files of grids without it stay as they were
    assert grid.trained(resolve(SubnetSpec(0.5, 0.5, 0.501), BERT_BASE), BERT_BASE) == SubnetSpec(0.5, 0.5, 0.5)
    with pytest.raises(UserError, match=r"same network here.* and 384 of 768 hidden dimensions"):
        Grid((1.0,), (1.0,), hidden=(1.0, 0.5, 0.501)).subnets(BERT_BASE)
    text = describe(SubnetSpec(1.0, 1.0, 0.5), resolve(SubnetSpec(1.0, 1.0, 0.5), BERT_BASE), BERT_BASE)
    assert text.endswith("; hidden 0.5 -> 384 of 768")


def test_full_depth_gives_the_layers_that_are_missing_the_width_of_the_next_one_that_is_not():
    assert resolve(SubnetSpec(0.5, 0.5), BERT_BASE).at_full_depth(BERT_BASE) == resolve(SubnetSpec(0.5), BERT_BASE)
    geometry = Geometry(5, 4, 8, 40, 32)
    uneven = Subnet((Layer(1, 1, 10), Layer(3, 3, 30)), 32).at_full_depth(geometry)
    assert [(own.index, own.heads, own.neurons) for own in uneven.layers] == [
        (0, 1, 10), (1, 1, 10), (2, 3, 30), (3, 3, 30), (4, 3, 30)
    ]  # fmt: skip


GEOMETRY = Geometry(layers=6, heads=12, head_size=32, neurons=1536, hidden=384)
ENTRY = {"index": 1, "heads": 4, "neurons": 100}


def read(tmp_path, content):
    (tmp_path / "spec.json").write_text(json.dumps(content))
    return read_subnet(tmp_path / "spec.json", GEOMETRY)


def test_a_file_gives_each_layer_sizes_of_its_own_and_what_is_written_reads_the_same(tmp_path):
    subnet = read(tmp_path, {"layers": [ENTRY, {"index": 4, "heads": 12, "neurons": 1536}]})
    assert subnet == Subnet((Layer(1, 4, 100), Layer(4, 12, 1536)), 384)
    assert read(tmp_path, subnet.to_dict()) == subnet
    assert (subnet.indices, subnet.sizes, subnet.width(GEOMETRY)) == ((1, 4), ([4, 12], [100, 1536]), 16 / 24)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], r'must hold \{"layers"'),
        ({"layers": []}, r'must hold \{"layers"'),
        ({"layers": [ENTRY], "width": 1}, "unknown key '.*spec.json.width'"),
        ({"layers": [ENTRY], "hidden": 385}, "hidden is 385; it must be a number from 1 to 384"),
        ({"layers": [ENTRY], "hidden": 0.5}, "hidden is 0.5; it must be a number from 1 to 384"),
        ({"layers": [{"index": 1, "heads": 4}]}, r"layers\[0\] must have the keys index, heads, neurons"),
        ({"layers": [ENTRY | {"heads": 13}]}, r"layers\[0\].heads is 13; it must be a number from 1 to 12"),
        ({"layers": [ENTRY | {"heads": 0}]}, r"layers\[0\].heads is 0; it must be a number from 1 to 12"),
        ({"layers": [ENTRY | {"neurons": 1.5}]}, r"layers\[0\].neurons is 1.5; it must be a number from 1 to 1536"),
        ({"layers": [ENTRY | {"index": 6}]}, r"layers\[0\].index is 6; it must be a number from 0 to 5"),
        ({"layers": [ENTRY, ENTRY]}, r"layers\[1\].index is 1; layers keep their order"),
    ],
)
def test_a_file_that_this_network_does_not_hold_is_refused_in_one_sentence(tmp_path, content, message):
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path, content)
    assert "\n" not in str(error.value)
