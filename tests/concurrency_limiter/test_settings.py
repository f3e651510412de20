"""What may be set on a concurrency limiter, and what may not."""

import dataclasses

import pytest

from resilience.concurrency_limiter import ConcurrencyLimiter
from resilience.concurrency_limiter._limit import FixedLimit, Limit, Sample
from resilience.concurrency_limiter._settings import ConcurrencyLimiterSettings
from resilience.errors import ConfigError
from resilience.priority import Priority

NAN, INF = float("nan"), float("inf")


class Learning:
    window = 1.0

    def __init__(self, limit=20, window=1.0):
        self.limit = limit
        self.window = window

    def on_sample(self, sample):
        self.limit += 1


def problems(**settings):
    with pytest.raises(ConfigError) as caught:
        ConcurrencyLimiterSettings(**settings)
    assert caught.value.subject == "ConcurrencyLimiter"
    return [problem.setting for problem in caught.value.problems]


def test_the_defaults_work():
    settings = ConcurrencyLimiterSettings()
    assert settings.limit == 20
    assert settings.max_queue == 0
    assert settings.max_wait == 0.0
    assert settings.make_limit().limit == 20
    assert (settings.order, settings.shares, settings.share_of) == ("fifo", None, None)


def test_settings_are_frozen_and_keyword_only():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ConcurrencyLimiterSettings().limit = 2
    with pytest.raises(TypeError):
        ConcurrencyLimiterSettings(20)


@pytest.mark.parametrize(
    "value",
    [NAN, INF, -INF, -1, -0.5, True, "1", None, (), 1j],
    ids=lambda value: f"{type(value).__name__} {value}",
)
@pytest.mark.parametrize("setting", [field.name for field in dataclasses.fields(ConcurrencyLimiterSettings)])
def test_no_setting_takes_what_is_not_a_sensible_value(setting, value):
    if value is None and setting in {"shares", "share_of"}:
        assert getattr(ConcurrencyLimiterSettings(), setting) is None
        return
    assert problems(**{setting: value}) == [setting]


def test_one_of_each_is_enough():
    settings = ConcurrencyLimiterSettings(limit=1, max_queue=1, max_wait=0.001)
    assert (settings.limit, settings.max_queue, settings.max_wait) == (1, 1, 0.001)
    assert ConcurrencyLimiterSettings(limit=Learning(limit=1)).make_limit().limit == 1


@pytest.mark.parametrize("limit", [0, 2.5])
def test_a_limit_is_a_whole_number_of_at_least_one(limit):
    assert problems(limit=limit) == ["limit"]


def test_a_queue_without_a_wait_and_a_wait_without_a_queue_contradict_themselves():
    assert problems(max_queue=3) == ["max_wait"]
    assert problems(max_wait=0.5) == ["max_queue"]
    settings = ConcurrencyLimiterSettings(max_queue=3, max_wait=0.5)
    assert (settings.max_queue, settings.max_wait) == (3, 0.5)


# --- order and shares ---


def test_the_last_to_come_can_go_first_only_if_there_is_a_line():
    assert problems(order="adaptive_lifo") == ["order"]
    assert problems(order="lifo") == ["order"]
    settings = ConcurrencyLimiterSettings(order="adaptive_lifo", max_queue=2, max_wait=1.0)
    assert settings.order == "adaptive_lifo"


@pytest.mark.parametrize("shares", [{}, [], ["live"], {"live"}, "live", {None: 0.5}])
def test_shares_are_a_mapping_of_at_least_one_key(shares):
    assert problems(shares=shares, share_of=str) == ["shares"]


@pytest.mark.parametrize("share", [NAN, INF, -INF, 0, -0.1, 1.1, True, "1", None])
def test_every_share_is_a_number_above_zero_and_at_most_one(share):
    assert problems(shares={"live": 0.5, "batch": share}, share_of=str) == ["shares['batch']"]


@pytest.mark.parametrize("shares", [(0.7, 0.4), (0.6, 0.3, 0.2), (1.0, 1e-6)])
def test_shares_are_one_in_all_at_most(shares):
    assert problems(shares=dict(enumerate(shares)), share_of=int) == ["shares"]


@pytest.mark.parametrize(
    "shares", [(1,), (0.7, 0.3), (0.1,) * 10, (0.7, 0.2, 0.1), (1 / 3,) * 3, (0.01,) * 100]
)
def test_shares_that_are_one_in_all_but_for_rounding_are_right(shares):
    assert ConcurrencyLimiterSettings(shares=dict(enumerate(shares)), share_of=int).shares == dict(
        enumerate(shares)
    )


def test_shares_do_not_change_with_what_they_were_made_from():
    shares = {"live": 0.7}
    settings = ConcurrencyLimiterSettings(shares=shares, share_of=str)
    shares["batch"] = 0.9
    assert settings.shares == {"live": 0.7}


def test_a_function_that_tells_shares_needs_some_and_is_plain():
    async def share_of(*args):
        return "live"

    assert problems(share_of=str) == ["share_of"]
    assert problems(share_of=share_of, shares={"live": 1}) == ["share_of"]


def test_shares_by_priority_need_no_function_and_others_do():
    shares = {Priority.HIGH: 0.5, Priority.LOW: 0.1}
    assert ConcurrencyLimiter(shares=shares).settings.shares == shares
    for wrong in ({"live": 0.5}, {Priority.HIGH: 0.5, "high": 0.1}):
        with pytest.raises(ConfigError) as caught:
            ConcurrencyLimiter(shares=wrong, limit=0)
        assert [problem.setting for problem in caught.value.problems] == ["limit", "share_of"]
    with pytest.raises(ConfigError, match="share_of must be given, unless all keys of shares are priorities"):
        ConcurrencyLimiter(shares={"live": 0.5})


def test_every_problem_is_listed_at_once():
    assert problems(limit=0, max_queue=-1, max_wait=NAN) == ["limit", "max_queue", "max_wait"]


def test_what_learns_a_limit_may_be_given_in_its_place():
    learning = Learning()
    assert isinstance(learning, Limit)
    assert ConcurrencyLimiterSettings(limit=learning).make_limit() is learning
    assert ConcurrencyLimiterSettings(limit=FixedLimit(3)).make_limit().limit == 3
    assert ConcurrencyLimiterSettings(limit=Learning(window=None, limit=1.5)).make_limit().window is None


@pytest.mark.parametrize("start", [NAN, 0, -1, True, "1", None])
def test_what_learns_a_limit_must_start_with_one(start):
    assert problems(limit=Learning(limit=start)) == ["limit.limit"]


@pytest.mark.parametrize("window", [NAN, INF, -0.1, -1, True, "1"])
def test_what_learns_a_limit_must_say_over_what_time(window):
    assert problems(limit=Learning(window=window)) == ["limit.window"]


@pytest.mark.parametrize(("needs_latency", "quantile"), [(1, None), ("no", None), (None, None), (False, 0.9)])
def test_what_learns_a_limit_says_whether_it_needs_times(needs_latency, quantile):
    learning = Learning()
    learning.needs_latency, learning.quantile = needs_latency, quantile
    assert problems(limit=learning) == ["limit.needs_latency"]


class Unreadable(Learning):
    @property
    def window(self):
        raise LookupError("no window")

    @window.setter
    def window(self, value): ...


def test_what_learns_a_limit_must_be_readable():
    with pytest.raises(
        ConfigError, match=r"Limit that can be read, not one that raises LookupError.'no window'., got"
    ):
        ConcurrencyLimiterSettings(limit=Unreadable())


def test_a_class_is_no_limit():
    class Halving(Learning):
        limit = 20

    with pytest.raises(ConfigError, match=r"or a Limit, not its class: write Halving\(\), got"):
        ConcurrencyLimiterSettings(limit=Halving)


def test_what_learns_a_limit_must_be_told_in_a_plain_method():
    class Waiting(Learning):
        async def on_sample(self, sample): ...

    class Deaf(Learning):
        on_sample = 3

    for limit in (Waiting(), Deaf()):
        with pytest.raises(
            ConfigError, match=r"limit.on_sample must be a plain method: nobody would await it"
        ):
            ConcurrencyLimiterSettings(limit=limit)


def test_a_fixed_limit_stays():
    limit = FixedLimit(7)
    assert isinstance(limit, Limit)
    assert limit.window is None
    sample = Sample(now=1.0, good=1, bad=2, timed_out=3, throttled=4, peak=5, mean=None, shortest=None)
    assert sample.calls == 10
    limit.on_sample(sample)
    assert limit.limit == 7
    assert repr(limit) == "FixedLimit(7)"


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, None, NAN])
def test_a_fixed_limit_is_a_whole_number_of_at_least_one(limit):
    with pytest.raises(ConfigError, match="FixedLimit: limit must be a whole number >= 1"):
        FixedLimit(limit)
