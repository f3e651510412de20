"""The race and the learnt delay, against naive models."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from resilience.errors import ConfigError
from resilience.hedge import Quantile, quantile
from resilience.hedge._machine import Latencies, Race
from resilience.outcome import Verdict

FAILURES = [Verdict.BAD, Verdict.TIMED_OUT, Verdict.THROTTLED]


# --- the race: sentences -----------------------------------------------------------------------------------------


def test_the_first_attempt_is_due_at_once() -> None:
    race = Race(2)
    assert race.pause(10.0) == 0.0
    assert race.begin(10.0, 0.2) == 1
    assert race.started == 1


def test_the_next_is_due_when_the_last_one_was_given_its_time() -> None:
    race = Race(3)
    race.begin(10.0, 0.25)
    assert race.pause(10.0) == 0.25
    assert race.pause(10.125) == 0.125
    assert race.pause(10.25) == 0.0
    assert race.take_failure() is Verdict.IGNORED
    race.begin(10.5, 1.0)
    assert race.pause(10.5) == 1.0


def test_without_a_delay_only_a_failure_makes_one_due() -> None:
    race = Race(2)
    race.begin(0.0, None)
    assert race.pause(1e9) is None
    race.end(1, Verdict.TIMED_OUT)
    assert race.pause(1e9) == 0.0
    assert race.take_failure() is Verdict.TIMED_OUT


def test_a_failure_makes_the_next_due_at_once() -> None:
    race = Race(3)
    race.begin(0.0, 60.0)
    race.end(1, Verdict.BAD)
    assert race.pause(0.0) == 0.0


def test_two_failures_make_two_due() -> None:
    race = Race(4)
    race.begin(0.0, 0.0)
    race.begin(0.0, 60.0)
    race.end(1, Verdict.BAD)
    race.end(2, Verdict.BAD)
    assert race.take_failure() is Verdict.BAD
    race.begin(0.0, 60.0)
    assert race.pause(0.0) == 0.0
    assert race.take_failure() is Verdict.BAD
    race.begin(0.0, 60.0)
    assert race.pause(0.0) is None


def test_nothing_is_due_once_all_have_started() -> None:
    race = Race(1)
    race.begin(0.0, 0.0)
    assert race.pause(60.0) is None


def test_the_first_good_one_wins() -> None:
    race = Race(2)
    race.begin(0.0, 0.0)
    race.begin(0.0, None)
    race.end(2, Verdict.GOOD)
    assert race.result == 2
    race.end(1, Verdict.GOOD)
    assert race.result == 2
    assert race.pause(0.0) is None


@pytest.mark.parametrize("verdict", [Verdict.IGNORED, Verdict.THROTTLED])
def test_a_refusal_of_the_first_is_the_result(verdict: Verdict) -> None:
    race = Race(2)
    race.begin(0.0, 0.2)
    race.end(1, verdict)
    assert race.result == 1


@pytest.mark.parametrize("verdict", [Verdict.IGNORED, Verdict.THROTTLED])
def test_a_refusal_of_another_lets_who_is_under_way_go_on(verdict: Verdict) -> None:
    race = Race(3)
    race.begin(0.0, 0.2)
    race.begin(0.2, 0.2)
    race.end(2, verdict)
    assert race.result is None
    assert race.pause(9.0) is None
    race.end(1, Verdict.GOOD)
    assert race.result == 1


def test_if_nobody_wins_the_first_is_the_result() -> None:
    race = Race(2)
    race.begin(0.0, 0.0)
    race.begin(0.0, None)
    race.end(2, Verdict.BAD)
    race.end(1, Verdict.BAD)
    assert race.result == 1


def test_a_failure_says_more_than_a_refusal() -> None:
    race = Race(2)
    race.begin(0.0, 0.0)
    race.begin(0.0, None)
    race.end(1, Verdict.IGNORED)
    race.end(2, Verdict.BAD)
    assert race.result == 2


def test_stopping_waits_for_who_is_under_way() -> None:
    race = Race(2)
    race.begin(0.0, 0.0)
    race.stop()
    assert race.pause(0.0) is None
    assert race.result is None
    race.end(1, Verdict.BAD)
    assert race.result == 1


def test_stopping_after_the_last_end_decides() -> None:
    race = Race(2)
    race.begin(0.0, None)
    race.end(1, Verdict.BAD)
    assert race.result is None
    race.stop()
    assert race.result == 1


def test_failures_that_started_nothing_are_left_to_be_told() -> None:
    race = Race(2)
    race.begin(0.0, None)
    race.end(1, Verdict.BAD)
    race.take_failure()
    race.begin(0.0, None)
    race.end(2, Verdict.THROTTLED)
    assert race.failures == [Verdict.THROTTLED]


def test_an_attempt_ends_once() -> None:
    race = Race(2)
    race.begin(0.0, None)
    race.end(1, Verdict.BAD)
    race.end(1, Verdict.GOOD)
    race.end(2, Verdict.GOOD)
    assert race.result is None
    assert race.failures == [Verdict.BAD]


def test_a_clock_that_goes_backwards_stands_still() -> None:
    race = Race(3)
    race.begin(10.0, 1.0)
    assert race.pause(10.5) == 0.5
    assert race.pause(9.0) == 0.5
    race.begin(9.0, 1.0)
    assert race.pause(10.5) == 1.0


# --- the race: a model -------------------------------------------------------------------------------------------


class RaceModel(RuleBasedStateMachine):
    """A race that is retold from its whole history at every look."""

    @initialize(attempts=st.integers(1, 5))
    def start(self, attempts: int) -> None:
        self.race = Race(attempts)
        self.limit = attempts
        self.now = 0.0
        self.begun: list[tuple[float, float | None]] = []
        self.ended: list[tuple[int, Verdict]] = []
        self.answered = 0  # failures for which another attempt was started

    # What the model says.

    def running(self) -> set[int]:
        return set(range(1, len(self.begun) + 1)) - {number for number, _ in self.ended}

    def may_start(self) -> bool:
        refused = any(verdict in (Verdict.IGNORED, Verdict.THROTTLED) for _, verdict in self.ended)
        return len(self.begun) < self.limit and not refused

    def pending(self) -> int:
        failed = sum(verdict in FAILURES for _, verdict in self.ended)
        return failed - self.answered

    def expected_result(self) -> int | None:
        for number, verdict in self.ended:
            if verdict is Verdict.GOOD:
                return number
        if self.running() or self.may_start() or not self.begun:
            return None
        return min((number for number, verdict in self.ended if verdict is not Verdict.IGNORED), default=1)

    def expected_pause(self) -> float | None:
        if self.expected_result() is not None or not self.may_start():
            return None
        if not self.begun or self.pending():
            return 0.0
        at, delay = self.begun[-1]
        return None if delay is None else max(0.0, at + delay - self.now)

    # What happens.

    @precondition(lambda self: self.expected_pause() == 0.0)
    @rule(delay=st.sampled_from([None, 0.0, 0.25, 1.0]))
    def begin(self, delay: float | None) -> None:
        if self.begun:
            verdict = self.race.take_failure()
            assert (verdict is Verdict.IGNORED) is (self.pending() == 0)
            self.answered += verdict is not Verdict.IGNORED
        self.begun.append((self.now, delay))
        assert self.race.begin(self.now, delay) == len(self.begun)

    @precondition(lambda self: self.running() and self.expected_result() is None)
    @rule(data=st.data(), verdict=st.sampled_from(Verdict))
    def end(self, data: st.DataObject, verdict: Verdict) -> None:
        number = data.draw(st.sampled_from(sorted(self.running())))
        self.ended.append((number, verdict))
        self.race.end(number, verdict)

    @rule(number=st.integers(0, 6), verdict=st.sampled_from(Verdict))
    def end_of_a_stranger(self, number: int, verdict: Verdict) -> None:
        if number not in self.running() or self.expected_result() is not None:
            self.race.end(number, verdict)

    @precondition(lambda self: self.begun)
    @rule()
    def stop(self) -> None:
        self.limit = len(self.begun) if self.expected_result() is None else self.limit
        self.race.stop()

    @rule()
    def wait_until_due(self) -> None:
        if pause := self.expected_pause():
            self.now += pause

    @rule(seconds=st.sampled_from([0.0, 0.125, 0.25, 5.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def agree(self) -> None:
        assert self.race.result == self.expected_result()
        assert self.race.pause(self.now) == self.expected_pause()
        assert self.race.pause(self.now - 1.0) == self.expected_pause()
        assert self.race.started == len(self.begun) <= 5
        assert len(self.race.failures) == self.pending()


TestRaceModel = RaceModel.TestCase


# --- the learnt delay --------------------------------------------------------------------------------------------


def latencies(*known: float, **settings: float) -> Latencies:
    learnt = Latencies(Quantile(**settings))  # type: ignore[arg-type]  # whole numbers where they belong
    for seconds in known:
        learnt.add(seconds)
    return learnt


def test_too_few_latencies_make_no_quantile() -> None:
    learnt = latencies(*[0.005] * 19)
    assert learnt.quantile() is None
    learnt.add(0.007)
    assert learnt.quantile() == 0.005


def test_the_quantile_is_the_least_that_enough_do_not_exceed() -> None:
    known = [float(number) for number in range(1, 101)]
    assert latencies(*known, q=0.95).quantile() == 95.0
    assert latencies(*known, q=0.07).quantile() == 7.0  # 0.07 * 100 is a little more than 7 in floats
    assert latencies(*known, q=1).quantile() == 100.0
    assert latencies(*known, q=0.001).quantile() == 1.0


def test_only_the_latest_count() -> None:
    learnt = latencies(*[9.0] * 50, *[1.0] * 50, q=0.95, min_samples=10, samples=50)
    assert learnt.quantile() == 1.0
    assert len(learnt) == 50


def test_what_was_cut_off_beyond_the_quantile_counts() -> None:
    learnt = latencies(*[1.0] * 95, *[3.0] * 5, q=0.95, samples=100)
    assert learnt.quantile() == 1.0
    learnt.cut_off(2.0)
    assert len(learnt) == 100
    assert learnt.quantile() == 2.0


def test_what_was_cut_off_at_the_quantile_counts() -> None:
    learnt = latencies(*[1.0] * 20)
    learnt.cut_off(1.0)
    assert len(learnt) == 21


def test_what_was_cut_off_before_the_quantile_says_nothing() -> None:
    learnt = latencies(*[1.0] * 20)
    learnt.cut_off(0.5)
    assert len(learnt) == 20


def test_what_was_cut_off_while_nothing_is_known_says_nothing() -> None:
    learnt = latencies()
    learnt.cut_off(60.0)
    assert len(learnt) == 0


def test_cutting_off_the_slow_ones_does_not_pull_the_quantile_down() -> None:
    # One call in ten takes 1 s and is given up 10 ms after the quantile. Left out, they would leave nothing
    # but fast ones, and the quantile would fall to 10 ms.
    learnt = latencies(*[0.010] * 18, *[1.0] * 2, q=0.85)
    for number in range(1_000):
        if number % 10:
            learnt.add(0.010)
        else:
            known = learnt.quantile()
            assert known is not None
            learnt.cut_off(min(1.0, known + 0.010))
    assert learnt.quantile() == 0.010
    assert len(learnt) == 200
    assert latencies(*[0.010] * 18, *[0.020] * 2, q=0.95).quantile() == 0.020


def test_new_settings_keep_the_latest_of_what_is_known() -> None:
    learnt = latencies(*[9.0] * 30, *[1.0] * 20, samples=50)
    learnt.configure(quantile(0.9, min_samples=5, samples=20))
    assert len(learnt) == 20
    assert learnt.quantile() == 1.0


@given(
    known=st.lists(st.floats(0.0, 10.0), max_size=60),
    q=st.one_of(st.sampled_from([0.5, 0.9, 0.95, 1.0]), st.floats(0.01, 1.0)),
    least=st.integers(1, 10),
    extra=st.integers(0, 20),
)
def test_it_is_the_quantile_of_the_sorted_latest(
    known: list[float], q: float, least: int, extra: int
) -> None:
    samples = least + extra
    learnt = latencies(*known, q=q, min_samples=least, samples=samples)
    latest = sorted(known[-samples:])
    if len(latest) < least:
        assert learnt.quantile() is None
        return
    answer = learnt.quantile()
    assert answer in latest
    assert sum(each <= answer for each in latest) >= q * len(latest) - 1e-6
    assert sum(each < answer for each in latest) < q * len(latest) + 1e-6


# --- settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("q", [0, -0.1, 1.01, math.nan, math.inf, True, "0.95", None])
def test_a_share_that_is_none_is_refused(q: float) -> None:
    with pytest.raises(ConfigError, match="q must"):
        quantile(q)


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"min_samples": 0}, "min_samples"),
        ({"min_samples": 1.5}, "min_samples"),
        ({"samples": 0}, "samples"),
        ({"samples": 10_001}, "samples"),
        ({"samples": 19}, "samples"),
        ({"min_samples": 300}, "samples"),
    ],
)
def test_counts_that_make_no_sense_are_refused(settings: dict[str, int], wrong: str) -> None:
    with pytest.raises(ConfigError) as caught:
        quantile(**settings)  # type: ignore[arg-type]  # that is the point
    assert [problem.setting for problem in caught.value.problems] == [wrong]


def test_quantile_has_the_defaults_of_its_settings() -> None:
    assert quantile() == Quantile()
