"""Delay schedules: their ends, their bounds, their memory, and what they refuse."""

import copy
import math
import pickle
import random
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.backoff import (
    BASE,
    CAP,
    LONGEST,
    Backoff,
    as_backoff,
    computed,
    constant,
    decorrelated_jitter,
    equal_jitter,
    exponential,
    full_jitter,
    honour,
    is_backoff,
    linear,
    proportional_jitter,
    sequence,
    smooth_jitter,
)
from resilience.errors import ConfigError
from resilience.outcome import CallContext

ALMOST_ONE = math.nextafter(1.0, 0.0)
DRAWS = st.sampled_from([0.0, 0.25, 0.5, ALMOST_ONE]) | st.floats(0.0, ALMOST_ONE)
SECONDS = st.sampled_from([1e-6, 0.05, 0.1, 1.0, 2.0, LONGEST]) | st.floats(1e-9, LONGEST)
CAPS = st.none() | SECONDS
FACTORS = st.sampled_from([1, 1.0, 1.5, 2, 2.0, 1e300]) | st.floats(1.0, 100.0)
RETRIES = st.sampled_from([1, 2, 3, 10, 1000, 1001, 1023, 1024, 1025, 10**6]) | st.integers(1, 10**6)
KINDS = [
    constant(0.5),
    linear(),
    exponential(),
    sequence(0.1, 0.2),
    full_jitter(),
    equal_jitter(),
    proportional_jitter(),
    decorrelated_jitter(),
    smooth_jitter(),
    computed(lambda context: 0.1 * context.attempt),
]
each_kind = pytest.mark.parametrize("backoff", KINDS, ids=lambda kind: type(kind).__name__)


def at_least(base: float, cap: float | None) -> float | None:
    """A cap that goes with *base*."""
    return None if cap is None else max(base, cap)


@st.composite
def backoffs(draw: st.DrawFn) -> Backoff:
    base, factor = draw(SECONDS), draw(FACTORS)
    cap = at_least(base, draw(CAPS))
    steady = st.one_of(
        st.just(constant(base)),
        st.just(linear(base, step=draw(st.none() | SECONDS), cap=cap)),
        st.just(exponential(base, factor=factor, cap=cap)),
        st.just(sequence(base, 0.0)),
    )
    jittered = st.one_of(
        st.just(full_jitter(base, cap=cap, factor=factor)),
        st.just(equal_jitter(base, cap=cap, factor=factor)),
        steady.map(lambda around: proportional_jitter(around, share=0.2)),
        st.just(decorrelated_jitter(base, cap=cap)),
        st.just(smooth_jitter(base, cap=cap)),
    )
    return draw(steady | jittered)


def delays_of(backoff: Backoff, *draws: float) -> list[float]:
    delays = backoff.start()
    return [delays.before(retry, draw) for retry, draw in enumerate(draws, start=1)]


# What holds for every kind.


@given(backoff=backoffs(), draws=st.lists(DRAWS, min_size=1, max_size=20))
def test_every_delay_is_finite_and_not_negative(backoff: Backoff, draws: list[float]) -> None:
    most = 1.2 * LONGEST  # a proportional jitter may exceed the cap by its share
    assert all(0 <= delay <= most for delay in delays_of(backoff, *draws))


@given(backoff=backoffs(), retry=RETRIES, draw=DRAWS)
def test_a_million_retries_overflow_nothing(backoff: Backoff, retry: int, draw: float) -> None:
    delays = backoff.start()
    assert math.isfinite(delays.before(retry, draw))
    assert math.isfinite(delays.before(retry + 1, draw))


@given(backoff=backoffs(), draws=st.lists(DRAWS, max_size=10))
def test_equal_draws_give_equal_delays(backoff: Backoff, draws: list[float]) -> None:
    assert delays_of(backoff, *draws) == delays_of(backoff, *draws)


@given(backoff=backoffs(), draws=st.lists(DRAWS, min_size=2, max_size=10))
def test_concurrent_calls_do_not_see_each_other(backoff: Backoff, draws: list[float]) -> None:
    alone = delays_of(backoff, *draws)
    one, other = backoff.start(), backoff.start()
    together = []
    for retry, draw in enumerate(draws, start=1):
        together.append(one.before(retry, draw))
        other.before(retry, ALMOST_ONE - draw)
    assert together == alone


@given(base=SECONDS, cap=CAPS, factor=FACTORS, retry=RETRIES)
def test_without_jitter_delays_never_shrink(
    base: float, cap: float | None, factor: float, retry: int
) -> None:
    cap = at_least(base, cap)
    for backoff in (constant(base), linear(base, cap=cap), exponential(base, factor=factor, cap=cap)):
        assert backoff.before(retry, 0.0) <= backoff.before(retry + 1, 0.0)


@each_kind
def test_a_backoff_is_a_frozen_value(backoff: Backoff) -> None:
    field = next(iter(backoff.__dataclass_fields__))
    with pytest.raises((FrozenInstanceError, AttributeError)):
        setattr(backoff, field, 1.0)
    assert not hasattr(backoff, "__dict__")
    assert copy.deepcopy(backoff) == backoff
    assert hash(copy.copy(backoff)) == hash(backoff)


@each_kind
def test_a_backoff_satisfies_the_protocol(backoff: Backoff) -> None:
    assert isinstance(backoff, Backoff)
    assert is_backoff(backoff)


@pytest.mark.parametrize("backoff", KINDS[:-1], ids=lambda kind: type(kind).__name__)
def test_a_backoff_shows_how_it_was_made(backoff: Backoff) -> None:
    names = {type(kind).__name__: type(kind) for kind in KINDS}
    assert eval(repr(backoff), names) == backoff
    assert pickle.loads(pickle.dumps(backoff)) == backoff


def test_backoffs_of_different_settings_differ() -> None:
    assert full_jitter(base=0.1) == full_jitter(0.1)
    assert full_jitter(base=0.1) != full_jitter(base=0.2)
    assert full_jitter() != equal_jitter()


# Each kind.


def test_a_constant_delay_does_not_change() -> None:
    assert delays_of(constant(7), 0.0, 0.5, ALMOST_ONE) == [7, 7, 7]


def test_retry_3_a_linear_delay_grows_by_its_base_up_to_the_cap() -> None:
    assert delays_of(linear(2.0, cap=None), 0.0, 0.0, 0.0) == [2.0, 4.0, 6.0]
    assert delays_of(linear(0.123, cap=0.123), 0.0, 0.0, 0.0) == [0.123, 0.123, 0.123]
    with pytest.raises(ConfigError, match="cap must be >= base"):
        linear(2.0, cap=0.123)  # Polly cuts every delay; here the contradiction is an error


def test_a_linear_delay_grows_by_its_own_step() -> None:
    assert delays_of(linear(1.0, step=0.5, cap=1.75), 0.0, 0.0, 0.0) == [1.0, 1.5, 1.75]
    assert delays_of(linear(1.0, step=0), 0.0, 0.0) == [1.0, 1.0]


def test_retry_5_an_exponential_delay_doubles_and_saturates() -> None:
    assert delays_of(exponential(1.0, cap=None), 0.0, 0.0, 0.0) == [1.0, 2.0, 4.0]
    assert exponential(1.0, cap=None).before(1000, 0.0) == LONGEST
    assert exponential(1.0, cap=90.0).before(1000, 0.0) == 90.0
    assert exponential(1.0, cap=90.0).before(10**6, 0.0) == 90.0  # where the power overflows


def test_retry_6_an_exponential_delay_stays_at_its_cap() -> None:
    backoff = exponential(0.1, cap=100.0)
    assert [backoff.before(retry, 0.0) for retry in (12, 13)] == [100.0, 100.0]
    assert backoff.before(10, 0.0) == pytest.approx(51.2)


def test_a_factor_of_one_does_not_grow() -> None:
    assert exponential(0.3, factor=1).before(10**6, 0.0) == 0.3


def test_a_sequence_ends_with_its_last_delay() -> None:
    assert delays_of(sequence(3.0, 0.0, 1.0), *[0.5] * 5) == [3.0, 0.0, 1.0, 1.0, 1.0]
    assert sequence(3.0, 1.0).before(10**6, 0.0) == 1.0


@given(base=SECONDS, cap=CAPS, factor=FACTORS, retry=RETRIES)
def test_full_jitter_reaches_from_nothing_to_the_capped_delay(
    base: float, cap: float | None, factor: float, retry: int
) -> None:
    cap = at_least(base, cap)
    whole = exponential(base, cap=cap, factor=factor).before(retry, 0.0)
    jittered = full_jitter(base, cap=cap, factor=factor)
    assert jittered.before(retry, 0.0) == 0.0
    assert jittered.before(retry, 0.5) == whole / 2
    assert whole * (1 - 1e-12) <= jittered.before(retry, ALMOST_ONE) <= whole


@given(base=SECONDS, cap=CAPS, factor=FACTORS, retry=RETRIES)
def test_equal_jitter_reaches_from_half_to_the_capped_delay(
    base: float, cap: float | None, factor: float, retry: int
) -> None:
    cap = at_least(base, cap)
    whole = exponential(base, cap=cap, factor=factor).before(retry, 0.0)
    jittered = equal_jitter(base, cap=cap, factor=factor)
    assert jittered.before(retry, 0.0) == whole / 2
    assert whole * (1 - 1e-12) <= jittered.before(retry, ALMOST_ONE) <= whole


@pytest.mark.parametrize("backoff", [full_jitter(cap=1.0), equal_jitter(cap=1.0), proportional_jitter()])
def test_jitter_does_not_vanish_at_the_cap(backoff: Backoff) -> None:
    late = {backoff.start().before(50, draw) for draw in (0.0, 0.25, 0.5, 0.75)}
    assert len(late) == 4


@pytest.mark.parametrize(
    ("retry", "low", "high"),
    [(1, 0.08, 0.12), (2, 0.16, 0.24), (3, 0.32, 0.48), (4, 0.64, 0.96), (5, 0.8, 1.2)],
)
def test_grpc_adds_or_takes_a_fifth_after_the_cap(retry: int, low: float, high: float) -> None:
    backoff = proportional_jitter(exponential(0.1, cap=1.0), share=0.2)
    assert backoff.before(retry, 0.0) == pytest.approx(low)
    assert backoff.before(retry, 1.0) == pytest.approx(high)


@pytest.mark.parametrize(("draw", "delay"), [(0.0, 0.75), (0.4, 0.95), (0.6, 1.05), (1.0, 1.25)])
def test_polly_adds_or_takes_a_quarter_of_a_constant(draw: float, delay: float) -> None:
    assert proportional_jitter(constant(1.0), share=0.25).before(1, draw) == pytest.approx(delay)


def test_decorrelated_jitter_reaches_from_the_base_to_three_times_the_last_delay() -> None:
    backoff = decorrelated_jitter(base=0.05, cap=100.0)
    assert delays_of(backoff, 0.0, 0.0, 0.0) == [0.05, 0.05, 0.05]
    assert delays_of(backoff, 1.0, 1.0, 1.0) == pytest.approx([0.15, 0.45, 1.35])
    assert delays_of(backoff, 1.0, 0.0, 1.0) == pytest.approx([0.15, 0.05, 0.15])
    assert delays_of(backoff, *[0.5] * 4) == pytest.approx([0.1, 0.175, 0.2875, 0.45625])


@given(base=SECONDS, above=st.floats(0.0, LONGEST), draws=st.lists(DRAWS, max_size=20))
def test_decorrelated_jitter_stays_between_base_and_cap(
    base: float, above: float, draws: list[float]
) -> None:
    cap = min(LONGEST, base + above)
    assert all(base <= delay <= cap for delay in delays_of(decorrelated_jitter(base, cap=cap), *draws))


def test_decorrelated_jitter_at_the_cap_is_the_published_one() -> None:
    # min(cap, U(base, 3 s)) with s = cap: only draws in the lowest third fall below the cap.
    *_, low, high = delays_of(decorrelated_jitter(base=0.1, cap=2.0), *[ALMOST_ONE] * 9, 0.2, 0.5)
    assert low == pytest.approx(0.1 + 0.2 * 5.9)
    assert high == pytest.approx(min(2.0, 0.1 + 0.5 * (3 * low - 0.1)))
    assert delays_of(decorrelated_jitter(base=0.1, cap=2.0), *[ALMOST_ONE] * 9, 0.4)[-1] == 2.0


def test_smooth_jitter_follows_pollys_formula() -> None:
    delays = [0.8974049355792, 1.093003547381679, 2.0357479626216333, 4.0459794227837556, 8.083631609820253]
    assert delays_of(smooth_jitter(1.0, cap=None), *[0.5] * 5) == pytest.approx(delays)


@given(base=SECONDS, draws=st.lists(DRAWS, min_size=1, max_size=20))
def test_smooth_jitter_stays_below_four_times_the_doubling(base: float, draws: list[float]) -> None:
    for place, delay in enumerate(delays_of(smooth_jitter(base, cap=None), *draws)):
        assert 0.0 <= delay <= 4.0 * base * 2.0**place


def test_smooth_jitter_begins_at_nothing_and_ends_at_its_cap() -> None:
    assert delays_of(smooth_jitter(1.0), 0.0) == [0.0]
    late = smooth_jitter(1e-9, cap=30.0).start()
    assert [late.before(retry, 0.5) for retry in (999, 1000, 1001, 2000, 10**6)] == [30.0] * 5


def test_smooth_jitter_doubles_on_average() -> None:
    rng = random.Random(7)
    calls = [delays_of(smooth_jitter(1.0, cap=None), *(rng.random() for _ in range(4))) for _ in range(4000)]
    means = [sum(delays) / len(calls) for delays in zip(*calls, strict=True)]
    assert means == pytest.approx([0.9, 1.1, 2.1, 4.1], rel=0.1)


# Functions.


def test_retry_4_a_function_decides_the_delay_and_zero_is_a_delay() -> None:
    assert delays_of(computed(lambda context: float(context.attempt)), 0.5, 0.5) == [1.0, 2.0]
    assert delays_of(computed(lambda context: 0.0), 0.5) == [0.0]


@pytest.mark.parametrize("answer", [None, -1.0, math.nan, math.inf, -math.inf, "soon", True])
def test_what_is_no_length_of_time_leaves_it_to_the_other_backoff(answer: object) -> None:
    backoff = computed(lambda context: answer, otherwise=constant(9.0))
    assert delays_of(backoff, 0.5) == [9.0]


def test_the_other_backoff_remembers_retries_it_did_not_decide() -> None:
    backoff = computed(
        lambda context: 1.0 if context.attempt == 1 else None, otherwise=decorrelated_jitter(0.1)
    )
    assert delays_of(backoff, 0.5, 0.5) == pytest.approx([1.0, 0.35])


def test_a_function_cannot_make_a_call_wait_for_ever() -> None:
    assert delays_of(computed(lambda context: 1e9), 0.5) == [LONGEST]


def test_a_function_is_told_the_context_of_its_call() -> None:
    seen: list[CallContext] = []

    def ask(context: CallContext) -> float:
        seen.append(context)
        return 0.0

    delays = computed(ask).start(CallContext(operation="GET /stock", idempotent=True))
    delays.before(1, 0.5)
    delays.before(2, 0.5)
    assert seen == [
        CallContext(operation="GET /stock", idempotent=True, attempt=attempt) for attempt in (1, 2)
    ]


def test_what_a_function_raises_comes_out() -> None:
    with pytest.raises(ZeroDivisionError):
        delays_of(computed(lambda context: 1 / 0), 0.5)


def test_a_backoff_and_a_function_count_as_backoffs_and_nothing_else_does() -> None:
    def seconds(context: CallContext) -> float:
        return 1.0

    assert as_backoff(full_jitter()) == full_jitter()
    assert as_backoff(seconds) == computed(seconds)
    for other in (None, 1.0, "fast", full_jitter, float):
        assert as_backoff(other) is None


def test_a_backoff_of_the_users_own_is_taken_as_it_is() -> None:
    class Mine:
        def start(self, context: CallContext | None = None) -> constant:
            return constant(1.0)

    mine = Mine()
    assert as_backoff(mine) is mine
    assert delays_of(computed(lambda context: None, otherwise=mine), 0.5) == [1.0]


# The server's own word.


@pytest.mark.parametrize(
    ("hint", "own", "delay"), [(3.0, 0.05, 3.0), (0.01, 0.05, 0.05), (10.0, 0.05, 5.05), (None, 0.05, 0.05)]
)
def test_a_hint_is_held_between_our_own_delay_and_five_seconds_more(
    hint: float | None, own: float, delay: float
) -> None:
    assert honour(hint, own) == pytest.approx(delay)


def test_a_hint_without_a_window_is_waited_out() -> None:
    assert honour(3600.0, 0.05, window=None) == 3600.0
    assert honour(0.01, 0.05, window=None) == 0.05


def test_a_window_of_nothing_ignores_the_hint() -> None:
    assert honour(3600.0, 0.05, window=0.0) == 0.05


@pytest.mark.parametrize("hint", [-1.0, math.nan, -math.inf])
def test_a_hint_that_means_nothing_counts_as_none(hint: float) -> None:
    assert honour(hint, 0.05) == 0.05
    assert honour(hint, 0.05, window=None) == 0.05


@given(hint=st.floats(0.0, 1e6), own=st.floats(0.0, LONGEST), window=st.floats(0.0, 1e6))
def test_a_hint_never_shortens_our_own_delay(hint: float, own: float, window: float) -> None:
    assert own <= honour(hint, own, window) <= own + window


# Settings.


@pytest.mark.parametrize("wrong", [0, 0.0, -1, -0.1, math.nan, math.inf, True, "1", None, LONGEST + 1])
@pytest.mark.parametrize(
    "kind", [linear, exponential, full_jitter, equal_jitter, decorrelated_jitter, smooth_jitter]
)
def test_a_base_that_cannot_work_is_refused(kind: type, wrong: object) -> None:
    with pytest.raises(ConfigError) as caught:
        kind(base=wrong)
    assert [problem.setting for problem in caught.value.problems] == ["base"]
    assert caught.value.subject == kind.__name__


@pytest.mark.parametrize("wrong", [0, -1, math.nan, math.inf, True, "1", LONGEST + 1])
@pytest.mark.parametrize(
    "kind", [linear, exponential, full_jitter, equal_jitter, decorrelated_jitter, smooth_jitter]
)
def test_a_cap_that_cannot_work_is_refused(kind: type, wrong: object) -> None:
    with pytest.raises(ConfigError) as caught:
        kind(cap=wrong)
    assert [problem.setting for problem in caught.value.problems] == ["cap"]


@pytest.mark.parametrize("wrong", [0.99, 0, -2, math.nan, math.inf, True, "2", None])
@pytest.mark.parametrize("kind", [exponential, full_jitter, equal_jitter])
def test_a_factor_that_cannot_work_is_refused(kind: type, wrong: object) -> None:
    with pytest.raises(ConfigError) as caught:
        kind(factor=wrong)
    assert [problem.setting for problem in caught.value.problems] == ["factor"]


@pytest.mark.parametrize("wrong", [-0.1, math.nan, math.inf, True, "0", LONGEST + 1])
def test_a_delay_that_cannot_work_is_refused(wrong: object) -> None:
    with pytest.raises(ConfigError, match="delay"):
        constant(wrong)
    with pytest.raises(ConfigError, match=r"delays\[1\]"):
        sequence(0.0, wrong)
    with pytest.raises(ConfigError, match="step"):
        linear(step=wrong)


def test_an_empty_sequence_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        sequence()


@pytest.mark.parametrize("wrong", [0, -0.2, 1.01, math.nan, math.inf, True, "0.2", None])
def test_a_share_that_cannot_work_is_refused(wrong: object) -> None:
    with pytest.raises(ConfigError, match="share"):
        proportional_jitter(share=wrong)


@pytest.mark.parametrize("around", [full_jitter(), 1.0, None])
def test_jitter_around_jitter_is_refused(around: object) -> None:
    with pytest.raises(ConfigError, match="around"):
        proportional_jitter(around)


@pytest.mark.parametrize(
    "kind", [linear, exponential, full_jitter, equal_jitter, decorrelated_jitter, smooth_jitter]
)
def test_a_cap_below_the_base_is_refused(kind: type) -> None:
    with pytest.raises(ConfigError, match=r"cap must be >= base \(1\)") as caught:
        kind(base=1.0, cap=0.5)
    assert [problem.setting for problem in caught.value.problems] == ["cap"]
    with pytest.raises(ConfigError, match=r"cap must be >= base \(3\)"):
        kind(base=3.0)  # the default cap
    assert kind(base=1.0, cap=1.0).start().before(1, 0.9) <= 1.0
    assert kind(base=3.0, cap=None).cap is None


def test_computed_refuses_what_cannot_be_called_and_what_is_no_backoff() -> None:
    with pytest.raises(ConfigError) as caught:
        computed(1.0, otherwise=full_jitter)
    assert [problem.setting for problem in caught.value.problems] == ["function", "otherwise"]


def test_every_problem_is_listed() -> None:
    with pytest.raises(ConfigError) as caught:
        full_jitter(base=-1, cap=math.nan, factor=0.5)
    assert [problem.setting for problem in caught.value.problems] == ["base", "cap", "factor"]


def test_the_defaults_are_the_documented_ones() -> None:
    assert (BASE, CAP, LONGEST) == (0.1, 2.0, 86_400.0)
    assert full_jitter() == full_jitter(base=0.1, cap=2.0, factor=2.0)
    assert equal_jitter() == equal_jitter(base=0.1, cap=2.0, factor=2.0)
    assert proportional_jitter() == proportional_jitter(exponential(0.1, factor=2.0, cap=2.0), share=0.2)
