"""What may be set on an adaptive throttle."""

import inspect
import math

import pytest

from resilience.errors import ConfigError
from resilience.throttle import AdaptiveThrottle, AdaptiveThrottleSettings

WRONG_NUMBERS = [0, -1, math.nan, math.inf, -math.inf, True, "1", [1]]


def problems(**settings):
    with pytest.raises(ConfigError) as caught:
        AdaptiveThrottleSettings(**settings)
    assert caught.value.subject == "AdaptiveThrottle"
    return [problem.setting for problem in caught.value.problems]


@pytest.mark.parametrize("setting", ["k", "floor", "minimum_throughput", "sampling_duration"])
@pytest.mark.parametrize("value", WRONG_NUMBERS, ids=repr)
def test_what_is_no_number_in_range_is_refused(setting, value):
    assert problems(**{setting: value}) == [setting]


@pytest.mark.parametrize("setting", ["k", "minimum_throughput", "sampling_duration"])
def test_only_the_floor_may_be_missing(setting):
    assert problems(**{setting: None}) == [setting]
    assert AdaptiveThrottleSettings(floor=None).floor is None


@pytest.mark.parametrize("k", [1, 1.0, 1 / 0.9, 2, 1000.0])
def test_k_is_at_least_one(k):
    assert AdaptiveThrottleSettings(k=k).k == k
    assert problems(k=math.nextafter(1.0, 0.0)) == ["k"]


def test_a_throughput_is_a_whole_number():
    assert AdaptiveThrottleSettings(minimum_throughput=1).minimum_throughput == 1
    assert problems(minimum_throughput=1.5) == ["minimum_throughput"]


def test_a_window_is_at_least_a_millisecond():
    assert AdaptiveThrottleSettings(sampling_duration=0.001).sampling_duration == 0.001
    assert problems(sampling_duration=0.0009) == ["sampling_duration"]


def test_one_error_lists_every_problem():
    assert problems(k=0, floor=0, minimum_throughput=0, sampling_duration=0) == [
        "k",
        "floor",
        "minimum_throughput",
        "sampling_duration",
    ]


def test_the_constructor_has_the_defaults_of_the_settings():
    assert AdaptiveThrottle().settings == AdaptiveThrottleSettings()
    parameters = inspect.signature(AdaptiveThrottle).parameters
    fields = AdaptiveThrottleSettings.__dataclass_fields__
    assert {name: parameters[name].default for name in fields} == {
        name: field.default for name, field in fields.items()
    }


def test_settings_are_frozen():
    with pytest.raises(AttributeError):
        AdaptiveThrottleSettings().k = 3.0
