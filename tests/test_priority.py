"""How important a call is: the classes, blocks, and inheritance by threads and tasks."""

import asyncio
import contextvars
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.errors import ConfigError
from resilience.outcome import CallContext
from resilience.priority import Priority, current_priority, priority_of, priority_scope, usage

CRITICAL, HIGH, NORMAL, LOW, SHEDDABLE = Priority


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    yield
    assert current_priority() is NORMAL, "the test left a priority behind"


# --- the classes ---


def test_the_classes_are_words_with_the_most_important_first() -> None:
    assert [priority.value for priority in Priority] == ["critical", "high", "normal", "low", "sheddable"]
    assert [priority.rank for priority in Priority] == [0, 1, 2, 3, 4]
    assert Priority("sheddable") is SHEDDABLE


def test_who_comes_first_is_less() -> None:
    assert CRITICAL < HIGH < NORMAL < LOW < SHEDDABLE
    assert LOW > NORMAL
    assert HIGH <= HIGH
    assert LOW >= HIGH
    assert not LOW < LOW
    assert sorted([LOW, CRITICAL, SHEDDABLE, NORMAL, HIGH]) == list(Priority)


@pytest.mark.parametrize("other", ["low", 3, None])
def test_a_priority_compares_with_priorities_only(other: Any) -> None:
    assert LOW != other
    with pytest.raises(TypeError):
        LOW < other  # noqa: B015  # the comparison is the act


# --- the block ---


def test_without_a_block_a_call_is_normal() -> None:
    assert current_priority() is NORMAL


def test_a_block_gives_what_is_inside_a_priority() -> None:
    with priority_scope(LOW):
        assert current_priority() is LOW
    assert current_priority() is NORMAL


def test_the_innermost_block_wins_whether_more_or_less_important() -> None:
    with priority_scope(LOW):
        with priority_scope(CRITICAL):
            assert current_priority() is CRITICAL
            with priority_scope(SHEDDABLE):
                assert current_priority() is SHEDDABLE
        assert current_priority() is LOW


def test_none_leaves_the_priority_as_it_is() -> None:
    with priority_scope(None):
        assert current_priority() is NORMAL
    with priority_scope(HIGH):
        with priority_scope(None):
            assert current_priority() is HIGH
        assert current_priority() is HIGH


def test_an_error_in_the_block_comes_out_and_ends_it() -> None:
    with pytest.raises(KeyError), priority_scope(LOW):
        raise KeyError
    assert current_priority() is NORMAL


@pytest.mark.parametrize("priority", ["low", 3, True, object()])
def test_what_is_no_priority_is_refused(priority: Any) -> None:
    with pytest.raises(ConfigError, match="priority must be a Priority or None") as caught:
        priority_scope(priority)
    assert [problem.setting for problem in caught.value.problems] == ["priority"]


@pytest.mark.parametrize("priority", [None, LOW])
def test_a_block_is_entered_once(priority: Priority | None) -> None:
    block = priority_scope(priority)
    with block:
        pass
    with pytest.raises(RuntimeError, match="entered once"), block:
        pass


@given(st.lists(st.sampled_from([None, *Priority]), max_size=8))
def test_blocks_nest(priorities: list[Priority | None]) -> None:
    def descend(rest: list[Priority | None], outer: Priority) -> None:
        assert current_priority() is outer
        if rest:
            with priority_scope(rest[0]):
                descend(rest[1:], rest[0] or outer)
            assert current_priority() is outer

    descend(priorities, NORMAL)


# --- the call's own ---


def test_a_calls_own_priority_wins() -> None:
    call = CallContext(priority=HIGH)
    assert priority_of(call) is HIGH
    with priority_scope(LOW):
        assert priority_of(call) is HIGH


def test_a_call_without_one_has_that_of_the_block() -> None:
    call = CallContext()
    assert priority_of(call) is NORMAL
    with priority_scope(LOW):
        assert priority_of(call) is LOW


@pytest.mark.parametrize("priority", ["low", 3, object()])
def test_a_calls_priority_must_be_one(priority: object) -> None:
    with pytest.raises(TypeError, match="must be a Priority"):
        priority_of(CallContext(priority=priority))


# --- the hot path ---


def test_usage_is_noticed_at_the_first_block_and_stays() -> None:
    program = (
        "from resilience.priority import Priority, current_priority, priority_scope, usage\n"
        "with priority_scope(None): current_priority()\n"
        "print(usage.used)\n"
        "with priority_scope(Priority.LOW): print(usage.used)\n"
        "print(usage.used, current_priority().value)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "True", "normal"]


def test_the_context_is_not_looked_at_before_the_first_block(monkeypatch: pytest.MonkeyPatch) -> None:
    with priority_scope(LOW):
        monkeypatch.setattr(usage, "used", False)
        assert current_priority() is NORMAL
        monkeypatch.setattr(usage, "used", True)
        assert current_priority() is LOW


# --- generators, which end their blocks out of order ---


def rows(priority: Priority = LOW) -> Generator[Priority, None, None]:
    with priority_scope(priority):
        yield current_priority()
        yield current_priority()


def test_a_generator_closed_inside_a_younger_block_leaves_that_block_alone() -> None:
    source = rows()
    next(source)
    with priority_scope(HIGH):
        source.close()
        assert current_priority() is HIGH
    assert current_priority() is NORMAL


def test_blocks_of_two_generators_may_overlap() -> None:
    first, second = rows(LOW), rows(HIGH)
    next(first)
    next(second)
    assert current_priority() is HIGH
    assert list(first) == [HIGH]
    assert current_priority() is HIGH
    assert list(second) == [HIGH]
    assert current_priority() is NORMAL


def test_a_generator_closed_in_another_context_lifts_its_priority() -> None:
    source = rows()
    elsewhere = contextvars.copy_context()
    assert elsewhere.run(next, source) is LOW
    with priority_scope(HIGH):
        source.close()
        assert current_priority() is HIGH
    assert elsewhere.run(current_priority) is Priority.NORMAL


# --- threads and tasks ---


def on_a_thread(read: Callable[[], Any]) -> Any:
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.append(read()))
    thread.start()
    thread.join()
    return seen[0]


def test_a_thread_inherits_if_it_is_given_the_context() -> None:
    with priority_scope(LOW):
        context = contextvars.copy_context()
        assert on_a_thread(current_priority) is NORMAL
        assert on_a_thread(lambda: context.run(current_priority)) is LOW
    assert on_a_thread(lambda: context.run(current_priority)) is LOW


def test_a_worker_of_asyncio_inherits() -> None:
    async def main() -> Priority:
        with priority_scope(LOW):
            return await asyncio.to_thread(current_priority)

    assert asyncio.run(main()) is LOW


def test_tasks_inherit_the_priority_and_keep_their_own_apart(runtime: Any) -> None:
    async def child(own: Priority | None) -> list[Priority]:
        seen = [current_priority()]
        with priority_scope(own):
            await runtime.checkpoint()
            seen.append(current_priority())
        return [*seen, current_priority()]

    async def body() -> None:
        with priority_scope(LOW):
            first, second = await runtime.gather(lambda: child(None), lambda: child(CRITICAL))
            assert first == [LOW, LOW, LOW]
            assert second == [LOW, CRITICAL, LOW]
            assert current_priority() is LOW

    runtime.run(body)
