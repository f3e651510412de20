"""What Vegas takes for the time of a call that finds no queue."""

import math
from random import Random
from statistics import mean

import pytest
from hypothesis import given
from tests.limits.samples import busy, histories, window, windows_until

from resilience.limits import Vegas
from resilience.limits._vegas import PROBE_MULTIPLIER, RISE


def based(latency=0.1, **settings):
    """A limit that has seen what a call takes without a queue."""
    limit = Vegas(**settings)
    limit.on_sample(busy(limit.limit, latency=latency))
    return limit


def probed(limit, latency):
    """Let it see busy windows until its baseline is measured anew; return the former one."""
    before = limit._baseline
    for _ in range(100):
        had = limit._probes
        limit.on_sample(busy(limit.limit, latency=latency))
        if limit._probes < had:
            return before
    raise AssertionError("no probe")


def test_a_shorter_time_is_taken_at_once_and_changes_nothing_else():
    learnt = based(latency=0.2, initial=100)
    learnt.on_sample(busy(100, latency=0.1))
    assert (learnt._baseline, learnt.limit) == (0.1, 100)
    learnt.on_sample(busy(100, latency=0.2))
    assert learnt.limit == 90  # half of it stands in a queue now


def test_a_probe_raises_the_baseline_by_a_quarter_at_most():
    learnt = based(latency=0.1, initial=20)
    assert probed(learnt, 1.0) == 0.1
    assert learnt._baseline == 0.1  # a time of before the probe counted still
    probed(learnt, 1.0)
    assert learnt._baseline == pytest.approx(0.125)


def test_a_probe_raises_the_baseline_to_the_shortest_time_since_the_last_one():
    learnt = based(latency=0.1, initial=20)
    probed(learnt, 1.0)
    learnt.on_sample(busy(learnt.limit, latency=0.11))
    probed(learnt, 1.0)
    assert learnt._baseline == pytest.approx(0.11)


def test_a_single_fast_call_does_not_keep_the_baseline_low():
    learnt = based(latency=0.1, initial=20)
    probed(learnt, 1.0)
    learnt.on_sample(window(good=20, peak=20, latency=1.0, shortest=0.001))
    probed(learnt, 1.0)
    assert learnt._baseline == pytest.approx(0.125)


@pytest.mark.parametrize("sample", [window(good=9, latency=0.05), window(good=20, timed_out=1, latency=0.05)])
def test_few_calls_and_windows_with_drops_leave_the_baseline_alone(sample):
    learnt = based(latency=0.1, initial=20)
    probed(learnt, 1.0)
    learnt.on_sample(sample)
    probed(learnt, 1.0)
    assert learnt._baseline == pytest.approx(0.125)


@pytest.mark.parametrize("spread", ["exponential", "lognormal"])
def test_a_dependency_that_became_slower_for_good_gets_its_calls_back(spread):
    rng = Random(1)
    draws = {"exponential": lambda: rng.expovariate(20), "lognormal": lambda: rng.lognormvariate(-3, 0.5)}
    draw, learnt, baselines = draws[spread], Vegas(), []
    for slower in (1, 3):
        for _ in range(600):
            times = [slower * draw() for _ in range(300)]
            inflight = int(learnt.limit)
            learnt.on_sample(window(good=300, peak=inflight, latency=mean(times), shortest=min(times)))
        baselines.append(learnt._baseline)
    assert 2 < baselines[1] / baselines[0] <= 3.5
    assert learnt.limit > 20


def test_a_probe_comes_after_fifteen_to_thirty_rounds_and_not_always_the_same():
    learnt = based(initial=10, min_limit=10, max_limit=10)
    rounds, count = [], 1
    for _ in range(500):
        had = learnt._probes
        learnt.on_sample(busy(10))
        count += 1
        if learnt._probes < had:
            rounds.append(count)
            count = 0
    assert min(rounds) >= PROBE_MULTIPLIER / 2
    assert max(rounds) <= PROBE_MULTIPLIER
    assert len(set(rounds)) > 5
    assert rounds[:2] == [25, 19]  # the golden ratio, no chance


def test_a_probe_leaves_the_limit_alone():
    learnt = based(initial=20, max_limit=10_000)
    before = []
    for _ in range(200):
        had, limit = learnt._probes, learnt.limit
        learnt.on_sample(busy(limit, good=300))
        if learnt._probes < had:
            before.append((limit, learnt.limit))
    assert before
    assert all(first == second for first, second in before)


def test_a_clock_too_coarse_to_time_calls_teaches_nothing():
    learnt = Vegas(initial=20)
    for _ in range(3):
        learnt.on_sample(busy(20, latency=0.0))
    assert (learnt.limit, learnt._baseline) == (20, math.inf)
    windows_until(learnt, lambda now: now >= 100, 20)


@given(histories)
def test_the_baseline_never_rises_by_more_than_a_quarter_at_once(history):
    limit = Vegas(window=0)
    for sample in history:
        before = limit._baseline
        limit.on_sample(sample)
        assert limit._baseline <= RISE * before
