"""The circuit, told the time: conformance cases, one behaviour a test."""

import json
import math
import random
from collections import Counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from resilience._core.permit import Refusal
from resilience._core.window import Cell
from resilience.circuit_breaker._history import CELLS_KEPT, TRANSITIONS_KEPT
from resilience.circuit_breaker._machine import Circuit
from resilience.circuit_breaker._probes import Probe
from resilience.circuit_breaker._settings import Break, CircuitBreakerSettings
from resilience.circuit_breaker._state import CircuitState, Reason, Transition
from resilience.errors import ConfigError
from resilience.outcome import Verdict

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
ISOLATED, DISABLED = CircuitState.ISOLATED, CircuitState.DISABLED
GOOD, BAD, TIMED_OUT, THROTTLED, IGNORED = Verdict
START = 100.0
SNAPSHOT = {"version": 1, "state": "open", "retry_after": 1.0, "attempt": 1, "ramp": 0.0}


class Scene:
    """A circuit and the time of day."""

    def __init__(self, **settings):
        self.now = START
        self.circuit = Circuit(self.settings(**settings), self.now)

    @staticmethod
    def settings(**settings):
        return CircuitBreakerSettings(**{"break_jitter": 0.0, **settings})

    @property
    def state(self):
        return self.circuit.state

    def wait(self, seconds):
        self.now += seconds

    def admit(self, draw=0.0):
        return self.circuit.admit(self.now, draw)

    def admitted(self, draw=0.0):
        token = self.admit(draw)
        assert not isinstance(token, Refusal)
        return token

    def refused(self, draw=0.0):
        refusal = self.admit(draw)
        assert isinstance(refusal, Refusal)
        return refusal.retry_after

    def settle(self, token, verdict=GOOD, **known):
        self.circuit.settle(token, verdict, self.now, **known)
        answer(self.circuit)

    def release(self, token, **how):
        self.circuit.release(token, self.now, **how)

    def call(self, *verdicts, **known):
        for verdict in verdicts:
            self.settle(self.admitted(), verdict, **known)

    def why(self):
        """Return the last transition that was not reported yet."""
        return self.circuit.history.drain()[-1]


def answer(circuit):
    """Let a callable say the length of a break that has just begun, as a policy does."""
    if (pending := circuit.take_pending()) is not None:
        circuit.set_break(pending, *pending.ask())


def tripping(**settings):
    """Return a scene whose circuit opens with the first failure."""
    return Scene(**{"failure_ratio": None, "consecutive_failures": 1, **settings})


def opened(**settings):
    scene = tripping(**settings)
    scene.call(BAD)
    assert scene.state is OPEN
    return scene


def half_open(**settings):
    """Return a scene whose circuit is half-open, with no probe under way."""
    scene = opened(**settings)
    scene.wait(5.0)
    scene.release(scene.admitted())
    assert scene.state is HALF_OPEN
    return scene


# Opening


def test_a_new_circuit_is_closed_and_admits_everybody():
    scene = Scene()
    assert scene.state is CLOSED
    assert all(isinstance(scene.admit(), Cell) for _ in range(100))


def test_it_opens_on_a_success_that_brings_the_throughput():
    """breaker-3 (Resilience4j): fail, fail, fail, ok, ok with at least 5 calls and 50 %."""
    scene = Scene(failure_ratio=0.5, minimum_throughput=5)
    scene.call(BAD, BAD, BAD, GOOD)
    assert scene.state is CLOSED
    scene.call(GOOD)
    assert scene.state is OPEN
    assert scene.circuit.cause == Break(attempt=1, failure_ratio=0.6, failures=3)
    assert scene.refused() == 5.0
    assert scene.circuit.rejected == 1


def test_the_failure_ratio_is_unknown_below_the_minimum_throughput():
    """breaker-4 (Resilience4j)."""
    scene = Scene(failure_ratio=0.5, minimum_throughput=3)
    assert scene.circuit.failure_ratio(scene.now) is None
    scene.call(BAD, GOOD)
    assert scene.circuit.failure_ratio(scene.now) is None
    scene = Scene(failure_ratio=0.5, minimum_throughput=3)
    scene.call(BAD, GOOD, GOOD)
    assert scene.circuit.failure_ratio(scene.now) == 1 / 3
    assert scene.circuit.slow_call_ratio(scene.now) == 0.0
    assert scene.circuit.failure_ratio(scene.now + 30.0) is None


@pytest.mark.parametrize(
    ("ok", "failed", "threshold", "opens"),
    [(10, 0, 0.1, False), (9, 1, 0.1, True), (8, 2, 0.1, True), (9, 2, 0.2, False), (8, 1, 0.1, False)],
)
def test_it_opens_when_both_the_ratio_and_the_throughput_are_reached(ok, failed, threshold, opens):
    """failure_ratio_breaker/polly_trip_matrix, with 11 calls of which 18 % failed added."""
    scene = Scene(failure_ratio=threshold, minimum_throughput=10)
    scene.call(*[GOOD] * ok, *[BAD] * failed)
    assert (scene.state is OPEN) == opens


def test_a_ratio_without_an_exact_binary_form_is_reached_exactly():
    scene = Scene(failure_ratio=0.07, minimum_throughput=100)
    scene.call(*[GOOD] * 93, *[BAD] * 6)
    assert scene.state is CLOSED
    scene.call(BAD)
    assert scene.state is OPEN


def test_a_failure_that_rolled_off_does_not_count():
    """breaker-12 (failsafe-go): two failures within 200 ms open."""
    scene = Scene(failure_ratio=0.6, minimum_throughput=3, sampling_duration=0.2)
    scene.call(BAD, GOOD)
    scene.wait(0.21)
    scene.call(BAD, GOOD)
    scene.wait(0.05)
    assert scene.state is CLOSED
    scene.call(BAD)
    assert scene.state is OPEN


def test_in_a_window_of_calls_the_oldest_result_gives_way():
    scene = Scene(failure_ratio=0.5, sampling_calls=4, minimum_throughput=4)
    scene.call(BAD, GOOD, GOOD, GOOD, BAD, GOOD)
    scene.wait(1e6)
    assert scene.circuit.failure_ratio(scene.now) == 0.25
    scene.call(BAD)
    assert scene.state is OPEN


def test_failures_in_a_row_open():
    """consecutive_failures/trip_on_3rd (Finagle)."""
    scene = Scene(consecutive_failures=3)
    scene.call(BAD, TIMED_OUT)
    assert scene.state is CLOSED
    scene.call(THROTTLED)
    assert scene.state is OPEN
    assert scene.why().reason is Reason.CONSECUTIVE_FAILURES


@pytest.mark.parametrize("window", [{}, {"sampling_calls": 20}], ids=["time", "calls"])
def test_a_success_ends_a_row_of_failures(window):
    """consecutive_failures/success_resets (Finagle)."""
    scene = Scene(consecutive_failures=3, **window)
    scene.call(BAD, BAD, GOOD, BAD, BAD)
    assert scene.state is CLOSED
    scene.call(BAD)
    assert scene.state is OPEN


def test_a_success_counted_by_generated_code_ends_a_row_of_failures():
    scene = Scene(consecutive_failures=2)
    scene.call(BAD)
    scene.circuit.cell.good += 1
    scene.call(BAD)
    assert scene.state is CLOSED


def test_an_ignored_result_does_not_end_a_row_of_failures():
    scene = Scene(consecutive_failures=2)
    scene.call(BAD, IGNORED, BAD)
    assert scene.state is OPEN


def test_time_does_not_end_a_row_of_failures():
    scene = Scene(consecutive_failures=2)
    scene.call(BAD)
    scene.wait(1e6)
    scene.call(BAD)
    assert scene.state is OPEN


def test_without_the_ratio_rule_a_ratio_opens_nothing():
    scene = Scene(failure_ratio=None, consecutive_failures=50, minimum_throughput=1)
    scene.call(*[BAD] * 49)
    assert scene.state is CLOSED
    assert scene.circuit.failure_ratio(scene.now) == 1.0


@pytest.mark.parametrize("verdict", [GOOD, BAD])
def test_slow_calls_open_whether_good_or_bad(verdict):
    scene = Scene(failure_ratio=None, slow_call_duration=1.0, slow_call_ratio=0.5, minimum_throughput=4)
    scene.call(GOOD, GOOD, duration=1.0)
    scene.call(verdict, duration=1.001)
    assert scene.state is CLOSED
    scene.call(verdict, duration=9.0)
    assert scene.state is OPEN
    assert scene.why().reason is Reason.SLOW_CALL_RATIO


def test_the_share_of_slow_calls_is_known_from_the_minimum_throughput_on():
    scene = Scene(slow_call_duration=1.0, minimum_throughput=4)
    scene.call(GOOD, GOOD, GOOD, duration=2.0)
    assert scene.circuit.slow_call_ratio(scene.now) is None
    scene.call(GOOD, duration=1.0)
    assert scene.circuit.slow_call_ratio(scene.now) == 0.75


def test_a_fast_success_may_bring_the_throughput_for_the_slow_ones():
    scene = Scene(slow_call_duration=1.0, slow_call_ratio=0.5, minimum_throughput=2)
    scene.call(GOOD, duration=2.0)
    scene.call(GOOD, duration=0.0)
    assert scene.state is OPEN


def test_a_call_of_unknown_duration_is_not_slow():
    scene = Scene(slow_call_duration=1.0, minimum_throughput=1)
    scene.call(GOOD)
    assert scene.state is CLOSED
    assert scene.circuit.slow_call_ratio(scene.now) == 0.0


def test_a_duration_means_nothing_without_the_slow_call_rule():
    scene = Scene(minimum_throughput=1)
    scene.call(GOOD, duration=1e6)
    assert scene.state is CLOSED


def test_the_ratio_rule_works_beside_the_slow_call_rule():
    scene = Scene(slow_call_duration=1.0, minimum_throughput=2)
    scene.call(GOOD, BAD, duration=0.0)
    assert scene.why().reason is Reason.FAILURE_RATIO


def test_the_causes_of_one_result_are_named_in_order():
    scene = Scene(consecutive_failures=1, minimum_throughput=1, slow_call_duration=1.0)
    scene.call(BAD, duration=2.0)
    assert scene.why().reason is Reason.CONSECUTIVE_FAILURES


# Open


def test_it_admits_a_probe_when_the_break_is_over():
    scene = opened(break_duration=5.0)
    scene.wait(4.5)
    assert scene.refused() == 0.5
    assert scene.state is OPEN
    scene.wait(0.5)
    assert isinstance(scene.admitted(), Probe)
    assert scene.state is HALF_OPEN


def test_breaks_grow_with_each_failed_round():
    """breaker-5 (Resilience4j): 5 s, growing by half."""
    scene = opened(break_duration=5.0, break_factor=1.5)
    scene.wait(3.0)
    scene.refused()
    scene.wait(3.0)
    scene.call(BAD)
    assert scene.state is OPEN
    scene.wait(6.0)
    scene.refused()
    scene.wait(5.0)
    scene.admitted()


def test_the_first_break_comes_again_after_the_circuit_was_closed():
    """breaker-15 (cockatiel): 1 s, then 2 s."""
    scene = opened(break_duration=1.0)
    scene.wait(1.0)
    scene.call(BAD)
    scene.wait(1.0)
    assert scene.refused() == 1.0
    scene.wait(1.0)
    scene.call(GOOD)
    assert scene.state is CLOSED
    scene.call(BAD)
    assert scene.refused() == 1.0


def test_breaks_grow_up_to_the_longest():
    scene = opened(break_duration=5.0, break_factor=2.0, max_break_duration=15.0)
    lengths = []
    for _ in range(4):
        lengths.append(scene.refused())
        scene.wait(lengths[-1])
        scene.call(BAD)
    assert lengths == [5.0, 10.0, 15.0, 15.0]


@pytest.mark.parametrize("attempt", [2_000, 10**400])
def test_a_break_that_grew_beyond_all_numbers_is_the_longest(attempt):
    scene = tripping(max_break_duration=60.0)
    scene.circuit.restore(
        {"version": 1, "state": "open", "retry_after": 0.0, "attempt": attempt, "ramp": 0.0}, scene.now
    )
    scene.call(BAD)
    assert scene.refused() == 60.0


def test_jitter_only_lengthens_a_break():
    for draw, length in [(0.0, 4.0), (0.5, 4.5), (0.75, 4.75)]:
        scene = tripping(break_duration=4.0, break_jitter=0.25)
        scene.call(BAD, draw=draw)
        assert scene.refused() == length
        assert scene.why().retry_after == length


def test_jitter_is_added_to_the_longest_break_too():
    scene = tripping(break_duration=60.0, break_jitter=0.5)
    scene.call(BAD, draw=0.5)
    assert scene.refused() == 75.0


def test_results_that_arrive_while_open_do_not_prolong_the_break():
    """LR-4: a stale failure while OPEN does not push the recovery time out."""
    scene = tripping()
    late = [scene.admitted() for _ in range(3)]
    scene.call(BAD)
    scene.wait(4.0)
    for token in late:
        scene.settle(token, BAD)
    assert scene.refused() == 1.0


def test_a_callable_decides_how_long_the_break_is():
    asked = []

    def plan(cause):
        asked.append(cause)
        return 3.0 * cause.attempt

    scene = Scene(
        failure_ratio=0.5, minimum_throughput=2, break_duration=plan, probes=3, required_successes=2
    )
    scene.call(GOOD, BAD)
    assert scene.refused() == 3.0
    scene.wait(3.0)
    scene.call(GOOD, BAD)
    scene.call(THROTTLED, retry_after=7.0)
    assert scene.refused() == 6.0
    assert asked == [Break(1, 0.5, 1, None), Break(2, 2 / 3, 2, 7.0)]


def test_a_callable_may_ask_for_less_than_a_second():
    scene = tripping(break_duration=lambda _: 0.5)
    scene.call(BAD)
    assert scene.refused() == 0.5


def test_the_break_of_a_callable_does_not_grow_but_is_bounded_and_jittered():
    scene = tripping(break_duration=lambda _: 1e9, max_break_duration=8.0, break_jitter=0.5)
    scene.call(BAD, draw=0.5)
    assert scene.refused() == 10.0
    assert scene.why().problem is None


@pytest.mark.parametrize("answer", [0, -1.0, math.nan, math.inf, None, "5", True])
def test_a_callable_that_returns_no_length_of_time_gets_the_longest_break_and_a_note(answer):
    scene = tripping(break_duration=lambda _: answer, max_break_duration=8.0)
    scene.call(BAD)
    assert scene.refused() == 8.0
    assert scene.why().problem == f"break_duration returned {answer!r}"


def test_a_callable_that_raises_gets_the_longest_break_and_a_note():
    def plan(cause):
        raise LookupError("no plan")

    scene = tripping(break_duration=plan, max_break_duration=8.0)
    scene.call(BAD)
    assert scene.refused() == 8.0
    assert scene.why().problem == "break_duration raised LookupError('no plan')"


def unanswered(**settings):
    """Return a scene whose circuit has opened, and the break whose length nobody has said yet."""
    scene = tripping(**{"break_duration": lambda _: 2.0, "max_break_duration": 8.0, **settings})
    scene.circuit.settle(scene.admitted(), BAD, scene.now)
    return scene, scene.circuit.take_pending()


def test_until_the_callable_has_answered_the_circuit_is_open_for_the_longest_break():
    scene, _ = unanswered()
    assert scene.state is OPEN
    assert scene.refused() == 8.0
    scene.wait(8.0)
    scene.call(GOOD)
    assert scene.state is CLOSED


def test_the_break_counts_from_when_the_circuit_opened_and_not_from_the_answer():
    scene, pending = unanswered()
    scene.wait(0.5)
    scene.circuit.set_break(pending, 2.0, None)
    assert scene.refused() == 1.5


def test_the_callable_is_asked_once_a_break():
    scene, pending = unanswered()
    assert scene.circuit.take_pending() is None
    scene.circuit.set_break(pending, 2.0, None)
    assert scene.circuit.take_pending() is None


def test_an_opening_is_told_with_the_length_that_was_asked_for():
    scene, pending = unanswered()
    assert scene.circuit.drain() == []
    scene.circuit.set_break(pending, 2.0, None)
    assert [(change.state, change.retry_after) for change in scene.circuit.drain()] == [(OPEN, 2.0)]


@pytest.mark.parametrize(
    "order",
    [
        lambda circuit, now: circuit.reset(now),
        lambda circuit, now: circuit.isolate(now),
        lambda circuit, now: circuit.disable(now),
        lambda circuit, now: circuit.restore({**SNAPSHOT, "retry_after": 5.0}, now),
        lambda circuit, now: circuit.after_fork(now),
        lambda circuit, now: circuit.admit(now + 8.0),
    ],
    ids=["reset", "isolate", "disable", "restore", "fork", "half-open"],
)
def test_an_answer_that_comes_after_the_circuit_went_elsewhere_changes_nothing(order):
    scene, pending = unanswered()
    order(scene.circuit, scene.now)
    before = scene.circuit.snapshot(scene.now), scene.circuit.drain()
    scene.circuit.set_break(pending, 1.0, None)
    assert (scene.circuit.snapshot(scene.now), scene.circuit.drain()) == (before[0], [])


def test_an_answer_of_a_former_break_does_not_change_the_next():
    scene, former = unanswered()
    scene.circuit.reset(scene.now)
    scene.circuit.settle(scene.admitted(), BAD, scene.now)
    scene.circuit.set_break(former, 1.0, None)
    assert scene.refused() == 8.0


def test_new_settings_bound_an_answer_that_comes_after_them():
    scene, pending = unanswered()
    scene.circuit.configure(scene.settings(max_break_duration=6.0), scene.now)
    scene.circuit.set_break(pending, 7.0, None)
    assert scene.refused() == 6.0


@pytest.mark.parametrize("verdict", [GOOD, BAD])
def test_an_interrupt_between_an_answer_and_what_it_decides_leaves_room_for_another_probe(
    monkeypatch, verdict
):
    def strike(circuit):
        raise KeyboardInterrupt

    scene = half_open()
    probe = scene.admitted()
    with monkeypatch.context() as struck, pytest.raises(KeyboardInterrupt):
        struck.setattr(Circuit, "_leave", strike)
        scene.settle(probe, verdict)
    scene.release(probe, cancelled=True)
    assert scene.state is HALF_OPEN
    scene.call(GOOD)
    assert scene.state is CLOSED


def test_a_callable_may_change_the_circuit_that_asks_it():
    def plan(cause):
        scene.circuit.isolate(scene.now)
        return 1.0

    scene = tripping(break_duration=plan)
    scene.call(BAD)
    assert scene.state is ISOLATED
    assert [t.state for t in scene.circuit.drain()] == [OPEN, ISOLATED]


# Throttled


def test_a_throttled_result_is_a_bad_one_and_no_more_by_default():
    scene = Scene(minimum_throughput=3)
    scene.call(THROTTLED, retry_after=30.0)
    assert scene.state is CLOSED
    scene.call(THROTTLED, GOOD)
    assert scene.refused() == 5.0


def test_a_throttled_result_may_open_until_its_time():
    scene = Scene(open_on_throttle=True)
    scene.call(THROTTLED, retry_after=3.0)
    assert scene.refused() == 3.0
    assert scene.why().reason is Reason.THROTTLED
    assert scene.circuit.cause == Break(1, 1.0, 1, 3.0)


def test_a_throttled_result_may_ask_for_less_than_a_second():
    scene = Scene(open_on_throttle=True)
    scene.call(THROTTLED, retry_after=0.5)
    assert scene.refused() == 0.5


def test_what_a_throttled_result_asks_for_is_bounded_and_never_shortened():
    scene = Scene(open_on_throttle=True, max_break_duration=8.0, break_jitter=0.5)
    scene.call(THROTTLED, retry_after=100.0, draw=0.5)
    assert scene.refused() == 10.0


@pytest.mark.parametrize("hint", [None, 0.0, -1.0, math.nan])
def test_a_throttled_result_without_a_time_does_not_open(hint):
    scene = Scene(open_on_throttle=True)
    scene.call(THROTTLED, retry_after=hint)
    assert scene.state is CLOSED


@pytest.mark.parametrize("verdict", [GOOD, BAD, TIMED_OUT])
def test_only_a_throttled_result_may_ask_for_a_break(verdict):
    scene = Scene(open_on_throttle=True)
    scene.call(verdict, retry_after=3.0)
    assert scene.state is CLOSED


@pytest.mark.parametrize(("hint", "length"), [(2.0, 5.0), (7.0, 7.0)])
def test_when_the_rules_open_too_the_longer_break_is_taken(hint, length):
    scene = tripping(open_on_throttle=True)
    scene.call(THROTTLED, retry_after=hint)
    assert scene.refused() == length
    assert scene.why().reason is Reason.CONSECUTIVE_FAILURES


def test_a_throttled_probe_ends_the_round_at_once():
    scene = half_open(open_on_throttle=True, probes=3, required_successes=1)
    scene.call(THROTTLED, retry_after=12.0)
    assert scene.refused() == 12.0
    assert scene.why().reason is Reason.PROBES


def test_a_throttled_probe_without_a_time_is_a_bad_one_and_no_more():
    scene = half_open(open_on_throttle=True, probes=3, required_successes=1)
    scene.call(THROTTLED)
    assert scene.state is HALF_OPEN


# Half-open


def test_a_half_open_circuit_has_so_many_places():
    """breaker-6 (Resilience4j): four permits."""
    scene = opened(probes=4)
    scene.wait(5.0)
    tokens = [scene.admit() for _ in range(6)]
    assert [isinstance(token, Probe) for token in tokens] == [True] * 4 + [False] * 2
    scene.release(tokens[0])
    scene.admitted()
    assert scene.refused() == 0.0


def test_the_round_is_decided_as_early_as_arithmetic_allows():
    """breaker-7 (Resilience4j): four probes of which three must be good."""
    scene = half_open(probes=4, required_successes=3)
    scene.call(BAD)
    assert scene.state is HALF_OPEN
    scene.call(BAD)
    assert scene.state is OPEN
    assert scene.circuit.cause == Break(2, 1.0, 2)
    scene = half_open(probes=4, required_successes=3)
    scene.call(BAD, GOOD, GOOD)
    assert scene.state is HALF_OPEN
    scene.call(GOOD)
    assert scene.state is CLOSED
    assert scene.circuit._window.count(scene.now) == (0, 0, 0)


def test_an_ignored_probe_gives_its_place_back_and_teaches_nothing():
    """breaker-8 (Resilience4j), where three good ones of four would have closed it already."""
    scene = half_open(probes=4, required_successes=3)
    scene.call(GOOD, GOOD, IGNORED, BAD)
    assert scene.state is HALF_OPEN
    scene.call(GOOD)
    assert scene.state is CLOSED


@pytest.mark.parametrize(("verdict", "state"), [(GOOD, CLOSED), (BAD, OPEN)])
def test_a_single_probe_decides(verdict, state):
    """breaker-9 (Polly)."""
    scene = opened()
    scene.wait(5.0)
    probe = scene.admitted()
    assert scene.refused() == 0.0
    scene.settle(probe, verdict)
    assert scene.state is state
    assert scene.why().reason is Reason.PROBES


def test_only_as_many_calls_pass_as_there_are_probes():
    """breaker-11 (failsafe-go) and HO-1."""
    scene = opened(probes=3)
    scene.wait(5.0)
    tokens = [scene.admit() for _ in range(8)]
    assert [isinstance(token, Probe) for token in tokens] == [True] * 3 + [False] * 5
    assert scene.circuit.rejected == 5


def test_seven_good_probes_of_ten_close_and_four_bad_ones_open():
    """breaker-13 (cockatiel): at most 30 % of ten may fail."""
    scene = half_open(probes=10, required_successes=7)
    scene.call(BAD, BAD, BAD, *[GOOD] * 6)
    assert scene.state is HALF_OPEN
    scene.call(GOOD)
    assert scene.state is CLOSED
    scene = half_open(probes=10, required_successes=7)
    scene.call(BAD, BAD, BAD, *[GOOD] * 6)
    assert scene.state is HALF_OPEN
    scene.call(BAD)
    assert scene.state is OPEN


def test_answered_probes_keep_their_place_until_the_round_is_decided():
    scene = opened(probes=3, required_successes=2)
    scene.wait(5.0)
    first, _, _ = scene.admitted(), scene.admitted(), scene.admitted()
    scene.settle(first)
    assert scene.refused() == 0.0


@pytest.mark.parametrize("how", ["fails", "is cancelled", "never ends"])
def test_no_probe_can_wedge_the_circuit(how):
    """breaker-16, after Polly#1979 and R4#935."""
    scene = opened(probe_timeout=3.0)
    scene.wait(5.0)
    probe = scene.admitted()
    if how == "fails":
        scene.settle(probe, BAD)
        scene.wait(10.0)
    elif how == "is cancelled":
        scene.release(probe, cancelled=True)
    else:
        scene.wait(3.0)
    scene.call(GOOD)
    assert scene.state is CLOSED


def test_a_cancelled_probe_gives_its_place_back_at_once_and_decides_nothing():
    """CX-2."""
    scene = opened()
    scene.wait(5.0)
    probe = scene.admitted()
    scene.refused()
    scene.release(probe, cancelled=True)
    assert scene.state is HALF_OPEN
    scene.admitted()
    assert (scene.circuit.cancelled, scene.circuit.ignored) == (1, 0)


def test_the_lease_of_a_probe_ends_when_its_time_is_over():
    """HO-2."""
    scene = opened(probe_timeout=3.0)
    scene.wait(5.0)
    scene.admitted()
    scene.wait(2.75)
    scene.refused()
    scene.wait(0.25)
    scene.admitted()
    scene.refused()


@pytest.mark.parametrize("verdict", [GOOD, BAD])
def test_the_result_of_a_probe_whose_lease_ended_changes_nothing(verdict):
    scene = opened(probe_timeout=3.0)
    scene.wait(5.0)
    probe = scene.admitted()
    scene.wait(3.0)
    scene.settle(probe, verdict)
    assert scene.state is HALF_OPEN
    scene.call(GOOD)
    assert scene.state is CLOSED


def test_the_result_of_a_probe_just_before_the_end_of_its_lease_counts():
    scene = opened(probe_timeout=3.0)
    scene.wait(5.0)
    probe = scene.admitted()
    scene.wait(2.999)
    scene.settle(probe)
    assert scene.state is CLOSED


def test_settling_a_probe_twice_changes_nothing():
    scene = opened(probes=3, required_successes=2)
    scene.wait(5.0)
    probe = scene.admitted()
    scene.settle(probe)
    scene.settle(probe)
    scene.release(probe)
    assert scene.state is HALF_OPEN


def test_a_slow_probe_is_a_failed_one():
    scene = half_open(slow_call_duration=1.0)
    scene.call(GOOD, duration=1.001)
    assert scene.state is OPEN
    scene = half_open(slow_call_duration=1.0)
    scene.call(GOOD, duration=1.0)
    assert scene.state is CLOSED


def test_it_closes_with_a_cold_window():
    scene = Scene(failure_ratio=0.5, minimum_throughput=4)
    scene.call(GOOD, GOOD, BAD, BAD)
    scene.wait(5.0)
    scene.call(GOOD)
    assert scene.state is CLOSED
    assert scene.circuit.cause is None
    scene.call(BAD, BAD, BAD)
    assert scene.state is CLOSED
    scene.call(BAD)
    assert scene.state is OPEN


def test_a_row_of_failures_begins_anew_when_it_closes():
    scene = Scene(failure_ratio=None, consecutive_failures=2)
    scene.call(BAD, BAD)
    scene.wait(5.0)
    scene.call(GOOD, BAD)
    assert scene.state is CLOSED


# Late results


@pytest.mark.parametrize("verdict", [GOOD, BAD])
def test_a_call_that_began_closed_changes_nothing_when_it_ends_open(verdict):
    """LR-1."""
    scene = tripping()
    late = scene.admitted()
    scene.call(BAD)
    scene.settle(late, verdict)
    assert scene.state is OPEN
    assert scene.refused() == 5.0


def test_a_stale_success_neither_closes_nor_frees_a_place():
    """LR-2."""
    scene = tripping()
    late = scene.admitted()
    scene.call(BAD)
    scene.wait(5.0)
    scene.admitted()
    scene.settle(late)
    assert scene.state is HALF_OPEN
    scene.refused()
    scene.release(late)
    scene.refused()


def test_a_stale_failure_does_not_spoil_a_probe():
    """LR-3."""
    scene = tripping()
    late = scene.admitted()
    scene.call(BAD)
    scene.wait(5.0)
    probe = scene.admitted()
    scene.settle(late, BAD)
    assert scene.state is HALF_OPEN
    scene.settle(probe)
    assert scene.state is CLOSED


def test_a_probe_of_an_earlier_round_changes_nothing():
    """LR-5."""
    scene = opened(probes=2, required_successes=2, break_factor=1.0)
    scene.wait(5.0)
    old = scene.admitted()
    scene.settle(scene.admitted(), BAD)
    scene.wait(5.0)
    probes = [scene.admitted(), scene.admitted()]
    scene.settle(old)
    scene.refused()
    scene.release(old)
    scene.refused()
    scene.settle(probes[0])
    assert scene.state is HALF_OPEN
    scene.settle(probes[1])
    assert scene.state is CLOSED


@pytest.mark.parametrize("generated", [False, True], ids=["settled", "counted by generated code"])
def test_a_call_that_began_before_the_last_break_is_not_counted_after_it(generated):
    scene = tripping(minimum_throughput=1)
    late = scene.admitted()
    scene.call(BAD)
    scene.wait(5.0)
    scene.call(GOOD)
    if generated:
        scene.circuit.rotate(scene.now, late)
        late.good += 1
    else:
        scene.settle(late)
        scene.settle(late, BAD)
    assert scene.circuit.failure_ratio(scene.now) is None
    assert scene.state is CLOSED
    assert scene.circuit.good == 2


# Ramp


def test_after_closing_the_share_of_admitted_calls_rises_to_all():
    scene = half_open(ramp_duration=4.0)
    scene.call(GOOD)
    assert scene.state is CLOSED
    assert scene.refused(0.0) == 0.0
    scene.wait(1.0)
    scene.refused(0.25)
    scene.admitted(0.24)
    scene.wait(2.0)
    scene.refused(0.75)
    scene.admitted(0.74)
    scene.wait(1.0)
    scene.admitted(0.999)
    assert scene.circuit.rejected == 3
    assert scene.circuit.cell is not None


def test_a_burst_of_failures_during_the_ramp_opens_by_the_rules():
    scene = half_open(ramp_duration=4.0)
    scene.call(GOOD)
    scene.wait(3.0)
    scene.call(BAD)
    assert scene.state is OPEN
    assert scene.refused() == 5.0
    assert scene.circuit.snapshot(scene.now)["ramp"] == 0.0


def test_generated_code_has_to_ask_during_the_ramp():
    scene = half_open(ramp_duration=4.0)
    scene.call(GOOD)
    scene.wait(3.75)
    assert scene.circuit.cell is None
    scene.call(GOOD)
    assert scene.circuit.cell is None
    scene.wait(0.25)
    scene.call(GOOD)
    assert scene.circuit.cell is not None


# Orders


def test_isolation_refuses_everybody_and_ends_with_a_closed_circuit():
    """breaker-10 (Polly)."""
    scene = Scene()
    scene.circuit.isolate(scene.now)
    assert scene.state is ISOLATED
    assert scene.refused() is None
    assert scene.circuit.rejected == 1
    isolated = scene.why()
    assert (isolated.previous, isolated.state, isolated.reason) == (CLOSED, ISOLATED, Reason.MANUAL)
    scene.wait(1e6)
    assert scene.refused() is None
    scene.circuit.end_isolation(scene.now)
    assert scene.why().reason is Reason.MANUAL
    scene.call(GOOD)
    assert scene.state is CLOSED


def test_isolation_lasts_until_the_last_order_is_taken_back():
    """breaker-14 (cockatiel)."""
    scene = Scene()
    scene.circuit.isolate(scene.now)
    scene.circuit.isolate(scene.now)
    assert scene.circuit.generation == 1
    scene.circuit.end_isolation(scene.now)
    assert scene.state is ISOLATED
    scene.circuit.end_isolation(scene.now)
    assert scene.state is CLOSED
    assert scene.circuit.history.transitions == {(CLOSED, ISOLATED): 1, (ISOLATED, CLOSED): 1}


def test_taking_back_an_order_that_was_not_given_changes_nothing():
    scene = Scene()
    scene.circuit.end_isolation(scene.now)
    scene.circuit.end_disabling(scene.now)
    scene.circuit.end_shadow()
    assert (scene.state, scene.circuit.history.transitions) == (CLOSED, {})
    scene.circuit.isolate(scene.now)
    assert scene.state is ISOLATED
    scene.circuit.end_isolation(scene.now)
    scene.circuit.disable(scene.now)
    assert scene.state is DISABLED
    scene.circuit.shadow()
    scene.circuit.end_disabling(scene.now)
    scene.circuit.restore(
        {"version": 1, "state": "open", "retry_after": 1, "attempt": 1, "ramp": 0}, scene.now
    )
    scene.admitted()


def test_taking_back_an_order_of_another_kind_leaves_an_open_circuit_open():
    scene = opened()
    scene.circuit.end_isolation(scene.now)
    assert scene.refused() == 5.0


def test_a_disabled_circuit_admits_everybody_and_learns_nothing():
    scene = opened()
    scene.circuit.disable(scene.now)
    assert scene.state is DISABLED
    scene.call(*[BAD] * 30, GOOD)
    assert scene.circuit.failure_ratio(scene.now) is None
    assert scene.circuit.ended[BAD] == 31
    assert scene.circuit.good == 1
    scene.circuit.end_disabling(scene.now)
    assert scene.state is CLOSED
    assert scene.circuit.failure_ratio(scene.now) is None
    assert scene.circuit.good == 1


def test_generated_code_counts_in_a_disabled_circuit_without_teaching_it():
    scene = Scene(minimum_throughput=1)
    scene.circuit.disable(scene.now)
    cell = scene.admitted()
    assert scene.circuit.cell is cell
    assert scene.circuit.bucket_end == math.inf
    cell.good += 2
    assert scene.circuit.good == 2
    assert scene.circuit.failure_ratio(scene.now) is None
    scene.circuit.end_disabling(scene.now)
    assert scene.circuit.cell is not cell
    cell.good += 1
    assert scene.circuit.good == 3


def test_a_disabled_circuit_does_not_ramp_up_when_it_is_enabled():
    scene = Scene(ramp_duration=4.0)
    scene.circuit.disable(scene.now)
    scene.circuit.end_disabling(scene.now)
    scene.admitted(0.999)


def test_an_isolated_circuit_ramps_up_when_it_is_let_go():
    scene = Scene(ramp_duration=4.0)
    scene.circuit.isolate(scene.now)
    scene.circuit.end_isolation(scene.now)
    scene.refused(0.999)


def test_isolation_is_stronger_than_disabling():
    scene = Scene()
    scene.circuit.disable(scene.now)
    scene.circuit.isolate(scene.now)
    assert scene.refused() is None
    scene.circuit.disable(scene.now)
    assert scene.state is ISOLATED
    scene.circuit.end_isolation(scene.now)
    assert scene.state is DISABLED
    scene.circuit.end_disabling(scene.now)
    assert scene.state is DISABLED
    scene.circuit.end_disabling(scene.now)
    assert scene.state is CLOSED


def test_the_first_break_comes_again_after_an_order():
    scene = opened(break_duration=1.0)
    scene.wait(1.0)
    scene.call(BAD)
    scene.circuit.isolate(scene.now)
    assert scene.circuit.cause is None
    assert scene.circuit.snapshot(scene.now)["attempt"] == 0
    scene.circuit.end_isolation(scene.now)
    scene.call(BAD)
    assert scene.refused() == 1.0


def test_a_result_that_began_before_an_order_changes_nothing_after_it():
    scene = tripping()
    late = scene.admitted()
    scene.circuit.isolate(scene.now)
    scene.settle(late, BAD)
    scene.circuit.end_isolation(scene.now)
    scene.settle(late, BAD)
    assert scene.state is CLOSED


def test_a_probe_that_began_before_an_order_changes_nothing_after_it():
    scene = half_open()
    probe = scene.admitted()
    scene.circuit.disable(scene.now)
    scene.settle(probe, BAD)
    scene.settle(probe, GOOD)
    assert scene.state is DISABLED


def test_a_shadow_refuses_nobody_but_changes_state_and_counts():
    scene = tripping(break_duration=5.0)
    scene.circuit.shadow()
    scene.call(BAD)
    assert scene.state is OPEN
    scene.call(BAD, GOOD)
    assert (scene.circuit.spared, scene.circuit.rejected) == (2, 0)
    scene.wait(5.0)
    probe = scene.admitted()
    assert isinstance(probe, Probe)
    scene.call(BAD)
    assert scene.state is HALF_OPEN, "a call that would have been refused teaches nothing"
    scene.settle(probe)
    assert scene.state is CLOSED
    assert scene.circuit.spared == 3


def test_a_shadow_ramps_up_in_thought_only():
    scene = half_open(ramp_duration=4.0)
    scene.circuit.shadow()
    scene.call(GOOD, BAD)
    assert scene.state is CLOSED
    assert scene.circuit.spared == 1


def test_refusing_begins_when_the_last_shadow_ends():
    scene = opened()
    scene.circuit.shadow()
    scene.circuit.shadow()
    scene.circuit.end_shadow()
    scene.admitted()
    scene.circuit.end_shadow()
    scene.refused()


def test_a_shadow_does_not_soften_an_isolation():
    scene = Scene()
    scene.circuit.shadow()
    scene.circuit.isolate(scene.now)
    assert scene.refused() is None


def test_a_reset_closes_the_circuit_as_if_it_were_new():
    scene = opened(break_duration=1.0, ramp_duration=4.0)
    scene.wait(1.0)
    scene.call(BAD)
    scene.circuit.reset(scene.now)
    assert scene.why() == Transition(OPEN, CLOSED, Reason.MANUAL, scene.now)
    scene.admitted(0.999)
    scene.call(BAD)
    assert scene.refused() == 1.0


def test_a_reset_of_a_closed_circuit_forgets_its_window_and_calls_under_way():
    scene = Scene(minimum_throughput=2)
    scene.call(BAD)
    late = scene.admitted()
    scene.circuit.reset(scene.now)
    scene.settle(late, BAD)
    scene.call(BAD)
    assert scene.state is CLOSED
    assert scene.circuit.history.transitions == {}


@pytest.mark.parametrize(("order", "state"), [(Circuit.isolate, ISOLATED), (Circuit.disable, DISABLED)])
def test_orders_stay_in_force_over_a_reset(order, state):
    scene = Scene()
    order(scene.circuit, scene.now)
    scene.circuit.reset(scene.now)
    assert scene.state is state


# What it knows


def test_the_state_that_a_call_would_find_is_known_before_the_call():
    scene = opened()
    assert scene.circuit.state_at(scene.now + 4.999) is OPEN
    assert scene.circuit.state_at(scene.now + 5.0) is HALF_OPEN
    assert scene.state is OPEN
    assert Scene().circuit.state_at(START + 1e6) is CLOSED


def test_an_earlier_instant_counts_as_the_latest_seen():
    scene = opened()
    scene.wait(4.0)
    scene.refused()
    scene.wait(-1e6)
    assert scene.refused() == 1.0
    assert scene.circuit.state_at(scene.now) is OPEN
    scene.wait(1e6 + 1.0)
    scene.circuit.seconds(scene.now)
    scene.wait(-1e6)
    assert scene.circuit.state_at(scene.now) is HALF_OPEN
    scene.admitted()


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (lambda circuit, now: circuit.settle(circuit.admit(now), BAD, now), 5.0),
        (lambda circuit, now: circuit.rotate(now, circuit.admit(now)), 5.0),
        (lambda circuit, now: circuit.restore({**SNAPSHOT, "retry_after": 5}, now), 5.0),
        (lambda circuit, now: circuit.isolate(now), None),
        (lambda circuit, now: circuit.reset(now), None),
    ],
    ids=["settle", "rotate", "restore", "isolate", "reset"],
)
def test_whatever_comes_at_an_earlier_instant_happens_at_the_latest_seen(act, expected):
    scene = Scene(minimum_throughput=2, failure_ratio=0.5)
    scene.call(BAD)
    scene.circuit.seconds(scene.now + 10.0)
    act(scene.circuit, scene.now)
    for transition in scene.circuit.history.drain():
        assert (transition.at, transition.retry_after) == (START + 10.0, expected)
    scene.wait(14.5)
    if expected is not None:
        assert scene.refused() == 0.5


def test_what_is_left_of_a_break_is_told_from_the_latest_instant_seen():
    scene = opened()
    scene.circuit.seconds(scene.now + 4.0)
    assert scene.circuit.snapshot(scene.now)["retry_after"] == 1.0
    scene.circuit.configure(scene.settings(break_duration=0.5, max_break_duration=0.5), scene.now)
    scene.wait(4.0)
    assert scene.refused() == 0.5


def test_a_child_process_begins_at_the_latest_instant_seen():
    scene = opened()
    scene.circuit.after_fork(scene.now + 4.0)
    assert scene.refused() == 1.0


def test_without_a_draw_nothing_is_left_to_chance():
    scene = half_open(ramp_duration=4.0, break_jitter=0.5)
    scene.circuit.settle(scene.circuit.admit(scene.now), GOOD, scene.now)
    scene.wait(0.001)
    assert isinstance(scene.circuit.admit(scene.now), Cell)
    scene.wait(5.0)
    scene.circuit.settle(scene.circuit.admit(scene.now), BAD, scene.now)
    assert scene.refused() == 5.0
    scene = Scene(minimum_throughput=2, break_jitter=0.5)
    scene.call(BAD)
    scene.circuit.rotate(scene.now, scene.admitted())
    assert scene.refused() == 5.0


def test_calls_are_counted_by_how_they_ended():
    scene = Scene()
    scene.call(GOOD, GOOD, BAD, TIMED_OUT, THROTTLED, THROTTLED, IGNORED)
    scene.release(scene.admitted())
    scene.release(scene.admitted(), cancelled=True)
    circuit = scene.circuit
    assert circuit.good == 2
    assert circuit.ended == {BAD: 1, TIMED_OUT: 1, THROTTLED: 2}
    assert (circuit.ignored, circuit.cancelled, circuit.rejected, circuit.spared) == (2, 1, 0, 0)


def test_probes_and_late_results_are_counted_too():
    scene = tripping()
    late = [scene.admitted() for _ in range(3)]
    scene.call(BAD)
    scene.settle(late[0], GOOD)
    scene.settle(late[1], BAD)
    late[2].good += 1
    scene.wait(5.0)
    scene.call(GOOD)
    assert scene.circuit.good == 3
    assert scene.circuit.ended[BAD] == 2


def test_no_good_result_is_lost_when_cells_are_folded():
    scene = tripping()
    for _ in range(CELLS_KEPT + 5):
        scene.call(GOOD)
        scene.circuit.reset(scene.now)
    assert scene.circuit.good == CELLS_KEPT + 5
    assert len(scene.circuit._good._retired) == CELLS_KEPT


def test_a_late_result_is_counted_for_many_generations():
    scene = tripping()
    late = scene.admitted()
    for _ in range(CELLS_KEPT):
        scene.circuit.reset(scene.now)
    late.good += 1
    assert scene.circuit.good == 1
    scene.circuit.disable(scene.now)
    bypass = scene.admitted()
    scene.circuit.end_disabling(scene.now)
    bypass.good += 1
    assert scene.circuit.good == 2


def test_transitions_are_counted_and_reported_once():
    scene = opened()
    scene.wait(5.0)
    scene.call(GOOD)
    assert scene.circuit.history.news
    assert scene.circuit.history.drain() == [
        Transition(CLOSED, OPEN, Reason.CONSECUTIVE_FAILURES, START, 5.0, Break(1, 1.0, 1)),
        Transition(OPEN, HALF_OPEN, Reason.BREAK_OVER, START + 5.0),
        Transition(HALF_OPEN, CLOSED, Reason.PROBES, START + 5.0),
    ]
    assert not scene.circuit.history.news
    assert scene.circuit.history.drain() == []
    assert scene.circuit.history.transitions == {
        (CLOSED, OPEN): 1,
        (OPEN, HALF_OPEN): 1,
        (HALF_OPEN, CLOSED): 1,
    }
    scene.call(BAD)
    assert scene.circuit.history.transitions[CLOSED, OPEN] == 2


def test_transitions_that_nobody_asks_for_do_not_pile_up():
    scene = Scene()
    for _ in range(TRANSITIONS_KEPT):
        scene.circuit.isolate(scene.now)
        scene.circuit.end_isolation(scene.now)
    assert len(scene.circuit.history.drain()) == TRANSITIONS_KEPT
    assert scene.circuit.history.transitions[CLOSED, ISOLATED] == TRANSITIONS_KEPT


def test_the_time_in_each_state_is_known():
    scene = tripping()
    scene.wait(2.0)
    scene.call(BAD)
    scene.wait(7.0)
    scene.admitted()
    scene.wait(1.0)
    assert scene.circuit.seconds(scene.now) == {
        CLOSED: 2.0,
        OPEN: 7.0,
        HALF_OPEN: 1.0,
        ISOLATED: 0.0,
        DISABLED: 0.0,
    }
    scene.circuit.reset(scene.now)
    scene.wait(3.0)
    assert scene.circuit.seconds(scene.now)[CLOSED] == 5.0
    assert scene.circuit.seconds(scene.now)[HALF_OPEN] == 1.0


def test_each_stay_in_a_state_has_its_number():
    scene = opened()
    assert scene.circuit.generation == 1
    scene.wait(5.0)
    scene.call(GOOD)
    assert scene.circuit.generation == 3
    scene.circuit.after_fork(scene.now)
    assert scene.circuit.generation == 4


def test_a_new_window_begins_a_new_generation():
    scene = Scene()
    scene.circuit.configure(scene.settings(failure_ratio=0.9), scene.now)
    assert scene.circuit.generation == 0
    scene.circuit.configure(scene.settings(sampling_duration=20.0), scene.now)
    assert scene.circuit.generation == 1


@pytest.mark.parametrize("verdict", [GOOD, BAD])
def test_a_closed_circuit_is_idle_while_its_window_is_empty(verdict):
    scene = Scene(sampling_duration=10.0)
    assert scene.circuit.is_idle(scene.now)
    scene.call(verdict)
    assert not scene.circuit.is_idle(scene.now)
    scene.wait(10.0)
    assert scene.circuit.is_idle(scene.now)


def test_a_slow_result_in_the_window_keeps_a_circuit_busy():
    scene = Scene(slow_call_duration=1.0)
    scene.call(GOOD, duration=2.0)
    assert not scene.circuit.is_idle(scene.now)


def test_a_row_of_failures_keeps_a_circuit_busy_while_it_is_looked_for():
    scene = Scene(sampling_duration=10.0, consecutive_failures=2)
    scene.call(BAD)
    scene.wait(10.0)
    assert not scene.circuit.is_idle(scene.now)
    scene.circuit.configure(scene.settings(sampling_duration=10.0), scene.now)
    assert scene.circuit.is_idle(scene.now)
    scene.circuit.configure(scene.settings(sampling_duration=10.0, consecutive_failures=2), scene.now)
    scene.call(GOOD)
    scene.wait(10.0)
    assert scene.circuit.is_idle(scene.now)


def test_a_ramp_keeps_a_circuit_busy():
    scene = half_open(ramp_duration=4.0)
    assert not scene.circuit.is_idle(scene.now)
    scene.call(GOOD)
    assert not scene.circuit.is_idle(scene.now)
    scene.wait(4.0)
    assert scene.circuit.is_idle(scene.now)


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        (lambda circuit: circuit.isolate(START), lambda circuit: circuit.end_isolation(START)),
        (lambda circuit: circuit.disable(START), lambda circuit: circuit.end_disabling(START)),
        (lambda circuit: circuit.shadow(), lambda circuit: circuit.end_shadow()),
    ],
    ids=["isolate", "disable", "shadow"],
)
def test_an_order_keeps_a_circuit_busy(begin, end):
    scene = Scene()
    begin(scene.circuit)
    assert not scene.circuit.is_idle(scene.now)
    end(scene.circuit)
    assert scene.circuit.is_idle(scene.now)


def test_the_values_of_the_states_are_those_of_telemetry():
    assert [state.value for state in CircuitState] == [
        "closed",
        "open",
        "half_open",
        "forced_open",
        "disabled",
    ]


# What generated code may do itself


def test_the_cell_is_shown_while_good_results_change_nothing():
    scene = Scene(sampling_duration=10.0)
    circuit = scene.circuit
    assert circuit.cell is scene.admit()
    assert circuit.bucket_end == START + 1.0
    scene.wait(1.0)
    circuit.rotate(scene.now, circuit.cell)
    assert circuit.bucket_end == START + 2.0


def test_a_result_at_the_end_of_a_bucket_belongs_to_the_next():
    scene = Scene(sampling_duration=10.0, minimum_throughput=1)
    token = scene.admitted()
    scene.wait(1.0)
    scene.settle(token)
    scene.wait(9.999)
    assert scene.circuit.failure_ratio(scene.now) == 0.0
    scene.wait(0.001)
    assert scene.circuit.failure_ratio(scene.now) is None


def test_a_good_result_that_begins_a_bucket_is_no_failure_in_a_row():
    scene = tripping()
    token = scene.admitted()
    scene.wait(100.0)
    scene.circuit.rotate(scene.now, token)
    assert scene.state is CLOSED


def test_a_window_of_calls_needs_no_clock():
    circuit = Scene(sampling_calls=20).circuit
    assert circuit.cell is not None
    assert circuit.bucket_end == math.inf


@pytest.mark.parametrize("scene", [opened(), half_open()], ids=["open", "half-open"])
def test_the_cell_is_hidden_and_late_results_need_nothing_while_not_closed(scene):
    assert scene.circuit.cell is None
    assert scene.circuit.bucket_end == math.inf


def test_the_cell_is_hidden_while_slow_calls_are_looked_for():
    scene = Scene(slow_call_duration=1.0)
    assert scene.circuit.cell is None
    scene.call(GOOD, duration=0.5)
    assert scene.circuit.cell is None
    assert scene.circuit.bucket_end == -math.inf


@pytest.mark.parametrize("window", [{}, {"sampling_calls": 10}], ids=["time", "calls"])
def test_the_cell_is_hidden_while_only_throughput_is_lacking(window):
    scene = Scene(failure_ratio=0.5, minimum_throughput=5, **window)
    scene.call(BAD, BAD)
    assert scene.circuit.cell is not None, "two of five are not half"
    scene.call(BAD)
    assert scene.circuit.cell is None
    assert scene.circuit.bucket_end == -math.inf


def test_the_cell_is_shown_again_when_the_failures_have_left_the_window():
    scene = Scene(failure_ratio=0.5, minimum_throughput=5, sampling_duration=10.0)
    scene.call(BAD, BAD, BAD)
    scene.wait(9.0)
    scene.admitted()
    assert scene.circuit.cell is None
    scene.wait(1.0)
    assert scene.circuit.cell is None
    assert scene.admitted() is scene.circuit.cell is not None


def test_a_call_that_began_before_the_cell_was_hidden_may_open_the_circuit():
    scene = Scene(failure_ratio=0.5, minimum_throughput=5)
    cell = scene.circuit.cell
    scene.call(BAD, BAD, BAD)
    for _ in range(2):
        assert scene.now >= scene.circuit.bucket_end
        scene.circuit.rotate(scene.now, cell)
        cell.good += 1
    assert scene.state is OPEN
    assert scene.circuit.cause == Break(1, 0.6, 3)
    assert scene.circuit.good == 2


def test_the_jitter_of_a_break_that_a_counted_result_begins_is_drawn_too():
    scene = Scene(failure_ratio=0.5, minimum_throughput=2, break_duration=4.0, break_jitter=0.5)
    cell = scene.circuit.cell
    scene.call(BAD)
    scene.circuit.rotate(scene.now, cell, 0.5)
    assert scene.refused() == 5.0


def test_when_good_results_leave_the_window_the_next_one_may_open_the_circuit():
    scene = Scene(failure_ratio=0.5, minimum_throughput=4, sampling_duration=10.0)
    scene.call(*[GOOD] * 10)
    scene.wait(5.0)
    scene.call(BAD, BAD, BAD)
    assert scene.circuit.cell is not None
    scene.wait(5.0)
    cell = scene.circuit.cell
    assert scene.now >= scene.circuit.bucket_end
    scene.circuit.rotate(scene.now, cell)
    assert scene.state is OPEN


def test_rotating_for_a_call_of_an_earlier_generation_changes_nothing():
    scene = Scene(failure_ratio=0.5, minimum_throughput=2)
    late = scene.circuit.cell
    scene.circuit.reset(scene.now)
    scene.call(BAD)
    scene.circuit.rotate(scene.now, late)
    assert scene.state is CLOSED
    scene.circuit.isolate(scene.now)
    scene.circuit.rotate(scene.now, late)
    assert scene.state is ISOLATED


def test_a_lowered_row_does_not_open_on_a_good_result():
    scene = Scene(consecutive_failures=5, minimum_throughput=100)
    scene.call(BAD, BAD, BAD)
    scene.circuit.configure(scene.settings(consecutive_failures=2, minimum_throughput=100), scene.now)
    scene.wait(3.0)
    scene.circuit.rotate(scene.now, scene.circuit.cell)
    scene.call(GOOD)
    assert scene.state is CLOSED


# Settings, processes


def test_new_settings_apply_to_the_results_already_in_the_window():
    scene = Scene(failure_ratio=0.9, minimum_throughput=2)
    scene.call(GOOD, BAD)
    scene.circuit.configure(scene.settings(failure_ratio=0.5, minimum_throughput=2), scene.now)
    assert scene.state is CLOSED
    assert scene.circuit.cell is not None
    scene.call(BAD)
    assert scene.state is OPEN


def test_a_lowered_ratio_in_a_full_window_of_calls_opens_on_the_next_result_even_a_good_one():
    scene = Scene(failure_ratio=0.9, minimum_throughput=4, sampling_calls=4)
    scene.call(GOOD, GOOD, BAD, BAD)
    scene.circuit.configure(
        scene.settings(failure_ratio=0.5, minimum_throughput=4, sampling_calls=4), scene.now
    )
    assert scene.circuit.cell is None
    scene.call(GOOD)
    assert scene.state is OPEN


@pytest.mark.parametrize(
    "window", [{"sampling_duration": 20.0}, {"sampling_calls": 20}], ids=["time", "calls"]
)
def test_a_new_window_starts_cold_but_a_row_of_failures_goes_on(window):
    scene = Scene(minimum_throughput=3, consecutive_failures=3)
    scene.call(BAD, BAD)
    late = scene.admitted()
    scene.circuit.configure(scene.settings(minimum_throughput=3, consecutive_failures=3, **window), scene.now)
    scene.settle(late, BAD)
    assert scene.state is CLOSED
    assert scene.circuit._window.count(scene.now) == (0, 0, 0)
    scene.call(BAD)
    assert scene.why().reason is Reason.CONSECUTIVE_FAILURES


def test_a_row_that_a_good_result_ended_stays_ended_under_new_settings():
    scene = Scene(consecutive_failures=2)
    scene.call(BAD, GOOD)
    scene.circuit.configure(scene.settings(consecutive_failures=2, sampling_calls=20), scene.now)
    scene.call(BAD)
    assert scene.state is CLOSED


def test_good_results_counted_before_a_new_window_stay_counted():
    scene = Scene()
    scene.call(GOOD)
    scene.circuit.cell.good += 1
    late = scene.circuit.cell
    scene.circuit.configure(scene.settings(sampling_calls=20), scene.now)
    late.good += 1
    assert scene.circuit.good == 3
    assert scene.circuit.cell is not late


def test_a_break_under_way_ends_no_later_than_the_new_longest():
    scene = opened(break_duration=60.0)
    scene.wait(1.0)
    scene.circuit.configure(scene.settings(max_break_duration=8.0, break_jitter=0.5), scene.now)
    assert scene.refused() == 12.0
    scene.circuit.configure(scene.settings(max_break_duration=80.0), scene.now)
    assert scene.refused() == 12.0


def test_the_same_settings_again_change_nothing():
    scene = half_open(probes=3, required_successes=2)
    scene.call(GOOD)
    scene.circuit.configure(scene.settings(probes=3, required_successes=2), scene.now)
    scene.call(GOOD)
    assert scene.state is CLOSED
    scene = opened(break_duration=60.0, break_jitter=0.0)
    scene.circuit.configure(scene.circuit.settings, scene.now)
    assert scene.refused() == 60.0


@pytest.mark.parametrize("change", [{"probes": 1}, {"probes": 3, "required_successes": 3}], ids=str)
def test_a_round_that_asks_for_other_numbers_starts_anew(change):
    scene = half_open(probes=3, required_successes=2)
    scene.call(GOOD, BAD)
    scene.circuit.configure(scene.settings(failure_ratio=None, consecutive_failures=1, **change), scene.now)
    assert scene.state is HALF_OPEN
    scene.call(*[GOOD] * change["probes"])
    assert scene.state is CLOSED


def test_probes_under_way_keep_their_place_under_new_settings():
    scene = opened(probes=2)
    scene.wait(5.0)
    first, second = scene.admitted(), scene.admitted()
    scene.circuit.configure(scene.settings(probes=1), scene.now)
    scene.refused()
    scene.release(first)
    scene.refused()
    scene.settle(second)
    assert scene.state is CLOSED


def test_a_ramp_under_way_takes_on_its_new_length_and_one_that_is_over_does_not_begin_again():
    scene = half_open(ramp_duration=4.0)
    scene.call(GOOD)
    scene.wait(2.0)
    scene.circuit.configure(scene.settings(ramp_duration=8.0), scene.now)
    scene.refused(0.25)
    scene.admitted(0.24)
    scene.wait(6.0)
    scene.circuit.configure(scene.settings(ramp_duration=100.0), scene.now)
    scene.admitted(0.999)
    scene.circuit.restore({**SNAPSHOT, "state": "closed", "attempt": 0}, scene.now)
    scene.circuit.configure(scene.settings(ramp_duration=200.0), scene.now)
    scene.admitted(0.999)


def test_new_settings_leave_an_open_circuit_open():
    scene = opened()
    scene.circuit.configure(scene.settings(sampling_calls=20), scene.now)
    assert scene.refused() == 5.0
    assert scene.circuit.cell is None


def test_a_child_process_keeps_what_was_learnt_and_drops_what_was_in_flight():
    scene = Scene(failure_ratio=0.5, minimum_throughput=4, consecutive_failures=4)
    late = scene.admitted()
    scene.call(GOOD, BAD, BAD)
    scene.release(scene.admitted())
    scene.circuit.after_fork(scene.now)
    scene.settle(late, BAD)
    assert scene.state is CLOSED
    assert scene.circuit._window.count(scene.now) == (3, 2, 0)
    assert (scene.circuit.good, scene.circuit.ignored, scene.circuit.ended[BAD]) == (0, 0, 1)
    scene.call(GOOD)
    assert scene.state is OPEN


def test_a_row_of_failures_goes_on_in_a_child_process():
    scene = Scene(consecutive_failures=2)
    scene.call(GOOD, BAD)
    scene.circuit.after_fork(scene.now)
    scene.call(BAD)
    assert scene.state is OPEN


def test_a_child_process_counts_from_zero():
    scene = opened()
    scene.refused()
    scene.circuit.shadow()
    scene.admitted()
    scene.circuit.end_shadow()
    scene.release(Cell(), cancelled=True)
    scene.wait(2.0)
    scene.circuit.after_fork(scene.now)
    circuit = scene.circuit
    assert (circuit.rejected, circuit.spared, circuit.cancelled, circuit.history.transitions) == (0, 0, 0, {})
    assert not circuit.history.news
    assert sum(circuit.seconds(scene.now).values()) == 0.0
    assert scene.refused() == 3.0


def test_a_child_process_has_no_probes_under_way_but_goes_on_with_the_round():
    scene = opened(probes=2)
    scene.wait(5.0)
    scene.call(GOOD)
    probe = scene.admitted()
    scene.circuit.after_fork(scene.now)
    scene.settle(probe)
    assert scene.state is HALF_OPEN
    scene.call(GOOD)
    assert scene.state is CLOSED


@pytest.mark.parametrize(("order", "state"), [(Circuit.isolate, ISOLATED), (Circuit.disable, DISABLED)])
def test_orders_stay_in_force_in_a_child_process(order, state):
    scene = Scene()
    order(scene.circuit, scene.now)
    scene.circuit.after_fork(scene.now)
    assert scene.state is state
    assert isinstance(scene.admit(), Refusal) == (state is ISOLATED)


def test_a_call_that_forks_is_counted_in_both_processes():
    scene = Scene(minimum_throughput=1)
    scene.call(GOOD)
    cell = scene.circuit.cell
    scene.circuit.after_fork(scene.now)
    assert scene.circuit.good == 0
    cell.good += 1
    assert scene.circuit.good == 1
    scene.circuit.disable(scene.now)
    cell = scene.admitted()
    scene.circuit.after_fork(scene.now)
    assert scene.circuit.cell is None
    cell.good += 1
    scene.call(GOOD)
    assert scene.circuit.good == 2


@pytest.mark.parametrize("state", [CLOSED, OPEN, HALF_OPEN, DISABLED])
def test_an_interrupt_in_the_middle_of_a_change_leaves_a_circuit_that_works(state):
    scene = {CLOSED: tripping, OPEN: opened, HALF_OPEN: half_open, DISABLED: tripping}[state]()
    if state is DISABLED:
        scene.circuit.disable(scene.now)
    scene.circuit._leave()
    assert scene.state is state
    scene.wait(5.0)
    scene.call(GOOD)
    scene.circuit.end_disabling(scene.now)
    assert scene.circuit.good == 1
    scene.call(BAD)
    assert scene.state is OPEN


# Snapshots


def restored(snapshot, **settings):
    scene = tripping(**settings)
    scene.now = 7e6
    scene.circuit.restore(json.loads(json.dumps(snapshot)), scene.now)
    return scene


def test_a_break_goes_on_in_another_process():
    scene = opened(break_duration=5.0)
    scene.wait(5.0)
    scene.call(BAD)
    scene.wait(4.0)
    snapshot = scene.circuit.snapshot(scene.now)
    assert snapshot == {"version": 1, "state": "open", "retry_after": 6.0, "attempt": 2, "ramp": 0.0}
    scene = restored(snapshot)
    assert scene.why() == Transition(CLOSED, OPEN, Reason.RESTORED, scene.now, 6.0)
    assert scene.refused() == 6.0
    scene.wait(6.0)
    scene.call(BAD)
    assert scene.refused() == 20.0


def test_a_half_open_circuit_is_exported_as_one_whose_break_is_just_over():
    scene = half_open(probes=2)
    snapshot = scene.circuit.snapshot(scene.now)
    assert (snapshot["state"], snapshot["retry_after"], snapshot["attempt"]) == ("open", 0.0, 1)
    scene = restored(snapshot)
    assert scene.state is OPEN
    assert isinstance(scene.admitted(), Probe)


def test_a_break_that_is_over_is_exported_with_nothing_left():
    scene = opened()
    assert scene.circuit.snapshot(scene.now + 99.0)["retry_after"] == 0.0


def test_a_closed_circuit_is_restored_cold():
    scene = Scene(minimum_throughput=2)
    scene.call(BAD)
    snapshot = scene.circuit.snapshot(scene.now)
    assert snapshot == {"version": 1, "state": "closed", "retry_after": 0.0, "attempt": 0, "ramp": 0.0}
    scene.circuit.restore(snapshot, scene.now)
    scene.call(BAD)
    assert scene.state is CLOSED
    assert scene.circuit.history.transitions == {}


def test_an_open_circuit_is_closed_by_the_snapshot_of_a_closed_one():
    scene = opened()
    scene.circuit.restore({**SNAPSHOT, "retry_after": 4.0}, scene.now)
    assert scene.circuit.cause is None
    scene.circuit.restore(Scene().circuit.snapshot(START), scene.now)
    assert scene.state is CLOSED
    assert scene.why().reason is Reason.RESTORED
    assert scene.circuit.cause is None


def test_a_ramp_goes_on_in_another_process():
    scene = half_open(ramp_duration=8.0)
    scene.call(GOOD)
    scene.wait(2.0)
    snapshot = scene.circuit.snapshot(scene.now)
    assert snapshot["ramp"] == 6.0
    scene = restored(snapshot, ramp_duration=8.0)
    assert scene.circuit.cell is None
    scene.refused(0.25)
    scene.admitted(0.24)
    scene = restored(snapshot, ramp_duration=4.0)
    scene.wait(1.0)
    scene.refused(0.25)
    scene.admitted(0.24)
    restored(snapshot).admitted(0.999)


def test_a_restored_break_is_no_longer_than_the_settings_allow():
    scene = restored(
        {"version": 1, "state": "open", "retry_after": 1e6, "attempt": 1, "ramp": 0.0},
        max_break_duration=8.0,
        break_jitter=0.5,
    )
    assert scene.refused() == 12.0


@pytest.mark.parametrize(("order", "state"), [(Circuit.isolate, ISOLATED), (Circuit.disable, DISABLED)])
def test_nothing_is_restored_while_under_orders(order, state):
    scene = Scene()
    order(scene.circuit, scene.now)
    scene.circuit.restore(opened().circuit.snapshot(START), scene.now)
    assert scene.state is state


@pytest.mark.parametrize(("order", "word"), [(Circuit.isolate, "forced_open"), (Circuit.disable, "disabled")])
def test_a_snapshot_names_orders_and_they_are_not_carried_on(order, word):
    scene = opened()
    order(scene.circuit, scene.now)
    snapshot = scene.circuit.snapshot(scene.now)
    assert snapshot == {"version": 1, "state": word, "retry_after": 0.0, "attempt": 0, "ramp": 0.0}
    assert restored(snapshot).state is CLOSED


def test_restoring_an_open_circuit_drops_what_was_in_flight():
    scene = tripping()
    late = scene.admitted()
    scene.circuit.restore(
        {"version": 1, "state": "open", "retry_after": 5, "attempt": 1, "ramp": 0}, scene.now
    )
    scene.settle(late, BAD)
    assert scene.refused() == 5.0
    scene.circuit.restore(
        {"version": 1, "state": "open", "retry_after": 9, "attempt": 1, "ramp": 0}, scene.now
    )
    assert scene.refused() == 9.0
    assert scene.circuit.cause is None
    assert scene.circuit.history.transitions == {(CLOSED, OPEN): 1}


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        ({"version": 2}, "version"), ({"version": True}, "version"), ({"version": None}, "version"),
        ({"state": "half_open"}, "state"), ({"state": ["open"]}, "state"),
        ({"retry_after": -1.0}, "retry_after"), ({"retry_after": math.nan}, "retry_after"),
        ({"retry_after": math.inf}, "retry_after"), ({"retry_after": "1"}, "retry_after"),
        ({"attempt": 0}, "attempt"), ({"attempt": -1}, "attempt"), ({"attempt": 1.0}, "attempt"),
        ({"attempt": True}, "attempt"), ({"state": "closed"}, "attempt"), ({"state": "disabled"}, "attempt"), ({"ramp": None}, "ramp"),
        ({"ramp": -0.5}, "ramp"), ({"more": 1}, "more"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_snapshot_is_refused_and_changes_nothing(change, setting):
    scene = tripping()
    with pytest.raises(ConfigError) as caught:
        scene.circuit.restore({**SNAPSHOT, **change}, scene.now)
    assert setting in [problem.setting for problem in caught.value.problems]
    assert caught.value.subject == "CircuitBreaker snapshot"
    assert scene.state is CLOSED


@pytest.mark.parametrize("key", SNAPSHOT)
def test_a_snapshot_must_be_complete(key):
    with pytest.raises(ConfigError) as caught:
        tripping().circuit.restore({name: value for name, value in SNAPSHOT.items() if name != key}, START)
    assert key in [problem.setting for problem in caught.value.problems]


def test_what_is_wrong_with_a_snapshot_is_said_setting_by_setting():
    wrong = {"version": 2, "state": "ajar", "retry_after": -1, "attempt": -2, "ramp": "long", "extra": 7}
    with pytest.raises(ConfigError) as caught:
        Scene().circuit.restore(wrong, START)
    assert [str(problem) for problem in caught.value.problems] == [
        "version must be 1, got 2",
        "state must be one of 'closed', 'open', 'forced_open', 'disabled', got 'ajar'",
        "retry_after must be a finite number of seconds >= 0, got -1",
        "attempt must be a whole number >= 0, got -2",
        "ramp must be a finite number of seconds >= 0, got 'long'",
        "extra must not be there, got 7",
    ]
    with pytest.raises(ConfigError) as caught:
        Scene().circuit.restore(
            {"version": 1, "state": "open", "retry_after": 0, "attempt": 0, "ramp": 0}, START
        )
    (problem,) = caught.value.problems
    assert str(problem) == "attempt must be >= 1 if open, and else 0, got 0"
    with pytest.raises(ConfigError) as caught:
        Scene().circuit.restore([1], START)
    assert str(caught.value.problems[0]) == "snapshot must be a mapping, got [1]"


@pytest.mark.parametrize("value", [None, [], "open", 1])
def test_a_snapshot_must_be_a_mapping(value):
    with pytest.raises(ConfigError, match="must be a mapping"):
        tripping().circuit.restore(value, START)


# Against lists of events


class Ticket:
    """The model's token."""

    def __init__(self, kind, epoch):
        self.kind = kind
        self.epoch = epoch


class Model:
    """The rules written down naively: every event is kept, and everything is worked out from them."""

    def __init__(self, settings):
        self.settings = settings
        self.state = CLOSED
        self.epoch = 0  # results of tickets of an earlier one are late
        self.events = []  # (bucket, bad, slow) of the results in the window's reach
        self.row = []  # whether each result was bad, since the circuit closed
        self.attempt = 0
        self.until = None
        self.round = []  # whether each answered probe was bad
        self.leases = {}
        self.ramp_from = None
        self.isolators = self.disablers = self.shadows = 0
        self.log = []
        self.tally = Counter()

    def enter(self, state, reason, *, length=None):
        if state is not self.state:
            self.log.append((self.state, state, reason, length))
        self.state = state
        self.epoch += 1
        self.events, self.row, self.round, self.leases = [], [], [], {}
        self.ramp_from = None
        if state not in (OPEN, HALF_OPEN):
            self.attempt = 0

    def bucket(self, now):
        width = (self.settings.sampling_duration or 30.0) / 10
        bucket = round(now / width) + 2
        while bucket * width > now:
            bucket -= 1
        return bucket

    def window(self, now):
        if self.settings.sampling_calls is not None:
            return self.events[-self.settings.sampling_calls :]
        return [event for event in self.events if event[0] > self.bucket(now) - 10]

    def ratio(self, now, which):
        inside = self.window(now)
        if len(inside) < self.settings.minimum_throughput:
            return None
        return sum(event[which] for event in inside) / len(inside)

    def is_ramping(self, now):
        return self.ramp_from is not None and now - self.ramp_from < self.settings.ramp_duration

    def admit(self, now, draw):
        if self.state is OPEN and now >= self.until:
            self.enter(HALF_OPEN, Reason.BREAK_OVER)
        refusal = None
        kind = "late"
        if self.state is CLOSED:
            kind = "watched"
            if self.is_ramping(now) and draw >= (now - self.ramp_from) / self.settings.ramp_duration:
                refusal = 0.0
        elif self.state is OPEN:
            refusal = self.until - now
        elif self.state is HALF_OPEN:
            kind = "probe"
            under_way = [expiry for expiry in self.leases.values() if now < expiry]
            if len(under_way) + len(self.round) >= self.settings.probes:
                refusal = 0.0
        elif self.state is ISOLATED:
            self.tally["rejected"] += 1
            return None
        if refusal is not None:
            if not self.shadows:
                self.tally["rejected"] += 1
                return refusal
            self.tally["spared"] += 1
            kind = "late"
        ticket = Ticket(kind, self.epoch)
        if kind == "probe":
            self.leases[ticket] = now + self.settings.probe_timeout
        return ticket

    def release(self, ticket, cancelled=False):
        self.tally["cancelled" if cancelled else "ignored"] += 1
        self.leases.pop(ticket, None)

    def settle(self, ticket, verdict, now, duration, retry_after, draw):
        if verdict is IGNORED:
            self.release(ticket)
            return
        self.tally[verdict] += 1
        rules = self.settings
        bad = verdict is not GOOD
        slow = bool(rules.slow_call_duration and duration and duration > rules.slow_call_duration)
        asked = retry_after if verdict is THROTTLED else None
        wish = asked if rules.open_on_throttle and asked else None
        if ticket.kind == "probe":
            expiry = self.leases.pop(ticket, None)
            if expiry is None or now >= expiry:
                return
            self.round.append(bad or slow)
            needed = rules.required_successes or rules.probes
            if self.round.count(False) == needed:
                self.enter(CLOSED, Reason.PROBES)
                self.ramp_from = now
            elif rules.probes - self.round.count(True) < needed or wish:
                self.open(now, Reason.PROBES, self.round, asked, wish, draw)
        elif ticket.kind == "watched" and ticket.epoch == self.epoch and self.state is CLOSED:
            self.events.append((self.bucket(now), bad, slow))
            self.row.append(bad)
            reason = self.tripped(now)
            if reason is not None or wish:
                inside = [event[1] for event in self.window(now)]
                self.open(now, reason or Reason.THROTTLED, inside, asked, wish, draw)

    def tripped(self, now):
        rules = self.settings
        in_a_row = 0
        while in_a_row < len(self.row) and self.row[-1 - in_a_row]:
            in_a_row += 1
        failing, slowing = self.ratio(now, 1), self.ratio(now, 2)
        # A row that is already longer than new settings allow opens with the next bad result.
        if rules.consecutive_failures and in_a_row >= rules.consecutive_failures:
            return Reason.CONSECUTIVE_FAILURES
        if rules.failure_ratio and failing is not None and failing >= rules.failure_ratio:
            return Reason.FAILURE_RATIO
        if rules.slow_call_duration and slowing is not None and slowing >= rules.slow_call_ratio:
            return Reason.SLOW_CALL_RATIO
        return None

    def open(self, now, reason, results, asked, wish, draw):
        rules = self.settings
        attempt = self.attempt + 1
        if reason is Reason.THROTTLED:
            length = wish
        elif callable(rules.break_duration):
            length = rules.break_duration(Break(attempt, sum(results) / len(results), sum(results), asked))
        else:
            length = rules.break_duration * rules.break_factor ** (attempt - 1)
        length = min(max(length, wish or 0.0), rules.max_break_duration) * (1 + rules.break_jitter * draw)
        self.enter(OPEN, reason, length=length)
        self.attempt = attempt
        self.until = now + length

    def obey(self, now):
        if self.isolators:
            wanted = ISOLATED
        elif self.disablers:
            wanted = DISABLED
        elif self.state in (ISOLATED, DISABLED):
            wanted = CLOSED
        else:
            return
        was = self.state
        if wanted is not was:
            self.enter(wanted, Reason.MANUAL)
            if was is ISOLATED and wanted is CLOSED:
                self.ramp_from = now

    def reset(self):
        if not (self.isolators or self.disablers):
            self.enter(CLOSED, Reason.MANUAL)

    def configure(self, new, now):
        if not self.is_ramping(now):
            self.ramp_from = None
        old, self.settings = self.settings, new
        if (old.sampling_duration, old.sampling_calls) != (new.sampling_duration, new.sampling_calls):
            self.events = []
            self.epoch += 1
        numbers = [(rules.probes, rules.required_successes or rules.probes) for rules in (old, new)]
        if numbers[0] != numbers[1]:
            self.round = []
        if self.until is not None:
            self.until = min(self.until, now + new.max_break_duration * (1 + new.break_jitter))

    def fork(self):
        self.epoch += 1
        self.leases = {}
        self.log = []
        self.tally = Counter()

    def persist(self, now):
        if self.isolators or self.disablers:
            return
        if self.state is CLOSED:
            ramp_from = self.ramp_from if self.is_ramping(now) else None
            self.enter(CLOSED, Reason.RESTORED)
            self.ramp_from = ramp_from
        else:
            left = max(0.0, self.until - now) if self.state is OPEN else 0.0
            self.enter(OPEN, Reason.RESTORED, length=left)
            self.until = now + left


class Generated:
    """A circuit whose success path is what generated code would do."""

    def __init__(self, circuit):
        self.circuit = circuit

    def admit(self, now, draw):
        if (cell := self.circuit.cell) is not None:
            return cell
        return self.circuit.admit(now, draw)

    def settle(self, token, verdict, now, *, by_itself, draw, **known):
        if by_itself and verdict is GOOD:
            if now >= self.circuit.bucket_end:
                self.circuit.rotate(now, token, draw)
            token.good += 1
        else:
            self.circuit.settle(token, verdict, now, draw=draw, **known)


# Lengths of time that are shared, so that waiting can be drawn from the limits themselves.
COMMON = {
    "sampling_duration": 10.0, "break_duration": 4.0, "max_break_duration": 12.0, "break_jitter": 0.5,
    "probe_timeout": 3.0,
}  # fmt: skip
BY_CALLS = {"sampling_duration": None}
COMBINATIONS = [
    CircuitBreakerSettings(**{**COMMON, **settings})
    for settings in [
        {"failure_ratio": 0.5, "minimum_throughput": 3},
        {"failure_ratio": 0.4, "minimum_throughput": 5, "sampling_calls": 5, "probes": 2, **BY_CALLS},
        {"minimum_throughput": 2, "sampling_calls": 6, "consecutive_failures": 3, "ramp_duration": 2.0, **BY_CALLS},
        {"failure_ratio": None, "consecutive_failures": 2, "break_factor": 1.5, "ramp_duration": 4.0},
        {"failure_ratio": None, "minimum_throughput": 3, "slow_call_duration": 1.0, "slow_call_ratio": 0.5},
        {
            "failure_ratio": 0.6, "minimum_throughput": 4, "consecutive_failures": 4, "slow_call_duration": 1.0,
            "slow_call_ratio": 0.75, "ramp_duration": 2.0, "probes": 3, "required_successes": 2, "open_on_throttle": True,
        },
        {"minimum_throughput": 2, "break_duration": lambda cause: 2.0 * cause.failures + cause.attempt},
        {"failure_ratio": 0.3, "minimum_throughput": 4, "sampling_duration": 3.0, "probes": 4, "required_successes": 1},
        {"failure_ratio": 1.0, "minimum_throughput": 1, "open_on_throttle": True, "max_break_duration": 4.0},
    ]
]  # fmt: skip
DRAWS = st.sampled_from([0.0, 0.25, 0.5, 0.75])
VERDICTS = st.sampled_from([GOOD, BAD, GOOD, BAD, TIMED_OUT, THROTTLED, IGNORED])
DURATIONS = st.sampled_from([None, 0.5, 1.0, 1.25])
HINTS = st.sampled_from([None, 0.0, 3.0, 6.0, 20.0])


class CircuitRules(RuleBasedStateMachine):
    """Plain methods, generated code and the naive model agree about every decision."""

    calls = Bundle("calls")

    @initialize(settings=st.sampled_from(COMBINATIONS))
    def begin(self, settings):
        self.now = START
        self.plain = Circuit(settings, self.now)
        self.generated = Generated(Circuit(settings, self.now))
        self.model = Model(settings)
        self.both = (self.plain, self.generated.circuit)

    def admission(self, draw):
        by_itself = self.generated.circuit.cell is not None
        generation = self.generated.circuit.generation
        tokens = [self.plain.admit(self.now, draw), self.generated.admit(self.now, draw)]
        ticket = self.model.admit(self.now, draw)
        for token in tokens:
            if isinstance(token, Refusal):
                assert token.retry_after == ticket
            else:
                assert isinstance(ticket, Ticket)
                assert isinstance(token, Probe) == (ticket.kind == "probe")
        return (*tokens, ticket, by_itself, generation) if isinstance(ticket, Ticket) else None

    def ending(self, call, verdict, duration, retry_after, draw):
        plain, generated, ticket, by_itself, generation = call
        if self.generated.circuit.generation - generation > CELLS_KEPT:
            by_itself = False  # nobody looks at so old a cell any more
        # Generated code times no calls: it is used where nothing depends on their duration.
        known = {"duration": None if by_itself else duration, "retry_after": retry_after, "draw": draw}
        self.plain.settle(plain, verdict, self.now, **known)
        self.generated.settle(generated, verdict, self.now, by_itself=by_itself, **known)
        for circuit in self.both:
            answer(circuit)
        self.model.settle(ticket, verdict, self.now, **known)

    @rule(seconds=st.sampled_from([0.25, 0.5, 1.0, 1.0, 2.0, 3.0, 4.0, 6.0, 7.0, 9.0, 10.0, 18.0, 300.0]))
    def wait(self, seconds):
        self.now += seconds

    @rule(target=calls, draw=DRAWS)
    def begin_call(self, draw):
        return self.admission(draw)

    @rule(call=consumes(calls), verdict=VERDICTS, duration=DURATIONS, retry_after=HINTS, draw=DRAWS)
    def end_call(self, call, verdict, duration, retry_after, draw):
        if call is not None:
            self.ending(call, verdict, duration, retry_after, draw)

    @rule(
        verdicts=st.lists(VERDICTS, min_size=1, max_size=5), duration=DURATIONS, retry_after=HINTS, draw=DRAWS
    )
    def make_calls(self, verdicts, duration, retry_after, draw):
        for verdict in verdicts:
            if (call := self.admission(draw)) is not None:
                self.ending(call, verdict, duration, retry_after, draw)

    @rule(call=consumes(calls), cancelled=st.booleans())
    def release_call(self, call, cancelled):
        if call is not None:
            for circuit, token in zip(self.both, call, strict=False):
                circuit.release(token, self.now, cancelled=cancelled)
            self.model.release(call[2], cancelled)

    @rule()
    def read_the_ratios(self):
        for circuit in self.both:
            assert circuit.failure_ratio(self.now) == self.model.ratio(self.now, 1)
            assert circuit.slow_call_ratio(self.now) == self.model.ratio(self.now, 2)

    @invariant()
    def agree(self):
        expected, self.model.log = self.model.log, []
        for circuit in self.both:
            assert circuit.state is self.model.state
            assert [
                (t.previous, t.state, t.reason, t.retry_after) for t in circuit.history.drain()
            ] == expected
            tally = {
                GOOD: circuit.good, **circuit.ended, "rejected": circuit.rejected, "spared": circuit.spared,
                "ignored": circuit.ignored, "cancelled": circuit.cancelled,
            }  # fmt: skip
            assert tally == {key: self.model.tally[key] for key in tally}
            assert not (circuit.state is HALF_OPEN and len(circuit._round._leases) > 4)
            assert (circuit.cell is None) or circuit.state in (CLOSED, DISABLED)


class OperatedCircuitRules(CircuitRules):
    """So they do while orders, new settings, forks and restarts come in between."""

    @rule(isolate=st.booleans(), begin=st.booleans())
    def order(self, isolate, begin):
        held = "isolators" if isolate else "disablers"
        count = getattr(self.model, held)
        setattr(self.model, held, max(0, count + (1 if begin else -1)))
        self.model.obey(self.now)
        for circuit in self.both:
            if isolate:
                (circuit.isolate if begin else circuit.end_isolation)(self.now)
            else:
                (circuit.disable if begin else circuit.end_disabling)(self.now)

    @rule()
    def take_back_all_orders(self):
        while self.model.isolators or self.model.disablers:
            self.order(isolate=bool(self.model.isolators), begin=False)

    @rule(begin=st.booleans())
    def shadow(self, begin):
        self.model.shadows = max(0, self.model.shadows + (1 if begin else -1))
        for circuit in self.both:
            (circuit.shadow if begin else circuit.end_shadow)()

    @rule()
    def reset(self):
        self.model.reset()
        for circuit in self.both:
            circuit.reset(self.now)

    @rule(settings=st.sampled_from(COMBINATIONS))
    def configure(self, settings):
        self.model.configure(settings, self.now)
        for circuit in self.both:
            circuit.configure(settings, self.now)

    @rule()
    def fork(self):
        self.agree()
        self.model.fork()
        for circuit in self.both:
            circuit.after_fork(self.now)

    @rule()
    def restore(self):
        plain, generated = [circuit.snapshot(self.now) for circuit in self.both]
        assert plain == generated
        self.model.persist(self.now)
        for circuit in self.both:
            circuit.restore(json.loads(json.dumps(plain)), self.now)


TestCircuit = CircuitRules.TestCase
TestOperatedCircuit = OperatedCircuitRules.TestCase


@pytest.mark.parametrize("seed", range(60))
def test_a_failure_that_surely_changes_nothing_is_counted_as_any_other(seed):
    chance = random.Random(seed)
    ratio = chance.choice([None, 0.1, 0.3, 0.5, 0.9, 1.0])
    row = chance.choice([None, 3, 8]) if ratio is not None else chance.choice([3, 8])
    window = chance.choice([{"sampling_duration": 3.0}, {"sampling_calls": chance.choice([12, 30, 100])}])
    settings = {"failure_ratio": ratio, "consecutive_failures": row, "minimum_throughput": 12, **window}
    quick, careful = Scene(**settings), Scene(**settings)
    badness, held = chance.choice([0.05, 0.2, 0.45, 0.95]), []
    for _ in range(600):
        wait, draw = chance.choice([0.0, 0.0, 0.01, 0.2, -0.1, 2.0]), chance.random()
        for scene in (quick, careful):
            scene.wait(wait)
            scene.circuit._spare = scene.circuit._spare if scene is quick else 0
        admitted = quick.admit(draw), careful.admit(draw)
        assert [isinstance(each, Refusal) for each in admitted] in ([True, True], [False, False])
        if not isinstance(admitted[0], Refusal):
            held.append(admitted)
        if held and chance.random() < 0.9:
            verdict = chance.choice([BAD, BAD, TIMED_OUT, THROTTLED]) if draw < badness else GOOD
            for scene, token in zip((quick, careful), held.pop(chance.randrange(len(held))), strict=True):
                scene.circuit._spare = scene.circuit._spare if scene is quick else 0
                scene.settle(token, verdict)
        states = [
            (
                scene.state,
                scene.circuit.ended,
                scene.circuit.good,
                scene.circuit.cell is None,
                scene.circuit.snapshot(scene.now),
                scene.circuit.failure_ratio(scene.now),
            )
            for scene in (quick, careful)
        ]
        assert states[0] == states[1]
