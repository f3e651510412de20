"""Windows for limits: plain ones, any at all, and those of a dependency that is well."""

from hypothesis import strategies as st

from resilience.typing import Sample


def window(good=0, *, bad=0, timed_out=0, throttled=0, peak=1, latency=None, shortest=None, quantile=None):
    """A window in which so many calls ended; the fastest took as long as all, unless it is said."""
    return Sample(
        now=0.0,
        good=good,
        bad=bad,
        timed_out=timed_out,
        throttled=throttled,
        peak=peak,
        mean=latency,
        shortest=latency if shortest is None else shortest,
        quantile=quantile,
    )


def busy(limit, *, good=None, latency=0.1):
    """A window in which the limit was reached, and every call ended well."""
    inflight = max(1, int(limit))
    return window(max(10, inflight) if good is None else good, peak=inflight, latency=latency)


def windows_until(limit, holds, at_most, *, latency=0.1):
    """Let the limit see busy windows until *holds* of it; say how many, or fail after *at_most*."""
    for number in range(at_most + 1):
        if holds(limit.limit):
            return number
        limit.on_sample(busy(limit.limit, latency=latency))
    raise AssertionError(f"still {limit.limit} after {at_most} windows")


few = st.integers(0, 40)
counts = few | st.integers(0, 10**15)
times = st.none() | st.floats(0.0, 1e9)
usual_times = st.floats(1e-3, 10.0)
any_window = st.builds(
    window,
    counts,
    bad=counts,
    timed_out=counts,
    throttled=counts,
    peak=counts,
    latency=times,
    shortest=times,
    quantile=times,
)
usual_window = st.builds(
    window,
    few,
    bad=few,
    timed_out=few,
    throttled=few,
    peak=st.integers(1, 300),
    latency=usual_times,
    shortest=st.none() | usual_times,
)
histories = st.lists(usual_window, max_size=200)
ranges = st.tuples(st.floats(0.01, 1000), st.floats(1, 1000), st.floats(0.01, 1000)).map(
    lambda three: dict(zip(("min_limit", "initial", "max_limit"), sorted(three), strict=True))
)
"""Keywords for a limit; the highest may be below one, which is refused."""
