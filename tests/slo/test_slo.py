"""What users see of an objective: its settings, its counters, what it says and what telemetry reads."""

import os
import sys
import threading
from datetime import timedelta

import pytest

from resilience import ConfigError
from resilience.slo import SLO
from resilience.slo._duration import seconds_of, text_of


def made(**settings):
    return SLO(**{"name": "checkout", "objective": 0.99, "window": "1h", "minimum_events": 1, **settings})


def problems(**settings):
    with pytest.raises(ConfigError) as caught:
        made(**settings)
    return [problem.setting for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5m", 300),
        ("1h", 3_600),
        ("1h30m", 5_400),
        ("30d", 2_592_000),
        ("4w", 2_419_200),
        ("1y", 31_536_000),
        ("90s", 90),
    ],
)
def test_a_window_is_written_as_prometheus_writes_it(text, seconds):
    assert seconds_of(text) == seconds
    assert made(window=text).window == text


def test_a_window_may_be_a_timedelta_or_seconds():
    assert made(window=timedelta(days=30)).window == "30d"
    assert made(window=5_400).window == "1h30m"
    assert seconds_of(text_of(93_784)) == 93_784


@pytest.mark.parametrize(
    "window",
    [
        "",
        "1",
        "h",
        "1 h",
        "30m1h",
        "1h1h",
        "1.5h",
        "-1h",
        "1H",
        "1M",
        None,
        True,
        float("nan"),
        float("inf"),
        b"1h",
        "59s",
        59.9,
        0,
        -60,
        "366d",
        "9999999999d",
    ],
)
def test_any_other_window_is_an_error(window):
    assert problems(window=window) == ["window"]


@pytest.mark.parametrize("objective", [0, 1, 0.0, 1.0, 99.9, -0.1, float("nan"), "0.9", None, True])
def test_an_objective_leaves_something_and_asks_for_something(objective):
    assert problems(objective=objective) == ["objective"]


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "é", None, 3])
def test_a_name_is_fit_for_telemetry(name):
    assert problems(name=name) == ["name"]


def test_all_that_is_wrong_is_said_at_once():
    wrong = {
        "name": "",
        "objective": 1,
        "window": "x",
        "route": "orders",
        "latency_threshold": 0,
        "minimum_events": 0,
    }
    assert problems(**wrong) == list(wrong)


def test_events_are_counted_from_the_start():
    slo = made()
    for _ in range(3):
        slo.good()
    slo.bad()
    assert (slo.good_events, slo.bad_events) == (3, 1)


def test_a_window_that_reaches_back_before_the_start_has_no_burn_rate(fake_clock):
    slo = made()
    fake_clock.advance(290.0)
    slo.bad()
    assert slo.burn_rate("5m") is None
    fake_clock.advance(10.5)
    assert slo.burn_rate("5m") == pytest.approx(100.0)
    assert slo.budget_spent() is slo.budget_remaining() is None


def test_a_budget_is_spent_by_bad_events_and_comes_back_with_time(fake_clock):
    slo = made(objective=0.9)
    fake_clock.advance(3_600.0)
    for _ in range(19):
        slo.good()
    slo.bad()
    assert slo.burn_rate("5m") == pytest.approx(0.5)
    assert slo.budget_spent() == pytest.approx(0.5)
    assert slo.budget_remaining() == pytest.approx(0.5)
    slo.bad()
    slo.bad()
    assert slo.budget_remaining() < 0
    fake_clock.advance(3_610.0)
    slo.good()
    assert slo.budget_remaining() == 1.0


def test_too_few_events_say_nothing(fake_clock):
    slo = made(minimum_events=2)
    fake_clock.advance(3_600.0)
    slo.bad()
    assert slo.burn_rate() is slo.burn_rate("5m") is slo.budget_remaining() is None
    slo.bad()
    assert slo.burn_rate() == slo.burn_rate("5m") == pytest.approx(100.0)


@pytest.mark.parametrize("window", ["2h", "10s", "hour", None, 3_600.1])
def test_a_burn_rate_is_asked_for_a_window_that_is_kept(window):
    if window is None:
        assert made().burn_rate(window) is None  # since the start: nothing came yet
    else:
        with pytest.raises(ConfigError, match="window"):
            made().burn_rate(window)


def test_telemetry_reads_zeros_from_the_start():
    readings = {(one.metric, one.attributes): one.value for one in made().readings()}
    assert readings == {
        ("resilience.sli.events", (("resilience.sli.result", "good"),)): 0,
        ("resilience.sli.events", (("resilience.sli.result", "bad"),)): 0,
        ("resilience.slo.objective", (("resilience.slo.window", "1h"),)): 0.99,
    }


def test_telemetry_reads_burn_rates_once_they_are_known(fake_clock):
    slo = made()
    fake_clock.advance(3_600.0)
    slo.bad()
    rates = {
        (one.metric.removeprefix("resilience.error_budget."), dict(one.attributes)["resilience.slo.window"])
        for one in slo.readings()
        if one.metric.startswith("resilience.error_budget.")
    }
    assert rates == {("burn_rate", "5m"), ("burn_rate", "30m"), ("burn_rate", "1h"), ("utilization", "1h")}


def test_a_usual_objective_reports_no_more_series_than_the_registry_allows(fake_clock):
    slo = made(window="30d")
    fake_clock.advance(30 * 86_400.0)
    slo.bad()
    rates = [one for one in slo.readings() if one.metric.startswith("resilience.error_budget.")]
    assert len(rates) <= 14
    assert all(one.is_level for one in rates)


def test_what_is_counted_by_threads_is_counted_once_each():
    slo = made()
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [
            threading.Thread(target=lambda: [slo.good() or slo.bad() for _ in range(20_000)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(switch)
    assert (slo.good_events, slo.bad_events) == (80_000, 80_000)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_process_begins_anew():
    slo = made()
    slo.bad()
    child = os.fork()
    if not child:
        status = 1
        try:
            slo.good()
            status = 0 if (slo.good_events, slo.bad_events) == (1, 0) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert slo.bad_events == 1
