"""What may be set on a circuit breaker, and what may not."""

import dataclasses

import pytest

from resilience.circuit_breaker._settings import Break, CircuitBreakerSettings
from resilience.errors import ConfigError

NAN, INF = float("nan"), float("inf")


def problems(**settings):
    with pytest.raises(ConfigError) as caught:
        CircuitBreakerSettings(**settings)
    assert caught.value.subject == "CircuitBreaker"
    return [problem.setting for problem in caught.value.problems]


def test_the_defaults_work():
    settings = CircuitBreakerSettings()
    assert settings.failure_ratio == 0.5
    assert settings.minimum_throughput == 20
    assert settings.window_duration == 30.0
    assert settings.sampling_calls is None
    assert settings.consecutive_failures is None
    assert settings.slow_call_duration is None
    assert settings.slow_call_ratio == 1.0
    assert settings.break_duration == 5.0
    assert settings.break_factor == 2.0
    assert settings.max_break_duration == 60.0
    assert settings.break_jitter == 0.2
    assert settings.probes == settings.needed_successes == 1
    assert settings.required_successes is None
    assert settings.probe_timeout == 60.0
    assert settings.ramp_duration == 0.0
    assert settings.open_on_throttle is False


def test_settings_are_frozen_and_keyword_only():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CircuitBreakerSettings().probes = 2
    with pytest.raises(TypeError):
        CircuitBreakerSettings(0.5)


@pytest.mark.parametrize(
    "value",
    [NAN, INF, -INF, -1, -0.5, True, "1", (), 1j],
    ids=lambda value: f"{type(value).__name__} {value}",
)
@pytest.mark.parametrize("setting", [field.name for field in dataclasses.fields(CircuitBreakerSettings)])
def test_no_setting_takes_what_is_not_a_sensible_number(setting, value):
    if setting == "open_on_throttle" and value is True:
        value = 1
    assert setting in problems(**{setting: value})


@pytest.mark.parametrize(
    "setting",
    [
        "minimum_throughput", "slow_call_ratio", "break_duration", "break_factor", "max_break_duration",
        "break_jitter", "probes", "probe_timeout", "ramp_duration", "open_on_throttle",
    ],
)  # fmt: skip
def test_what_is_always_needed_cannot_be_none(setting):
    assert problems(**{setting: None}) == [setting]


@pytest.mark.parametrize(
    "settings",
    [
        {"failure_ratio": 1e-9}, {"failure_ratio": 1}, {"failure_ratio": None, "consecutive_failures": 1},
        {"minimum_throughput": 1}, {"sampling_duration": 0.001}, {"sampling_calls": 20},
        {"sampling_calls": 1, "minimum_throughput": 1}, {"slow_call_duration": 1e-9}, {"slow_call_ratio": 1e-9},
        {"slow_call_ratio": 1}, {"break_duration": 1e-9}, {"break_duration": 60}, {"break_factor": 1},
        {"max_break_duration": 5.0}, {"max_break_duration": 86_400}, {"break_jitter": 0}, {"break_jitter": 1},
        {"probes": 3, "required_successes": 1}, {"probes": 3, "required_successes": 3}, {"probe_timeout": 1e-9},
        {"ramp_duration": 0}, {"open_on_throttle": True}, {"failure_ratio": None, "open_on_throttle": True},
        {"failure_ratio": None, "slow_call_duration": 1.0},
        {"break_duration": lambda _: 1.0, "max_break_duration": 0.5},
    ],
    ids=str,
)  # fmt: skip
def test_the_edges_of_each_range_belong_to_it(settings):
    made = CircuitBreakerSettings(**settings)
    assert {name: getattr(made, name) for name in settings} == settings


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"failure_ratio": 0}, "failure_ratio must be a number in (0, 1] or None, got 0"),
        ({"failure_ratio": 1.001}, "failure_ratio must be a number in (0, 1] or None, got 1.001"),
        ({"minimum_throughput": 0}, "minimum_throughput must be a whole number >= 1, got 0"),
        ({"sampling_duration": 0.0009}, "sampling_duration must be a finite number >= 0.001, got 0.0009"),
        ({"sampling_calls": 0}, "sampling_calls must be a whole number >= 1 and <= 1000000 or None, got 0"),
        ({"consecutive_failures": 0}, "consecutive_failures must be a whole number >= 1 or None, got 0"),
        (
            {"slow_call_duration": 0},
            "slow_call_duration must be a finite number of seconds > 0 or None, got 0",
        ),
        ({"slow_call_ratio": 0}, "slow_call_ratio must be a number in (0, 1], got 0"),
        ({"break_duration": 0}, "break_duration must be a finite number of seconds > 0, got 0"),
        ({"break_factor": 0.99}, "break_factor must be a finite number >= 1, got 0.99"),
        (
            {"max_break_duration": 86_401},
            "max_break_duration must be a finite number > 0 and <= 86400, got 86401",
        ),
        ({"break_jitter": 1.01}, "break_jitter must be a number in [0, 1], got 1.01"),
        ({"probes": 0}, "probes must be a whole number >= 1, got 0"),
        ({"required_successes": 0}, "required_successes must be a whole number >= 1, got 0"),
        ({"probe_timeout": 0}, "probe_timeout must be a finite number of seconds > 0, got 0"),
        ({"probes": 1.0}, "probes must be a whole number >= 1, got 1.0"),
    ],
    ids=str,
)
def test_what_lies_beyond_a_range_is_an_error_that_says_so(settings, expected):
    with pytest.raises(ConfigError) as caught:
        CircuitBreakerSettings(**settings)
    assert str(caught.value) == f"CircuitBreaker: {expected}"


def test_a_window_is_of_time_or_of_calls():
    assert problems(sampling_duration=30.0, sampling_calls=100) == ["sampling_duration"]
    with pytest.raises(ConfigError, match="must be None when sampling_calls is given"):
        CircuitBreakerSettings(sampling_duration=30.0, sampling_calls=100)


def test_a_window_of_calls_has_no_duration():
    assert CircuitBreakerSettings(sampling_calls=100).window_duration is None
    assert CircuitBreakerSettings(sampling_duration=7.0).window_duration == 7.0


def test_a_window_of_calls_must_be_able_to_hold_the_minimum_throughput():
    with pytest.raises(ConfigError, match=r"minimum_throughput must be <= sampling_calls \(19\), got 20"):
        CircuitBreakerSettings(sampling_calls=19)


def test_a_round_cannot_need_more_good_probes_than_it_has():
    with pytest.raises(ConfigError, match=r"required_successes must be <= probes \(2\), got 3"):
        CircuitBreakerSettings(probes=2, required_successes=3)
    assert CircuitBreakerSettings(probes=3).needed_successes == 3
    assert CircuitBreakerSettings(probes=3, required_successes=2).needed_successes == 2


def test_the_longest_break_cannot_be_shorter_than_the_first():
    with pytest.raises(ConfigError, match=r"max_break_duration must be >= break_duration \(61\), got 60.0"):
        CircuitBreakerSettings(break_duration=61.0)


def test_the_longest_break_with_jitter_is_known():
    assert CircuitBreakerSettings(max_break_duration=10.0, break_jitter=0.5).longest_break == 15.0


def test_a_circuit_that_nothing_opens_is_an_error():
    with pytest.raises(ConfigError, match="nothing opens this circuit"):
        CircuitBreakerSettings(failure_ratio=None)


def test_one_error_lists_every_problem_in_the_order_of_the_settings():
    found = problems(
        failure_ratio=2, sampling_duration=NAN, sampling_calls=0, break_factor=0, probes=0, ramp_duration=-1
    )
    assert found == [
        "failure_ratio", "sampling_duration", "sampling_duration", "sampling_calls", "break_factor", "probes",
        "ramp_duration",
    ]  # fmt: skip


def test_a_break_is_a_plain_value():
    assert Break(1, 0.5, 3) == Break(attempt=1, failure_ratio=0.5, failures=3, retry_after=None)


def test_a_window_of_calls_has_a_largest_size():
    assert CircuitBreakerSettings(sampling_calls=1_000_000).sampling_calls == 1_000_000
    with pytest.raises(
        ConfigError, match=r"sampling_calls must be a whole number >= 1 and <= 1000000 or None"
    ):
        CircuitBreakerSettings(sampling_calls=1_000_001)
