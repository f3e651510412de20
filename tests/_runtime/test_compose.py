"""Which policies make sense together, and in which order they are asked."""

import pytest

from resilience._runtime import compose
from resilience._runtime.policy import Traits

from .dummies import Around, Turnstile, through


def gate(rank: int, waits: float = 0.0) -> Turnstile:
    return Turnstile(f"gate {rank}", traits=Traits(rank=rank, waits=waits))


def around(**traits: object) -> Around:
    return Around(through, traits=Traits(**traits))


def rules(*policies: Around | Turnstile) -> list[str]:
    return [str(problem) for problem in compose.problems(policies)]


# --- order ---


def test_neighbouring_gates_are_asked_by_what_they_hold() -> None:
    breaker, limiter, slot = gate(0), gate(1), gate(2)
    assert compose.in_order_of_admission([slot, limiter, breaker]) == [breaker, limiter, slot]


def test_gates_that_hold_the_same_keep_their_order() -> None:
    first, second = gate(1), gate(1)
    assert compose.in_order_of_admission([first, second]) == [first, second]


def test_nothing_moves_across_what_is_no_gate() -> None:
    slot, retry, breaker = gate(2), around(repeats=True), gate(0)
    assert compose.in_order_of_admission([slot, retry, breaker]) == [slot, retry, breaker]


def test_nothing_moves_across_a_gate_that_may_wait() -> None:
    slot, queue, breaker = gate(2), gate(1, waits=1.0), gate(0)
    assert compose.in_order_of_admission([slot, queue, breaker]) == [slot, queue, breaker]


def test_each_run_of_gates_is_put_in_order_by_itself() -> None:
    a, b, middle, c, d = gate(2), gate(0), around(), gate(1), gate(0)
    assert compose.in_order_of_admission([a, b, middle, c, d]) == [b, a, middle, d, c]
    assert compose.in_order_of_admission([]) == []


# --- what cannot work ---


def test_a_usual_pipeline_has_no_problem() -> None:
    assert rules(around(bound=10.0), around(repeats=True), gate(0), around(bound=1.0)) == []


def test_one_policy_cannot_be_in_a_pipeline_twice() -> None:
    policy = gate(0)
    (problem,) = rules(policy, around(), policy)
    assert "must not be in one pipeline twice" in problem


def test_retries_do_not_nest() -> None:
    assert len(rules(around(repeats=True), around(repeats=True), around(repeats=True))) == 2
    assert "their attempts multiply" in rules(around(repeats=True), around(repeats=True))[0]


def test_a_hedge_needs_a_budget() -> None:
    assert rules(around(races=True)) == []
    (problem,) = rules(around(races=True, budgeted=False))
    assert problem.startswith("budget must not be None: a hedge in a pipeline needs a budget")


def test_a_hedge_inside_a_hedge_is_refused() -> None:
    (problem,) = rules(around(races=True), gate(0), around(races=True))
    assert "must not be a hedge inside a hedge: their attempts multiply" in problem


@pytest.mark.parametrize(
    ("total", "attempt", "fits"), [(2.0, 1.0, True), (1.0, 1.0, False), (1.0, 2.0, False)]
)
def test_an_attempt_is_shorter_than_the_whole(total: float, attempt: float, fits: bool) -> None:
    found = rules(around(bound=total), around(bound=attempt))
    assert found == (
        [] if fits else [f"duration must be shorter than the {total:g} s around it, got {attempt}"]
    )


def test_the_shortest_bound_around_it_counts() -> None:
    assert len(rules(around(bound=5.0), around(bound=2.0), around(bound=3.0))) == 1
    assert len(rules(around(bound=2.0), around(bound=5.0), around(bound=3.0))) == 2


@pytest.mark.parametrize(("total", "waits", "fits"), [(2.0, 1.0, True), (1.0, 1.0, False), (1.0, 2.0, False)])
def test_a_queue_cannot_outwait_what_is_around_it(total: float, waits: float, fits: bool) -> None:
    found = rules(around(bound=total), gate(1, waits=waits))
    assert found == (
        [] if fits else [f"max_wait must be shorter than the {total:g} s around it, got {waits}"]
    )
    assert rules(gate(1, waits=waits), around(bound=total)) == []


@pytest.mark.parametrize(("window", "fits"), [(2.0, True), (1.99, False)])
def test_a_window_holds_two_of_the_timeouts_inside_it(window: float, fits: bool) -> None:
    found = rules(around(window=window), around(bound=9.0), around(bound=1.0))
    assert found == (
        [] if fits else [f"sampling_duration must be at least 2 s, twice the timeout inside it, got {window}"]
    )
    assert rules(around(bound=1.0), around(window=0.5)) == [], "a timeout outside does not matter"


# --- what is only unwise ---


def test_a_retry_inside_a_hedge_is_unwise() -> None:
    (words,) = compose.unwise([around(races=True), around(repeats=True)])
    assert words.startswith("a retry inside a hedge")
    assert list(compose.unwise([around(repeats=True), around(races=True)])) == []


@pytest.mark.parametrize("outer", [around(repeats=True), around(races=True), gate(0)])
def test_what_hides_failures_belongs_outside_what_learns_from_them(outer) -> None:
    (words,) = compose.unwise([outer, around(replaces=True)])
    assert words == "a around inside another policy hides failures from it; put it first"
    assert list(compose.unwise([around(replaces=True), outer])) == []
    assert list(compose.unwise([around(), around(replaces=True)])) == []
