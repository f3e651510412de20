"""The waiting line: first in, first out, whatever happens to those who wait."""

import threading

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from resilience._runtime import drive
from resilience._runtime.flow import Waiter
from resilience._runtime.line import Line


def line_of(*waiters: Waiter) -> Line:
    line = Line()
    for waiter in waiters:
        line.join(waiter)
    return line


def deaf() -> Waiter:
    """One whose event loop is closed."""
    waiter = Waiter(2)

    def signal() -> None:
        raise RuntimeError("Event loop is closed")

    waiter.signal = signal
    return waiter


def test_only_the_first_to_come_is_first() -> None:
    first, second, stranger = Waiter(), Waiter(), Waiter()
    line = line_of(first, second)
    assert line.is_first(first)
    assert not line.is_first(second)
    assert not line.is_first(stranger)
    assert not Line().is_first(stranger)


def test_the_line_counts_who_and_for_how_much() -> None:
    line = line_of(Waiter(2), Waiter(3))
    assert (len(line), line.permits) == (2, 5)
    assert line
    assert not Line()


def test_who_leaves_wakes_the_next() -> None:
    first, second, third = Waiter(), Waiter(), Waiter()
    line = line_of(first, second, third)
    line.leave(first)
    assert line.is_first(second)
    assert (second.woken, third.woken) == (True, False)


def test_who_leaves_from_the_middle_lets_the_first_look_again() -> None:
    first, second = Waiter(), Waiter(5)
    line = line_of(first, second)
    line.leave(second)
    assert first.woken
    assert line.permits == 1


def test_who_never_joined_or_left_before_changes_nothing() -> None:
    first, gone = Waiter(), Waiter()
    line = line_of(first, gone)
    line.leave(gone)
    first.woken = False
    line.leave(gone)
    line.leave(Waiter())
    assert not first.woken
    assert (len(line), line.permits) == (1, 1)


def test_one_whose_loop_is_closed_counts_as_gone() -> None:
    alive = Waiter()
    line = line_of(deaf(), deaf(), alive, deaf())
    line.wake_first()
    assert line.is_first(alive)
    assert alive.woken
    assert (len(line), line.permits) == (2, 3)


def test_all_may_be_told_to_look_and_those_of_closed_loops_count_as_gone() -> None:
    first, last = Waiter(), Waiter(4)
    line = line_of(deaf(), first, deaf(), last)
    line.wake_all()
    assert (first.woken, last.woken) == (True, True)
    assert line.is_first(first)
    assert (len(line), line.permits) == (2, 5)


def test_a_line_of_closed_loops_only_is_empty_once_it_is_woken() -> None:
    line = line_of(deaf(), deaf())
    line.wake_first()
    assert (len(line), line.permits) == (0, 0)


def test_an_empty_line_does_not_carry_a_remainder_on() -> None:
    line = line_of(Waiter(3))
    line.clear()
    assert (len(line), line.permits) == (0, 0)
    line.permits = 7  # what an interrupt between two steps may leave
    line.join(Waiter(2))
    assert line.permits == 2


# --- the bell ---


def test_a_waiter_woken_before_it_listens_is_woken_all_the_same() -> None:
    waiter = Waiter()
    assert waiter.wake()
    drive.block(waiter, None)
    assert waiter.signal is None


def test_waking_twice_is_waking_once() -> None:
    waiter = Waiter()
    thread = threading.Thread(target=drive.block, args=(waiter, None))
    thread.start()
    while waiter.signal is None:
        pass
    signal = waiter.signal
    waiter.wake()
    signal()
    thread.join(10)
    assert not thread.is_alive()


def test_a_limit_of_zero_does_not_block() -> None:
    waiter = Waiter()
    drive.block(waiter, 0.0)
    drive.block(waiter, -1.0)
    assert not waiter.woken


class LineRules(RuleBasedStateMachine):
    """The line against a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.line = Line()
        self.model: list[Waiter] = []

    @rule(permits=st.integers(1, 3), alive=st.booleans())
    def join(self, permits: int, alive: bool) -> None:
        waiter = Waiter(permits) if alive else deaf()
        self.line.join(waiter)
        self.model.append(waiter)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(self.model))
        self.line.leave(waiter)
        self.model.remove(waiter)
        self.drop_the_deaf()

    @rule()
    def wake(self) -> None:
        self.line.wake_first()
        self.drop_the_deaf()
        if self.model:
            assert self.model[0].woken
            self.model[0].woken = False

    @rule()
    def wake_all(self) -> None:
        self.line.wake_all()
        self.model = [waiter for waiter in self.model if waiter.signal is None]
        assert all(waiter.woken for waiter in self.model)
        for waiter in self.model:
            waiter.woken = False

    def drop_the_deaf(self) -> None:
        while self.model and self.model[0].signal is not None:
            self.model.pop(0)

    @invariant()
    def agrees(self) -> None:
        assert len(self.line) == len(self.model)
        assert self.line.permits == sum(waiter.permits for waiter in self.model)
        assert all(self.line.is_first(waiter) == (number == 0) for number, waiter in enumerate(self.model))


TestLine = LineRules.TestCase
