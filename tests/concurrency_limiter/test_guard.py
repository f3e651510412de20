"""Blocks for which there is a place at once: they do what every guarded block does."""

import pytest

from resilience import ConcurrencyLimiter, Verdict, bad_results
from resilience.errors import ConcurrencyLimitedError
from resilience.limits import Aimd


@pytest.fixture
def limiter() -> ConcurrencyLimiter:
    return ConcurrencyLimiter("reports", limit=1)


def test_a_block_is_counted_once(limiter):
    for _ in range(3):
        with limiter.guard():
            assert limiter.inflight == 1
    assert limiter.is_idle
    assert (limiter.counts.acquired, limiter.counts.rejected) == (3, 0)


def test_a_block_for_which_there_is_no_place_is_counted_and_does_not_run(limiter):
    with limiter.guard(), pytest.raises(ConcurrencyLimitedError), limiter.guard():
        pytest.fail("it ran")
    assert limiter.is_idle
    assert (limiter.counts.acquired, limiter.counts.rejected) == (1, 1)


@pytest.mark.parametrize("verdict", Verdict)
def test_a_permit_that_is_settled_inside_the_block_is_not_settled_again(limiter, verdict):
    with limiter.guard() as permit:
        permit.settle(verdict)
        assert permit
        assert limiter.is_idle
    assert limiter.inflight == 0


def test_a_guard_that_was_used_is_not_entered_again(limiter):
    guard = limiter.guard()
    with guard, pytest.raises(RuntimeError, match="entered once"), guard:
        pytest.fail("it ran")
    with pytest.raises(RuntimeError, match="entered once"), guard:
        pytest.fail("it ran")
    assert limiter.is_idle


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_whatever_ends_the_block_frees_its_place(limiter, error):
    with pytest.raises(error), limiter.guard():
        raise error
    assert limiter.is_idle


def test_a_guard_that_nobody_ends_frees_its_place(limiter):
    guard = limiter.guard()
    guard.__enter__()
    assert limiter.inflight == 1
    del guard
    assert limiter.is_idle


def test_a_place_is_given_back_to_a_limit_that_came_while_the_block_ran(limiter):
    with pytest.raises(ValueError, match="down"), limiter.guard():
        limiter.reconfigure(limit=Aimd(initial=5))
        raise ValueError("down")
    assert limiter.is_idle


def test_a_classifier_is_asked_how_the_block_ended():
    asked = []
    limiter = ConcurrencyLimiter("reports", limit=1, classify=bad_results(lambda value: asked.append(value)))
    with limiter.guard():
        pass
    assert asked == [None]


def test_places_that_a_limit_gave_to_blocks_are_part_of_what_it_learns():
    samples = []

    class Watching:
        limit, window = 2.0, 0.0

        def on_sample(self, sample):
            samples.append((sample.good, sample.bad))

    limiter = ConcurrencyLimiter("reports", limit=Watching())
    with limiter.guard():
        pass
    with pytest.raises(ValueError, match="down"), limiter.guard():
        raise ValueError("down")
    assert samples == [(1, 0), (0, 1)]
