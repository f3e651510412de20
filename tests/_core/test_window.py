"""Windows: exact at the resolution of a bucket, and in what order it does not matter who counts."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience._core.window import CountWindow, TimeWindow


def good(window, now, times=1):
    """Count good results the way generated code does."""
    for _ in range(times):
        if now >= window.end:
            window.rotate(now)
        window.cell.good += 1


def bad(window, now, times=1):
    for _ in range(times):
        window.add(now, bad=True)


# Time


def test_results_leave_a_time_window_bucket_by_bucket():
    """breaker-1: pairs every two seconds, read two seconds after each pair (Polly)."""
    window = TimeWindow(10.0)
    read = []
    for at, failures in [(0.0, 1), (2.0, 1), (4.0, 0), (6.0, 0), (8.0, 0)]:
        bad(window, at, failures)
        good(window, at, 2 - failures)
        read.append(window.count(at + 2.0)[:2])
    read.append(window.count(12.0)[:2])
    assert read == [(2, 1), (4, 2), (6, 2), (8, 2), (8, 1), (6, 0)]


@pytest.mark.parametrize("idle", [10.0, 10.001, 1e9])
def test_a_time_window_is_empty_after_nothing_happened_for_its_length(idle):
    """breaker-2 (Polly)."""
    window = TimeWindow(10.0)
    bad(window, 0.0)
    good(window, 0.0)
    assert window.count(idle) == (0, 0, 0)


def test_a_result_is_kept_until_its_bucket_leaves_the_window():
    window = TimeWindow(10.0)
    bad(window, 0.75)
    assert window.count(9.999) == (1, 1, 0)
    assert window.count(10.0) == (0, 0, 0)


def test_buckets_are_aligned_to_multiples_of_their_length():
    """timed_window/failsafe_4x1s (failsafe-go)."""
    window = TimeWindow(4.0, buckets=4)
    read = []
    for at, ok, fail in [
        (0.9, 10, 40), (1.0, 10, 0), (2.5, 0, 20), (3.1, 5, 20), (5.4, 8, 0), (7.3, 0, 5), (22.5, 0, 0), (23.1, 3, 0),
    ]:  # fmt: skip
        good(window, at, ok)
        bad(window, at, fail)
        total, failed, _ = window.count(at)
        read.append((total - failed, failed))
    assert read == [(10, 40), (20, 40), (20, 60), (25, 80), (13, 40), (8, 5), (0, 0), (3, 0)]


def test_old_failures_give_way_to_newer_results():
    """success_rate_window/recover (linkerd)."""
    window = TimeWindow(10.0)
    bad(window, 0.0, 2)
    assert window.count(0.0) == (2, 2, 0)
    good(window, 6.0, 8)
    assert window.count(6.0) == (10, 2, 0)
    good(window, 11.0)
    assert window.count(11.0) == (9, 0, 0)


def test_a_window_of_milliseconds_survives_two_idle_months():
    """success_rate_window/huge_idle_gap (linkerd)."""
    window = TimeWindow(0.01)
    bad(window, 0.0)
    good(window, 5_184_000.0)
    bad(window, 5_184_000.001)
    good(window, 5_184_000.002)
    assert window.count(5_184_000.002) == (3, 1, 0)


def test_a_time_window_starts_at_any_instant_even_a_negative_one():
    window = TimeWindow(10.0)
    assert window.end == -math.inf
    bad(window, -0.5)
    assert window.end == 0.0
    assert window.count(9.0) == (0, 0, 0)


def test_rotating_within_a_bucket_changes_nothing():
    window = TimeWindow(10.0)
    bad(window, 5.0)
    window.rotate(4.0)
    window.rotate(5.999)
    assert window.end == 6.0
    assert window.count(5.999) == (1, 1, 0)


@pytest.mark.parametrize(("width", "bucket"), [(0.7, 9), (0.02, 7), (0.1, 7), (1.1, 3)])
def test_a_bucket_begins_exactly_where_the_one_before_it_ended(width, bucket):
    start = bucket * width
    window = TimeWindow(width, buckets=1)
    window.rotate(math.nextafter(start, 0.0))
    assert window.end == start
    window.rotate(start)
    assert window.end == (bucket + 1) * width


def test_a_bound_that_was_rounded_down_does_not_stall_the_window():
    widths = [step / 100 for step in range(1, 300)]
    rounded = [(k, w) for w in widths for k in range(1, 60) if int((k * w) // w) != k]
    assert rounded, "this arithmetic has no such bound; choose other widths"
    for bucket, width in rounded:
        window = TimeWindow(width, buckets=1)
        window.rotate(bucket * width)
        assert window.end == (bucket + 1) * width


def test_slow_results_are_counted_beside_good_and_bad_ones():
    window = TimeWindow(10.0)
    window.add(0.0, slow=True)
    window.add(1.0, bad=True, slow=True)
    window.add(1.0)
    assert window.count(1.0) == (3, 1, 2)
    assert window.count(10.0) == (2, 1, 1)
    assert window.count(11.0) == (0, 0, 0)


def test_coming_results_are_counted_but_not_kept():
    for window in (TimeWindow(10.0), CountWindow(4)):
        bad(window, 0.0)
        assert window.count(0.0, coming=2) == (3, 1, 0)
        assert window.count(0.0) == (1, 1, 0)


# Both


@pytest.mark.parametrize("make", [lambda: TimeWindow(10.0), lambda: CountWindow(10)], ids=["time", "calls"])
def test_a_cell_that_was_let_go_is_not_counted_any_more(make):
    window = make()
    good(window, 0.0, 3)
    bad(window, 0.0)
    window.add(0.0, slow=True)
    old = window.cell
    window.renew()
    old.good += 5
    good(window, 0.0)
    assert window.count(0.0) == (6, 1, 1)
    old = window.cell
    window.clear()
    old.good += 5
    assert window.count(0.0) == (0, 0, 0)
    good(window, 0.0)
    bad(window, 0.0)
    assert window.count(0.0) == (2, 1, 0)


@pytest.mark.parametrize("make", [lambda: TimeWindow(10.0), lambda: CountWindow(10)], ids=["time", "calls"])
def test_the_cell_grows_with_good_results_only(make):
    window = make()
    window.add(0.0)
    window.add(0.0, slow=True)
    assert window.cell.good == 2
    window.add(0.0, bad=True)
    window.add(0.0, bad=True, slow=True)
    assert window.cell.good == 2


def test_what_was_counted_before_a_renewal_leaves_the_window_in_its_time():
    window = TimeWindow(10.0)
    good(window, 0.0, 3)
    window.renew()
    good(window, 9.0, 2)
    assert window.count(9.0) == (5, 0, 0)
    assert window.count(10.0) == (2, 0, 0)
    assert window.count(19.0) == (0, 0, 0)


# Calls


def test_a_window_of_calls_holds_the_last_ones():
    """count_window/size4 (Resilience4j)."""
    window = CountWindow(4)
    read = []
    for ok in (False, True, True, True, True):
        (good if ok else bad)(window, 0.0)
        read.append(window.count(0.0)[:2])
    assert read == [(1, 1), (2, 1), (3, 1), (4, 1), (4, 0)]


def test_time_does_not_matter_to_a_window_of_calls():
    window = CountWindow(4)
    bad(window, 0.0)
    window.rotate(1e9)
    assert window.end == math.inf
    assert window.count(1e9) == (1, 1, 0)


def test_a_window_of_calls_stores_no_more_than_its_size():
    window = CountWindow(3)
    for _ in range(100):
        window.add(0.0, bad=True, slow=True)
    assert len(window._bads) == len(window._slows) == 3
    assert window.count(0.0) == (3, 3, 3)


# Against lists of events

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["good", "bad", "slow", "slow bad", "read", "renew"]),
        st.sampled_from([0.0, 0.0, 0.25, 0.75, 1.0, 2.5, 9.0, 9.75, 10.0, 11.0, 1000.0]),
    ),
    max_size=60,
)


def bucket_of(at, width):
    """Return the last k with k * width <= at."""
    k = round(at / width) + 2
    while k * width > at:
        k -= 1
    return k


@given(events=EVENTS, scale=st.sampled_from([1.0, 0.1, 1 / 3]), buckets=st.sampled_from([1, 3, 10]))
def test_a_time_window_agrees_with_a_list_of_events(events, scale, buckets):
    window = TimeWindow(10.0 * scale, buckets)
    width = 10.0 * scale / buckets
    seen = []
    now = 7.0 * scale
    for kind, wait in events:
        now += wait * scale
        if kind == "renew":
            window.renew()
        elif kind == "good":
            good(window, now)
        elif kind != "read":
            window.add(now, bad="bad" in kind, slow="slow" in kind)
        if kind not in ("renew", "read"):
            seen.append((bucket_of(now, width), kind))
        if kind == "read":
            inside = [kind for bucket, kind in seen if bucket > bucket_of(now, width) - buckets]
            expected = (len(inside), sum("bad" in k for k in inside), sum("slow" in k for k in inside))
            assert window.count(now) == expected


@given(events=EVENTS, size=st.sampled_from([1, 2, 5, 20]))
def test_a_window_of_calls_agrees_with_a_list_of_events(events, size):
    window = CountWindow(size)
    seen = []
    for kind, _ in events:
        if kind == "renew":
            window.renew()
        elif kind == "good":
            good(window, 0.0)
        elif kind != "read":
            window.add(0.0, bad="bad" in kind, slow="slow" in kind)
        if kind not in ("renew", "read"):
            seen.append(kind)
        else:
            last = seen[-size:]
            expected = (len(last), sum("bad" in k for k in last), sum("slow" in k for k in last))
            assert window.count(0.0) == expected
