"""Delay schedules: what an error says of a setting that cannot work, in full, and the ends of the ranges."""

from collections.abc import Callable

import pytest

from resilience.backoff import (
    LONGEST,
    Backoff,
    computed,
    constant,
    decorrelated_jitter,
    equal_jitter,
    exponential,
    full_jitter,
    linear,
    proportional_jitter,
    sequence,
    smooth_jitter,
)
from resilience.errors import ConfigError
from resilience.outcome import CallContext

GROWING = [linear, exponential, full_jitter, equal_jitter, decorrelated_jitter, smooth_jitter]
DELAY = "must be a finite number >= 0 and <= 86400"
LENGTH = "must be a finite number > 0 and <= 86400"


def complaint(make: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as caught:
        make()
    return str(caught.value)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: constant(-1), f"constant: delay {DELAY}, got -1"),
        (lambda: constant(LONGEST + 1), f"constant: delay {DELAY}, got 86401.0"),
        (lambda: linear(step=-1), f"linear: step {DELAY}, got -1"),
        (lambda: linear(step=LONGEST + 1), f"linear: step {DELAY}, got 86401.0"),
        (lambda: sequence(), "sequence: delays must be at least one number of seconds, got ()"),
        (lambda: sequence(0.0, -1), f"sequence: delays[1] {DELAY}, got -1"),
        (lambda: exponential(factor=0.5), "exponential: factor must be a finite number >= 1, got 0.5"),
        (lambda: full_jitter(factor=0.5), "full_jitter: factor must be a finite number >= 1, got 0.5"),
        (lambda: equal_jitter(factor=0.5), "equal_jitter: factor must be a finite number >= 1, got 0.5"),
        (lambda: proportional_jitter(share=2), "proportional_jitter: share must be a number in (0, 1], got 2"),
        (
            lambda: proportional_jitter("fast"),
            "proportional_jitter: around must be a constant, linear, exponential or sequence backoff, got 'fast'",
        ),
        (lambda: computed("fast"), "computed: function must be callable, got 'fast'"),
        (
            lambda: computed(lambda context: None, otherwise=7),
            "computed: otherwise must be a backoff, got 7",
        ),
    ],
)  # fmt: skip
def test_an_error_names_the_backoff_the_setting_the_range_and_the_value(
    make: Callable[[], object], text: str
) -> None:
    assert complaint(make) == text


@pytest.mark.parametrize("kind", GROWING)
def test_an_error_tells_what_a_base_and_a_cap_must_be(kind: type) -> None:
    name = kind.__name__
    assert complaint(lambda: kind(base=0)) == f"{name}: base {LENGTH}, got 0"
    assert complaint(lambda: kind(cap=0)) == f"{name}: cap {LENGTH}, got 0"
    assert complaint(lambda: kind(base=1.0, cap=0.5)) == f"{name}: cap must be >= base (1), got 0.5"


@pytest.mark.parametrize("kind", GROWING)
def test_the_longest_base_and_cap_are_allowed(kind: type) -> None:
    backoff = kind(base=LONGEST, cap=LONGEST)
    assert (backoff.base, backoff.cap) == (LONGEST, LONGEST)


def test_the_ends_of_the_other_ranges_are_allowed() -> None:
    assert [constant(end).delay for end in (0, LONGEST)] == [0, LONGEST]
    assert [linear(step=end).step for end in (0, LONGEST)] == [0, LONGEST]
    assert sequence(0, LONGEST).delays == (0, LONGEST)
    assert proportional_jitter(share=1).share == 1


def test_a_smooth_jitter_is_at_its_cap_from_the_thousand_and_first_retry_on() -> None:
    # Only a base that is nothing for all purposes is still below the cap by then.
    delays = smooth_jitter(1e-300, cap=None).start()
    assert 0.0 < delays.before(1000, 0.5) < LONGEST
    assert delays.before(1001, 0.5) == LONGEST


def test_the_other_backoff_of_a_function_is_told_of_the_call_as_well() -> None:
    class Noting:
        def start(self, context: CallContext | None = None) -> constant:
            seen.append(context)
            return constant(1.0)

    seen: list[CallContext | None] = []
    other: Backoff = Noting()
    call = CallContext(operation="GET /stock")
    assert computed(lambda context: None, otherwise=other).start(call).before(1, 0.5) == 1.0
    assert seen == [call]
