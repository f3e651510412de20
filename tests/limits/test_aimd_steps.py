"""AIMD, step by step: by how much it grows for each call, and which cut counts as the first."""

import pytest
from tests.limits.samples import window

from resilience.limits import Aimd
from resilience.limits._aimd import HOLD, SMALL_STEP, STEADY


def test_while_nothing_is_dropped_it_grows_by_one_per_round():
    limit = Aimd(initial=100)
    limit.on_sample(window(STEADY, peak=100))
    assert limit.limit == pytest.approx(100 + STEADY / 100)


def test_below_two_a_round_is_a_call():
    limit = Aimd(initial=1)
    limit.on_sample(window(STEADY, peak=0))  # not in use: it does not grow
    assert limit.limit == 1
    limit.on_sample(window(1, peak=1))
    assert limit.limit == 2


def test_one_call_less_than_are_steady_makes_it_grow_in_small_steps():
    limit = Aimd(initial=1)
    limit.on_sample(window(STEADY - 1, peak=1))
    assert limit.limit == pytest.approx(1 + (STEADY - 1) * SMALL_STEP)


def test_a_cut_after_a_window_without_drops_is_the_first_again():
    limit = Aimd(initial=100, patience=1)
    limit.on_sample(window(70, bad=0, throttled=30, peak=100))
    assert limit.limit == pytest.approx(80)
    limit.on_sample(window(0, peak=100))
    limit.on_sample(window(70, throttled=30, peak=100))
    assert limit.limit == pytest.approx(64)


def test_the_first_cut_after_cuts_in_vain_is_the_first_again():
    limit = Aimd(initial=100, patience=1)
    trouble = window(70, throttled=30, peak=100)
    while limit.cause != "cuts_in_vain":
        limit.on_sample(trouble)
    assert limit.limit == 100
    for _ in range(HOLD):
        limit.on_sample(trouble)
    assert limit.limit == 100
    limit.on_sample(trouble)
    assert limit.limit == pytest.approx(80)
