"""What may be set on a rate limiter, and what may not."""

import dataclasses

import pytest

from resilience.errors import ConfigError
from resilience.rate_limiter._settings import RateLimiterSettings

NAN, INF = float("nan"), float("inf")


def problems(**settings):
    with pytest.raises(ConfigError) as caught:
        RateLimiterSettings(**settings)
    assert caught.value.subject == "RateLimiter"
    return [problem.setting for problem in caught.value.problems]


def test_the_defaults_work():
    settings = RateLimiterSettings()
    assert settings.rate == 100
    assert settings.per == 1.0
    assert settings.burst is None
    assert settings.capacity == 100
    assert settings.permits_per_second == 100.0
    assert settings.max_wait == 0.0
    assert settings.algorithm == "gcra"
    assert settings.key is None
    assert settings.max_keys == 10_000


def test_settings_are_frozen_and_keyword_only():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RateLimiterSettings().rate = 2
    with pytest.raises(TypeError):
        RateLimiterSettings(100)


@pytest.mark.parametrize(
    ("rate", "per", "burst", "capacity"),
    [
        (100, 1.0, None, 100),
        (100, 60.0, None, 100),
        (2.5, 1.0, None, 2),
        (0.5, 1.0, None, 1),
        (0.5, 1.0, 7, 7),
        (9, 1.0, 1, 1),
    ],
)
def test_the_burst_is_the_permits_of_one_period_unless_it_is_given(rate, per, burst, capacity):
    assert RateLimiterSettings(rate=rate, per=per, burst=burst).capacity == capacity


@pytest.mark.parametrize(
    "value",
    [NAN, INF, -INF, -1, -0.5, True, "1", (), 1j],
    ids=lambda value: f"{type(value).__name__} {value}",
)
@pytest.mark.parametrize("setting", [field.name for field in dataclasses.fields(RateLimiterSettings)])
def test_no_setting_takes_what_is_not_sensible(setting, value):
    assert problems(**{setting: value}) == [setting]


@pytest.mark.parametrize("setting", ["rate", "per", "burst", "max_keys"])
def test_zero_is_refused_where_it_means_nothing(setting):
    assert problems(**{setting: 0}) == [setting]


@pytest.mark.parametrize("setting", ["rate", "per", "max_wait", "algorithm", "max_keys"])
def test_none_is_refused_where_it_means_nothing(setting):
    assert problems(**{setting: None}) == [setting]


@pytest.mark.parametrize(("rate", "per"), [(1e-10, 1.0), (1.1e9, 1.0), (100, 1e-9), (1, 1.1e9)])
def test_a_rate_that_the_clock_cannot_tell_is_refused(rate, per):
    assert problems(rate=rate, per=per) == ["rate"]


def test_the_slowest_and_the_fastest_rate_work():
    assert RateLimiterSettings(rate=1e-9).permits_per_second == 1e-9
    assert RateLimiterSettings(rate=1e9).permits_per_second == 1e9


def test_a_burst_that_cannot_be_counted_exactly_is_refused():
    assert RateLimiterSettings(burst=10**12).capacity == 10**12
    assert problems(burst=10**12 + 1) == ["burst"]


@pytest.mark.parametrize("algorithm", ["sliding_window", "fixed_window"])
def test_windows_take_neither_fractions_nor_a_burst_nor_keys(algorithm):
    assert problems(algorithm=algorithm, rate=2.5, burst=3, key=len) == ["rate", "burst", "key"]
    assert RateLimiterSettings(algorithm=algorithm, rate=2.0).capacity == 2


def test_a_sliding_window_remembers_a_million_permits_at_most():
    assert RateLimiterSettings(algorithm="sliding_window", rate=1_000_000).capacity == 1_000_000
    assert problems(algorithm="sliding_window", rate=1_000_001) == ["rate"]
    assert RateLimiterSettings(algorithm="fixed_window", rate=1_000_001).capacity == 1_000_001


def test_a_rate_that_is_wrong_already_is_not_complained_about_twice():
    assert problems(algorithm="sliding_window", rate=NAN) == ["rate"]
    assert problems(rate=0, per=0) == ["rate", "per"]


def test_every_problem_is_listed_at_once():
    found = problems(rate=0, per=-1, burst=0, max_wait=NAN, algorithm="leaky", key=3, max_keys=0)
    assert found == ["rate", "per", "burst", "max_wait", "algorithm", "key", "max_keys"]


def test_the_error_says_which_algorithms_there_are():
    with pytest.raises(
        ConfigError, match=r"algorithm must be 'gcra', 'sliding_window' or 'fixed_window', got 'x'"
    ):
        RateLimiterSettings(algorithm="x")
