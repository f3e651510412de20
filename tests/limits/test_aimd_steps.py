"""AIMD, step by step: by how much it grows for each call, and which cut counts as the first."""

import pytest
from tests.limits.samples import window

from resilience.limits import Aimd
from resilience.limits._aimd import HOLD, REVIVED, SMALL_STEP, STEADY


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


def low(*, slow=None, **settings):
    """A limit below one, which has seen calls time out after *slow* seconds."""
    limit = Aimd(initial=1, **settings)
    limit.on_sample(window(timed_out=1, latency=slow))
    assert limit.limit < 1
    return limit


def test_below_one_a_quick_good_call_lets_it_come_back_to_two():
    limit = low(slow=2.0)
    limit.on_sample(window(1, latency=0.49))
    assert (limit.limit, limit.cause) == (REVIVED, "growth")


def test_below_one_a_good_call_that_was_not_quick_is_one_small_step():
    limit = low(slow=2.0)
    before = limit.limit
    limit.on_sample(window(1, latency=0.5))
    assert limit.limit == pytest.approx(before * (1 + SMALL_STEP))


def test_until_a_call_has_timed_out_at_rest_a_window_stands_for_how_long_that_takes():
    limit = low(window=0.4)
    limit.on_sample(window(1, latency=0.11))
    assert limit.limit < 1
    limit.on_sample(window(1, latency=0.09))
    assert limit.limit == REVIVED


def test_a_quick_call_beside_a_drop_is_no_sign():
    limit = low(slow=2.0)
    limit.on_sample(window(1, throttled=1, latency=0.1))
    assert limit.limit < 1


def test_from_one_on_a_quick_call_is_a_good_call_like_others():
    limit = Aimd(initial=1)
    limit.on_sample(window(1, latency=0.001))
    assert limit.limit == pytest.approx(1 + SMALL_STEP)


def test_it_comes_back_to_no_more_than_its_highest():
    limit = low(slow=2.0, max_limit=1)
    limit.on_sample(window(1, latency=0.1))
    assert limit.limit == 1
