"""The plan's arithmetic: what is wanted where there is time, else fewer sub-networks, then fewer steps, then rows."""

import pytest

from dynackd.compress.plan import LEAST_STEPS, SHARES, StageCost, make_plan
from dynackd.errors import UserError

COSTS = [
    StageCost("finetune", 100, {"all": 0.1, "sandwich(1)": 0.1}, 300),
    StageCost("width", 100, {"all": 1.0, "sandwich(1)": 0.5}, 300),
    StageCost("depth", 100, {"all": 3.0, "sandwich(1)": 0.5}, 300),
]


def test_all_that_is_wanted_is_trained_where_there_is_time():
    free, enough = make_plan(COSTS, 50, "all", None), make_plan(COSTS, 50, "all", 1300)
    assert free == enough
    assert free.seconds == pytest.approx(50 + 30 + 300 + 900)
    assert [own.epochs for own in free.stages] == [3, 3, 3]
    assert not free.changed


def test_first_fewer_sub_networks_are_trained_at_a_step():
    plan = make_plan(COSTS, 50, "all", 1279)
    assert plan.sampler == "sandwich(1)"
    assert plan.seconds == pytest.approx(50 + 30 + 150 + 150)
    assert plan.changed == ("sampler sandwich(1) instead of all",)
    assert plan.usual_s == pytest.approx(1280), "what all would take"


def test_then_steps_are_left_out_by_share_and_what_one_stage_leaves_goes_to_the_others():
    plan = make_plan(COSTS, 50, "all", 50 + 30 + 150)
    steps = {own.stage: own.steps for own in plan.stages}
    assert steps["finetune"] == 300, "it needs less than its share"
    assert steps["depth"] / steps["width"] == pytest.approx(SHARES["depth"] / SHARES["width"], rel=0.01)
    assert 0.98 * 230 < plan.seconds <= 230
    assert plan.share == 1
    assert plan.usual_s == pytest.approx(380)
    assert plan.changed == ("sampler sandwich(1) instead of all", "fewer epochs")


def test_below_one_epoch_of_every_stage_rows_are_left_out():
    costs = [StageCost(own.stage, 10_000, own.step_s, 30_000) for own in COSTS]
    plan = make_plan(costs, 50, "all", 450)
    assert 0 < plan.share < 1
    assert max(own.epochs for own in plan.stages) == pytest.approx(1)
    for own in plan.stages:
        assert own.steps == pytest.approx(own.epochs * plan.share * 10_000, abs=1)
    assert plan.changed[-1] == "fewer rows"
    assert plan.seconds <= 450


@pytest.mark.parametrize("seconds", [10, 50, 55])
def test_a_time_in_which_nothing_is_learned_is_refused_with_one_that_would_do(seconds):
    told = r"--max-minutes is too short here: .* training 1\.\d are needed; give it [23],"
    with pytest.raises(UserError, match=told):
        make_plan(COSTS, 50, "all", seconds)
    make_plan(COSTS, 50, "all", 66)


def test_where_the_bound_gives_way_hardly_anything_is_trained_instead():
    plan = make_plan(COSTS, 50, "all", 20, gives_way=True)
    assert [own.steps for own in plan.stages] == [LEAST_STEPS] * 3
    assert plan.seconds > 50
    assert plan.changed


def test_a_sampler_that_costs_less_already_is_kept():
    costs = [StageCost(own.stage, 100, {**own.step_s, "mixed(1)": 0.3}, 300) for own in COSTS]
    plan = make_plan(costs, 0, "mixed(1)", 200)
    assert plan.sampler == "mixed(1)"
    assert plan.changed == ("fewer epochs",)
