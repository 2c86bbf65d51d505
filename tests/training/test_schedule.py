import math
from types import SimpleNamespace

import pytest

from tiny_lm.training.schedule import learning_rate

RUN = {"learning_rate": 1.0, "min_learning_rate": 0.1, "steps": 100, "warmup": 0.1, "decay": 0.2}


def curve(schedule, **change):
    params = SimpleNamespace(schedule=schedule, **{**RUN, **change})
    return [learning_rate(step, params) for step in range(params.steps)]


@pytest.mark.parametrize("schedule", ["cosine", "constant", "wsd"])
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


def test_wsd_is_stable_then_falls_linearly_over_its_share():
    rates = curve("wsd")
    assert rates[10:80] == [1.0] * 70
    assert rates[80:] == pytest.approx([1.0 - 0.9 * i / 20 for i in range(1, 21)])
    assert curve("wsd", decay=0.5) != rates


def test_the_decay_of_wsd_does_not_begin_before_warm_up_has_ended():
    rates = curve("wsd", warmup=0.5, decay=0.5)
    assert rates.index(1.0) == 50
    assert rates[-1] == pytest.approx(0.1)
    assert curve("wsd", decay=0.125) == curve("wsd", decay=0.12)  # of 100 steps: to the nearest
    assert curve("wsd", decay=0.126) != curve("wsd", decay=0.12)


def test_a_run_of_one_step_trains_at_the_peak():
    for schedule in ("cosine", "constant", "wsd"):
        assert curve(schedule, steps=1, warmup=0.0, decay=0.0) == [1.0]
