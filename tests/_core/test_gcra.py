"""The arithmetic: exact where it says so, for every rate and every reading of the clock."""

import math
from fractions import Fraction

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from resilience._core.gcra import TIE, TIE_PERMITS, tie, unspent, wait

RATES = st.one_of(
    st.sampled_from([0.1, 1 / 3, 1.0, 3.0, 6.0, 7.0, 10.0, 60.0, 100.0, 1_000.0, 1e6, 1e9]),
    st.floats(1e-6, 1e9),
)
STARTS = st.one_of(st.sampled_from([0.0, 0.3, 12_345.678, 1e6, 3.2e7]), st.floats(0, 1e8))


def step(now, rate, burst):
    """How finely time can be told: by the clock, and by what is owed at that rate."""
    return math.ulp(max(now, burst / rate))


class Limiter:
    """Nothing but the line that generated code consists of."""

    def __init__(self, rate, burst, now):
        self.rate, self.burst = rate, burst
        self.room = burst - 1 + tie(rate)
        self.shift = -now * rate
        self.tat = 0.0

    def admits(self, now):
        m = self
        m.tat = t + 1 if (s := m.tat) <= (t := now * m.rate + m.shift) else s + 1 if s - t <= m.room else s
        return s - t <= m.room

    def wait(self, now):
        return wait(self.tat, self.room, now, self.rate, self.shift)


@given(
    interval=st.sampled_from([1, 2, 4, 8]),
    burst=st.integers(1, 5),
    gaps=st.lists(st.sampled_from([0, 0, 0, 1, 2, 3, 4, 5, 8, 9, 40]), max_size=60),
)
def test_on_a_schedule_of_whole_numbers_it_decides_as_a_token_bucket_does(interval, burst, gaps):
    limiter = Limiter(1 / interval, burst, 0.0)
    tokens, now = Fraction(burst), 0
    for gap in gaps:
        now += gap
        tokens = min(Fraction(burst), tokens + Fraction(gap, interval))
        assert limiter.admits(float(now)) == (tokens >= 1)
        tokens -= tokens >= 1


@given(
    rate=RATES,
    start=STARTS,
    burst=st.one_of(st.integers(1, 20), st.integers(1, 10**9)),
    gaps=st.lists(
        st.one_of(st.sampled_from([0.0, 0.3, 0.99, 1.0, 1.01, 2.0]), st.floats(0, 3)), max_size=100
    ),
)
@example(rate=10.0, start=1e6, burst=1, gaps=[1.0] * 100)
@example(rate=3.0, start=3.2e7, burst=5, gaps=[0.0] * 5 + [0.5] * 95)
def test_no_window_holds_more_than_burst_and_rate_times_its_length(rate, start, burst, gaps):
    limiter, now, admitted = Limiter(rate, burst, start), start, []
    for gap in gaps:
        now += gap / rate
        if limiter.admits(now):
            admitted.append(Fraction(now))
    slack = Fraction(TIE) + 4 * Fraction(step(now, rate, burst))
    for first, a in enumerate(admitted):
        for count, b in enumerate(admitted[first:], 1):
            assert count <= burst + Fraction(rate) * (b - a + slack)


@given(rate=RATES, start=STARTS, burst=st.integers(1, 1_000), calls=st.integers(0, 50))
def test_a_clock_that_stands_still_admits_the_burst_and_nothing_extra(rate, start, burst, calls):
    limiter = Limiter(rate, burst, start)
    assert sum(limiter.admits(start) for _ in range(burst + calls)) == burst


@given(start=STARTS, steps=st.lists(st.floats(0, 1e6), min_size=1, max_size=20))
def test_a_clock_that_steps_back_admits_nothing_extra(start, steps):
    limiter = Limiter(1e-3, 7, start)
    assert sum(limiter.admits(start - step) for step in steps * 10) <= 7


@given(rate=RATES, start=STARTS, burst=st.integers(1, 20), later=st.floats(0, 30))
@example(rate=1e-6, start=0.0, burst=9, later=1e-6)
def test_the_wait_is_exact(rate, start, burst, later):
    limiter = Limiter(rate, burst, start)
    for _ in range(burst):
        limiter.admits(start)
    now = start + later / rate
    assume(not limiter.admits(now))
    seconds = limiter.wait(now)
    assert seconds > 0
    earlier = now + seconds - max(1e-9, 8 * step(now + seconds, rate, burst))
    assert not limiter.admits(earlier)
    assert limiter.admits(now + seconds)


@given(
    now=st.one_of(
        st.sampled_from([0.0, -0.0, 5e-324, -5e-324, 1e-300, -1e-300, -0.1, -1e6, 1e15, -1e15, 1e18, -1e18]),
        st.floats(-1e-6, 1e-6),
        st.floats(-1e18, 1e18),
    ),
    start=st.one_of(st.sampled_from([0.0, -0.1, 1.0]), st.floats(-1e9, 1e9)),
    owed=st.one_of(st.sampled_from([0.1, 1.0, 7.0]), st.floats(0, 1e6)),
    rate=RATES,
)
@example(now=-0.1, start=-0.1, owed=1.0, rate=10.0)
@example(now=-0.3, start=-1e6, owed=3.0, rate=10.0)
@example(now=0.0, start=-1e6, owed=1e-9, rate=1e9)
def test_whatever_the_clock_reads_there_is_an_end_and_whoever_comes_then_is_admitted(now, start, owed, rate):
    shift = -start * rate
    tat = now * rate + shift + owed
    seconds = wait(tat, 0.0, now, rate, shift)
    assert 0 <= seconds < math.inf
    assert tat - ((now + seconds) * rate + shift) <= 0
    coarsest = math.ulp(max(abs(now), abs(start), owed / rate))
    assert seconds <= owed / rate + 16 * coarsest


@pytest.mark.parametrize(
    ("now", "start"), [(-0.1, -0.1), (-1.0, -1e6), (0.0, 0.0), (1e-300, 0.0), (-5e-324, 1.0)]
)
def test_a_wait_that_ends_near_an_instant_of_0_is_as_exact_as_any(now, start):
    limiter = Limiter(10.0, 1, start)
    limiter.tat = now * 10.0 + limiter.shift + 1
    seconds = limiter.wait(now)
    assert seconds == pytest.approx(0.1, abs=1e-6)
    assert not limiter.admits(now + seconds - 1e-6)
    assert limiter.admits(now + seconds)


@given(now=STARTS, rate=RATES)
def test_there_is_no_wait_if_there_is_room(now, rate):
    assert wait(0.0, 5.0, now, rate, -now * rate) == 0


@pytest.mark.parametrize("start", [0.0, 12_345.678, 1e6, 3.2e7])
@pytest.mark.parametrize("rate", [3, 6, 7, 10, 60, 100, 128, 997])
def test_a_second_brings_back_the_permits_of_a_second(rate, start):
    limiter = Limiter(float(rate), rate, start)
    for second in range(50):
        assert sum(limiter.admits(start + second) for _ in range(rate + 1)) == rate


@pytest.mark.parametrize("start", [0.0, 12_345.678, 1e6])
@pytest.mark.parametrize("interval", [0.1, 0.2, 0.25, 1 / 3, 0.7])
def test_steps_of_one_interval_bring_one_permit_each_however_the_clock_is_added_up(interval, start):
    limiter, now = Limiter(1 / interval, 1, start), start
    for _ in range(300):
        assert limiter.admits(now)
        assert not limiter.admits(now)
        now += interval


def test_rounding_does_not_add_up_over_a_long_busy_time():
    start, rate = 1e6, 10.0
    limiter = Limiter(rate, 1, start)
    admitted = sum(limiter.admits(start + k / 20) for k in range(200_000))
    assert admitted == 100_000


@given(rate=st.floats(1e-9, 1e9))
def test_a_tie_is_60_ns_and_never_a_thousandth_of_a_permit(rate):
    assert tie(rate) <= TIE * rate
    assert tie(rate) <= TIE_PERMITS < 0.001
    if rate < 10_000:
        assert tie(rate) == TIE * rate


@pytest.mark.parametrize(
    ("end", "t", "n", "left"),
    [(5, 5, 2, 0), (5, 6, 2, 0), (5, 4, 2, 1), (5, 3.5, 2, 1.5), (5, 3, 2, 2), (5, 1, 2, 2), (5, 1, 0, 0)],
)
def test_unspent_is_what_the_clock_has_not_reached(end, t, n, left):
    assert unspent(end, t, n) == left
