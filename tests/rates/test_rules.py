"""The rates that learn, told the time: bounds, curves and cuts, explored by Hypothesis."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.errors import ConfigError
from resilience.rates import Aimd, Cubic, Fixed, Rate, RateSample
from resilience.rates._meter import Meter

FLOOR, CEILING = 0.5, 400.0

seconds = st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0]) | st.floats(-5, 1e6)
sent = st.floats(0, 1e6)
steps = st.lists(st.tuples(seconds, sent, st.integers(0, 3), st.integers(0, 3)), max_size=40)


def sample(now=0.0, sent=10.0, good=0, throttled=0):
    return RateSample(now=now, sent=sent, good=good, throttled=throttled)


def play(rate, steps):
    """Feed samples at instants that mostly go on; yield what the rate was before, after, and each sample."""
    now = 0.0
    for passed, speed, good, throttled in steps:
        now += passed
        given, before = sample(now, speed, good, throttled), rate.rate
        rate.on_sample(given)
        yield before, rate.rate, given


rules = pytest.mark.parametrize(
    "make",
    [
        lambda: Cubic(floor=FLOOR, ceiling=CEILING, window=1.0),
        lambda: Aimd(start=100, floor=FLOOR, ceiling=CEILING),
    ],
    ids=["Cubic", "Aimd"],
)


@pytest.mark.parametrize("rate", [Cubic(), Aimd(), Fixed(5)], ids=repr)
def test_all_of_them_are_rates(rate):
    assert isinstance(rate, Rate)


@rules
@given(steps=steps)
def test_the_rate_stays_within_its_bounds(make, steps):
    for _, after, _ in play(make(), steps):
        assert FLOOR <= after <= CEILING or after == math.inf


@rules
@given(steps=steps)
def test_there_is_at_most_one_cut_per_window_and_only_throttled_calls_cut(make, steps):
    rate = make()
    latest, last_cut = -math.inf, -math.inf
    for before, after, given_ in play(rate, steps):
        latest = max(latest, given_.now)
        if after < before and given_.throttled:
            headroom = isinstance(rate, Cubic) and after == max(FLOOR, min(2 * given_.sent, CEILING))
            assert headroom or latest - last_cut >= rate.window
            last_cut = latest if latest - last_cut >= rate.window else last_cut
        elif isinstance(rate, Aimd):
            assert after >= before


@rules
@given(steps=steps)
def test_samples_without_good_and_throttled_calls_change_nothing(make, steps):
    rate = make()
    for before, after, given_ in play(rate, steps):
        if not given_.good and not given_.throttled:
            assert after == before


@rules
@given(steps=steps)
def test_it_recovers_after_any_history_once_nothing_is_throttled(make, steps):
    rate, now = make(), 0.0
    for _, _, given_ in play(rate, steps):
        now = max(now, given_.now)
    for n in range(1, 500):  # a program that sends as much as it may
        rate.on_sample(sample(now + n, sent=min(rate.rate, CEILING), good=1))
    assert rate.rate >= CEILING


# --- Cubic ---


def test_cubic_has_no_limit_until_the_first_throttled_call():
    cubic = Cubic()
    cubic.on_sample(sample(1.0, good=5))
    assert cubic.rate == math.inf
    cubic.on_sample(sample(2.0, sent=20, throttled=1))
    assert cubic.rate == pytest.approx(14.0)


@given(w=st.floats(0.01, 1e6), beta=st.floats(0.05, 0.95), c=st.floats(0.01, 10), t0=st.floats(0, 1e6))
def test_the_curve_begins_at_the_cut_and_reaches_w_after_k(w, beta, c, t0):
    cubic = Cubic(decrease=beta, scale=c)
    cubic.cut(w, t0)
    k = (w * (1 - beta) / c) ** (1 / 3)
    assert cubic.curve(t0) == pytest.approx(beta * w, rel=1e-6, abs=1e-6)
    assert cubic.curve(t0 + k) == pytest.approx(w, rel=1e-6, abs=1e-6)


@given(w=st.floats(0, 1e6), times=st.lists(st.floats(0, 1e5), min_size=2))
def test_the_curve_never_falls(w, times):
    cubic = Cubic()
    cubic.cut(w, 0.0)
    rates = [cubic.curve(t) for t in sorted(times)]
    assert rates == sorted(rates)


@given(steps=steps)
def test_cubic_grants_at_most_twice_what_is_really_sent(steps):
    for before, after, given_ in play(Cubic(), steps):
        if after != before:
            assert after <= max(0.5, 2 * given_.sent)


def test_a_cut_starts_from_the_lower_of_what_is_sent_and_what_is_allowed():
    cubic = Cubic()
    cubic.on_sample(sample(0.0, sent=100, throttled=1))
    cubic.on_sample(sample(1.0, sent=100, throttled=1))
    assert cubic.rate == pytest.approx(49)
    cubic.on_sample(sample(2.0, sent=10, throttled=1))
    assert cubic.rate == pytest.approx(7)


def test_cubic_looks_for_more_beyond_the_rate_at_which_it_was_throttled():
    cubic = Cubic()
    cubic.on_sample(sample(0.0, sent=10, throttled=1))
    cubic.on_sample(sample(6.0, sent=10, good=1))
    assert 10 < cubic.rate <= 20


# --- Aimd ---


def test_aimd_grows_by_the_seconds_and_not_by_the_calls():
    aimd = Aimd(start=10, increase=2.0)
    aimd.on_sample(sample(0.0, good=1))
    before = aimd.rate
    aimd.on_sample(sample(1.0, good=1_000))
    assert aimd.rate == before + 2.0
    aimd.on_sample(sample(1.5, good=1))
    assert aimd.rate == before + 3.0


def test_aimd_counts_a_pause_as_one_window():
    aimd = Aimd(start=10)
    aimd.on_sample(sample(0.0, good=1))
    before = aimd.rate
    aimd.on_sample(sample(3_600.0, good=1))
    assert aimd.rate == before + 1.0


def test_aimd_does_not_grow_while_half_of_the_rate_is_not_used():
    aimd = Aimd(start=10)
    aimd.on_sample(sample(0.0, sent=4.9, good=9))
    assert aimd.rate == 10
    aimd.on_sample(sample(1.0, sent=5.0, good=9))
    assert aimd.rate == 11


def test_aimd_halves_once_per_window():
    aimd = Aimd(start=100)
    aimd.on_sample(sample(0.0, throttled=9))
    aimd.on_sample(sample(0.9, throttled=9))
    assert aimd.rate == 50
    aimd.on_sample(sample(1.0, throttled=1))
    assert aimd.rate == 25


@rules
def test_a_window_after_a_cut_the_next_one_is_due(make):
    rate = make()
    rate.on_sample(sample(0.0, sent=100.0, throttled=1))
    first = rate.rate
    rate.on_sample(sample(math.nextafter(1.0, 0.0), sent=100.0, throttled=1))
    assert rate.rate == first
    rate.on_sample(sample(1.0, sent=100.0, throttled=1))
    assert rate.rate < first


# --- settings ---


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (lambda: Cubic(decrease=1), ["decrease"]),
        (lambda: Cubic(floor=5, ceiling=4, window=0, scale=0, headroom=1), ["ceiling", "window", "scale", "headroom"]),
        (lambda: Cubic(floor=math.nan, ceiling=math.inf), ["floor", "ceiling"]),
        (lambda: Aimd(start=0.1), ["start"]),
        (lambda: Aimd(start=11, ceiling=10), ["start"]),
        (lambda: Aimd(start=True, increase=0, decrease=0, window=None), ["decrease", "window", "start", "increase"]),
        (lambda: Aimd(floor="1", start="2"), ["floor", "start"]),
        (lambda: Aimd(floor="1", start=2), ["floor"]),
        (lambda: Aimd(ceiling="9", start=2), ["ceiling"]),
        (lambda: Aimd(floor="1", start=0), ["floor", "start"]),
        (lambda: Aimd(floor="1", start=0.5), ["floor"]),
        (lambda: Fixed(0), ["rate"]),
        (lambda: Fixed(math.inf), ["rate"]),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused_all_at_once(make, wrong):
    with pytest.raises(ConfigError) as caught:
        make()
    assert [problem.setting for problem in caught.value.problems] == wrong


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Fixed(0), "Fixed: rate must be a finite number > 0, got 0"),
        (lambda: Cubic(decrease=1), "Cubic: decrease must be a number in (0, 1), got 1"),
        (lambda: Cubic(floor=0), "Cubic: floor must be a finite number > 0, got 0"),
        (lambda: Cubic(ceiling=0.4), "Cubic: ceiling must be a finite number >= floor or None, got 0.4"),
        (lambda: Cubic(window=0), "Cubic: window must be a finite number of seconds > 0, got 0"),
        (lambda: Cubic(scale=0), "Cubic: scale must be a finite number > 0, got 0"),
        (lambda: Cubic(headroom=1), "Cubic: headroom must be a finite number > 1, got 1"),
        (lambda: Aimd(decrease=0), "Aimd: decrease must be a number in (0, 1), got 0"),
        (lambda: Aimd(floor=5, ceiling=4), "Aimd: ceiling must be a finite number >= floor or None, got 4"),
        (lambda: Aimd(start=0.1), "Aimd: start must be a finite number from floor to ceiling, got 0.1"),
        (lambda: Aimd(increase=0), "Aimd: increase must be a finite number > 0, got 0"),
    ],
)
def test_an_error_names_the_rate_the_setting_the_range_and_the_value(make, text):
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("by_default", "spelled_out"),
    [
        (Aimd(), Aimd(start=100, increase=1.0, decrease=0.5, floor=0.5, ceiling=None, window=1.0)),
        (Cubic(), Cubic(decrease=0.7, scale=0.4, floor=0.5, ceiling=None, headroom=2.0, window=0.5)),
    ],
    ids=repr,
)
def test_the_defaults_are_the_documented_ones(by_default, spelled_out):
    assert {name: getattr(by_default, name) for name in by_default.__slots__} == {
        name: getattr(spelled_out, name) for name in spelled_out.__slots__
    }


def test_before_the_first_cut_the_curve_is_no_limit():
    assert Cubic().curve(5.0) == math.inf


@pytest.mark.parametrize("rate", [1e-9, 0.5, 1, 1e9])
def test_every_rate_above_zero_can_be_fixed(rate):
    assert Fixed(rate).rate == rate


def test_the_ends_of_the_ranges_are_allowed():
    assert Aimd(start=5, floor=5, ceiling=5).rate == 5
    assert Cubic(floor=5, ceiling=5, decrease=0.001, headroom=1.001).rate == math.inf


def test_fixed_learns_nothing():
    fixed = Fixed(5)
    fixed.on_sample(sample(throttled=9))
    fixed.on_sample(sample(5.0, sent=5.0, good=9))
    assert fixed.rate == 5


@pytest.mark.parametrize("rate", [Cubic(), Aimd(start=3), Fixed(3)])
def test_the_repr_shows_the_rate(rate):
    assert f"{rate.rate:g}" in repr(rate)


# --- the meter ---


@given(rate=st.integers(1, 50), bucket=st.sampled_from([0.5, 1.0, 2.0]), start=st.floats(0, 1e6))
def test_an_even_stream_is_measured_as_it_is(rate, bucket, start):
    meter = Meter(bucket, start)
    for n in range(1, 40 * rate):
        meter.add(start + n / rate)
    assert meter.smoothed == pytest.approx(rate, rel=0.35 if rate * bucket < 5 else 0.25, abs=1)


def test_a_first_burst_is_seen_before_its_bucket_is_over():
    meter = Meter(0.5, 0.0)
    for _ in range(10):
        meter.add(0.1)
    assert meter.smoothed == 0.0
    assert meter.read(0.2) == 20.0


def test_the_permit_that_ends_a_bucket_counts_in_it():
    meter = Meter(1.0, 0.0)
    meter.add(1.0, 5)
    assert (meter.began, meter.smoothed) == (1.0, 0.8 * 5)


def test_a_clock_that_stands_still_or_goes_back_only_adds_to_the_bucket():
    meter = Meter(1.0, 10.0)
    for now in (10.2, 10.2, 3.0, -5.0):
        meter.add(now)
    assert (meter.smoothed, meter.read(10.2), meter.began) == (0.0, 4.0, 10.0)


def test_what_was_not_sent_is_taken_off_again_but_not_more_than_is_there():
    meter = Meter(1.0, 0.0)
    meter.add(0.0, 2)
    meter.take_back(1)
    assert meter.read(0.5) == 1.0
    meter.take_back(9)
    assert meter.read(0.5) == 0.0


@given(jumps=st.lists(st.floats(-1e9, 1e9), max_size=50))
def test_the_measure_is_a_finite_number_whatever_the_clock_does(jumps):
    meter = Meter(0.5, 0.0)
    for now in jumps:
        meter.add(now)
        assert 0 <= meter.read(now) <= 2 * len(jumps)
