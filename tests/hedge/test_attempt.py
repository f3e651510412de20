"""Which attempt is under way, and what of its context outlives it."""

import contextvars
from collections.abc import Generator

from resilience._runtime.attempt import attempt_scope, current_attempt, innermost, take_over
from resilience.deadline import current_deadline, deadline
from resilience.outcome import CallContext

SECOND, THIRD = CallContext(attempt=2, operation="GET"), CallContext(attempt=3)


def test_outside_of_attempts_it_is_the_first() -> None:
    assert current_attempt() == CallContext(attempt=1)


def test_inside_it_is_the_nearest() -> None:
    with attempt_scope(SECOND):
        assert current_attempt() is SECOND
        with attempt_scope(THIRD):
            assert current_attempt() is THIRD
        assert current_attempt() is SECOND
    assert current_attempt() == CallContext()


def flow(context: CallContext) -> Generator[None, None, None]:
    with attempt_scope(context):
        yield


def test_scopes_may_end_out_of_order() -> None:
    outer, inner = flow(SECOND), flow(THIRD)
    next(outer)
    next(inner)
    outer.close()
    assert current_attempt() is THIRD
    inner.close()
    assert current_attempt() == CallContext()
    assert innermost.get() is None


def test_a_scope_that_ends_in_another_context_disturbs_nobody() -> None:
    begun = flow(SECOND)
    contextvars.copy_context().run(next, begun)
    with attempt_scope(THIRD):
        begun.close()
        assert current_attempt() is THIRD
    assert current_attempt() == CallContext()


def test_what_was_set_is_taken_over_except_for_the_attempts_own() -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name")
    same: contextvars.ContextVar[list[int]] = contextvars.ContextVar("same")
    same.set([1])

    def work() -> contextvars.Context:
        name.set("attempt")
        with attempt_scope(SECOND), deadline(1.0):
            return contextvars.copy_context()

    before = same.get()
    take_over(contextvars.copy_context().run(work))
    assert name.get() == "attempt"
    assert same.get() is before
    assert current_attempt() == CallContext()
    assert current_deadline() is None
