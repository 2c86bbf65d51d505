import itertools
import math
from types import SimpleNamespace

import pytest

from tiny_lm.training.params import TrainParams
from tiny_lm.training.schedule import multiplier

RUN = {"learning_rate": 0.5, "min_learning_rate": 0.05, "steps": 100, "warmup": 0.1, "decay": 0.2}


def curve(schedule, **change):
    params = SimpleNamespace(schedule=schedule, **{**RUN, **change})
    return [multiplier(step, params) for step in range(params.steps)]


@pytest.mark.parametrize("schedule", ["cosine", "constant", "wsd", "wsd-sqrt"])
def test_warm_up_is_linear_and_never_zero(schedule):
    assert curve(schedule)[:10] == pytest.approx([(i + 1) / 11 for i in range(10)])


def test_cosine_follows_the_formula_and_ends_at_the_minimum():
    rates = curve("cosine")
    for step in range(10, 100):
        expected = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - 10) / 89))
        assert rates[step] == pytest.approx(expected)
    assert rates[10] == 1.0
    assert rates[-1] == pytest.approx(0.1)


def test_constant_stays_at_the_peak():
    assert curve("constant")[10:] == [1.0] * 90


def test_wsd_is_stable_then_falls_linearly():
    rates = curve("wsd")
    assert rates[10:80] == [1.0] * 70
    assert rates[80:] == pytest.approx([1.0 - 0.9 * i / 20 for i in range(1, 21)])
    assert curve("wsd", decay=0.5) != rates


def test_wsd_sqrt_is_stable_then_falls_as_one_minus_the_square_root():
    rates = curve("wsd-sqrt")
    assert rates[:80] == curve("wsd")[:80]
    assert rates[80:] == pytest.approx([0.1 + 0.9 * (1 - math.sqrt(i / 20)) for i in range(1, 21)])


def test_the_decay_of_wsd_does_not_begin_before_warm_up_has_ended():
    rates = curve("wsd", warmup=0.5, decay=0.5)
    assert rates.index(1.0) == 50
    assert rates[-1] == pytest.approx(0.1)
    assert curve("wsd", decay=0.125) == curve("wsd", decay=0.12)  # of 100 steps: to the nearest
    assert curve("wsd", decay=0.126) != curve("wsd", decay=0.12)


FRACTIONS = [0.0, 0.05, 0.3, 0.5, 0.7, 0.95]


@pytest.mark.parametrize("schedule", ["cosine", "constant", "wsd", "wsd-sqrt"])
def test_a_short_run_starts_above_zero_and_a_decay_ends_at_the_minimum(schedule):
    for steps, warmup, decay in itertools.product(range(1, 13), FRACTIONS, FRACTIONS):
        if schedule.startswith("wsd") and warmup + decay > 1:
            continue
        rates = curve(schedule, steps=steps, warmup=warmup, decay=decay)
        decays = steps > 1 and (schedule == "cosine" or (schedule.startswith("wsd") and decay > 0))
        assert rates[-1] == (0.1 if decays else 1.0)
        assert rates[0] > 0
        highest = rates.index(max(rates))
        assert rates == sorted(rates[: highest + 1]) + sorted(rates[highest + 1 :], reverse=True)


def test_short_runs_by_hand():
    short = {"warmup": 0.05, "decay": 0.2}
    for schedule in ("cosine", "wsd"):
        assert curve(schedule, steps=1, **short) == [1.0]
        assert curve(schedule, steps=2, **short) == [1.0, 0.1]
    assert curve("cosine", steps=3, **short) == pytest.approx([1.0, 0.55, 0.1])
    assert curve("wsd", steps=3, **short) == [1.0, 1.0, 0.1]
    assert curve("cosine", steps=3, warmup=0.5) == pytest.approx(
        [1 / 3, 2 / 3, 0.1]
    )  # 1.5 steps of warm-up: to the even
    assert curve("wsd", steps=4, warmup=0.5, decay=0.5) == pytest.approx([1 / 3, 2 / 3, 1.0, 0.1])
    assert curve("constant", steps=1, warmup=0.95) == [1.0]
    assert curve("cosine", steps=10, warmup=0.95)[-2:] == pytest.approx([0.9, 0.1])


def test_wsd_without_decay_is_constant():
    assert curve("wsd", decay=0.0) == curve("constant")


@pytest.mark.parametrize("warmup", [0.9, 0.8, 0.07])
def test_warm_up_and_decay_may_fill_the_whole_run(warmup: float) -> None:
    TrainParams(schedule="wsd", warmup=warmup, decay=round(1 - warmup, 2))  # 1 - 0.9 is less than 0.1 in binary
    with pytest.raises(ValueError, match="^decay = "):
        TrainParams(schedule="wsd", warmup=warmup, decay=round(1.01 - warmup, 2))
