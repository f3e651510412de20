"""Who is next in line: by importance, by arrival, and by what shares guarantee."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from resilience._core.permit import Refusal
from resilience.concurrency_limiter._ask import Ask
from resilience.concurrency_limiter._cell import Slot
from resilience.concurrency_limiter._machine import Bulkhead
from resilience.concurrency_limiter._partitions import Partitions
from resilience.concurrency_limiter._queue import Queue, Ticket
from resilience.concurrency_limiter._settings import ConcurrencyLimiterSettings

SHARES = {"live": 0.5, "batch": 0.25}


def machine_of(limit=1, **settings):
    settings = ConcurrencyLimiterSettings(limit=limit, max_queue=4, max_wait=1.0, **settings)
    return (Bulkhead if settings.shares is None else Partitions)(settings, 0.0)


def line_of(machine, *tickets):
    line = Queue(machine)
    for ticket in tickets:
        line.join(ticket)
    return line


def turns(line):
    """Return who goes, one after the other, while places are free."""
    order = []
    while line:
        (ticket,) = [waiter for waiter in line.waiters if line.is_first(waiter)]
        order.append(ticket)
        line.leave(ticket)
    return order


def test_the_more_important_go_first_and_alike_ones_in_the_order_they_came():
    low, first, second, high = Ticket(3), Ticket(2), Ticket(2), Ticket(1)
    assert turns(line_of(machine_of(), low, first, second, high)) == [high, first, second, low]


def test_the_last_goes_first_while_the_line_is_more_than_half_full():
    tickets = [Ticket(2) for _ in range(4)]
    first, second, third, fourth = tickets
    assert turns(line_of(machine_of(order="adaptive_lifo"), *tickets)) == [fourth, third, first, second]


def test_the_more_important_go_first_under_pressure_too():
    low, first, second = Ticket(3), Ticket(2), Ticket(2)
    assert turns(line_of(machine_of(order="adaptive_lifo"), first, second, low)) == [second, first, low]


def test_it_is_nobodys_turn_while_there_is_no_place():
    machine = machine_of()
    slot = machine.admit(0.0)
    ticket = Ticket(2)
    line = line_of(machine, ticket)
    assert not line.is_first(ticket)
    line.wake_first()
    assert not ticket.woken
    machine.release(slot, 0.0)
    line.wake_first()
    assert ticket.woken
    assert line.is_first(ticket)


def test_one_with_a_free_place_of_its_own_passes_those_who_have_none():
    machine = machine_of(shares={"live": 0.5}, share_of=str)
    machine.admit(0.0, Ask(None, 2))
    other, live = Ticket(0), Ticket(4, "live")
    line = line_of(machine, other)
    assert not line.bars(Ask("live", 4))
    assert line.bars(Ask(None, 0))
    line.join(live)
    assert line.bars(Ask("live", 4))
    assert line.is_first(live)


def test_who_matters_more_takes_the_place_of_the_last_of_those_who_matter_least():
    low, last, middle = Ticket(4), Ticket(4, "live"), Ticket(3)
    machine = machine_of()
    machine.admit(0.0)
    line = line_of(machine, low, last, middle)
    assert line.make_room(Ticket(3))
    assert (low in line, last in line, middle in line) == (True, False, True)
    assert last.woken
    assert line.make_room(Ticket(3))
    assert not line.make_room(Ticket(3))
    assert len(line) == 1


@pytest.mark.parametrize("rank", range(5))
def test_in_an_empty_line_nobody_makes_room(rank):
    assert not line_of(machine_of()).make_room(Ticket(rank))


def test_one_who_comes_into_a_long_line_wakes_whose_turn_it_is_now():
    """Else a free place would wait for one who sleeps."""
    machine = machine_of(order="adaptive_lifo")
    slot = machine.admit(0.0)
    first, second, low = Ticket(1), Ticket(1), Ticket(3)
    line = line_of(machine, first, second)
    machine.release(slot, 0.0)
    line.wake_first()
    assert (first.woken, second.woken) == (True, False)
    line.join(low)
    assert line.is_first(second)
    assert second.woken


def deaf(rank=2):
    """One whose event loop is closed."""
    ticket = Ticket(rank)

    def signal():
        raise RuntimeError("Event loop is closed")

    ticket.signal = signal
    return ticket


def test_those_whose_event_loop_is_closed_count_as_gone():
    machine = machine_of()
    slot = machine.admit(0.0)
    ticket = Ticket(2)
    line = line_of(machine, deaf(), deaf(1), ticket)
    machine.release(slot, 0.0)
    line.wake_first()
    assert ticket.woken
    assert len(line) == 1
    assert line.is_first(ticket)


def test_everybody_may_be_let_look_again_and_the_deaf_are_gone():
    machine = machine_of()
    machine.admit(0.0)
    ticket = Ticket(2)
    line = line_of(machine, deaf(), ticket)
    line.wake_all()
    assert ticket.woken
    assert len(line) == 1
    assert line._rows == {(2, None): {ticket: None}}


def test_after_a_fork_nobody_waits():
    machine = machine_of()
    line = line_of(machine, Ticket(2), Ticket(0))
    line.clear()
    assert not line
    assert line._rows == {}


def test_one_who_passes_the_line_lets_those_look_whose_place_nobody_else_can_take():
    machine = machine_of(1, shares=SHARES, share_of=str)
    live = machine.admit(0.0, Ask("live", 2))
    common, ticket = Ticket(2), Ticket(2, "live")
    line = line_of(machine, common, ticket)
    machine.release(live, 0.0)
    line.wake_first()
    assert (common.woken, ticket.woken) == (True, False)
    assert not line.bars(Ask("batch", 2))
    assert isinstance(machine.admit(0.0, Ask("batch", 2)), Slot)
    assert not line.is_first(common)
    assert line.is_first(ticket)
    assert ticket.woken


@pytest.mark.parametrize("half", ["line", "row"])
def test_one_whom_an_interrupt_left_half_in_line_keeps_nobody_waiting(half):
    ticket, other = Ticket(2), Ticket(2)
    line = line_of(machine_of(), ticket, other)
    if half == "line":
        line._rows[2, None].pop(ticket)
    else:
        line.waiters.pop(ticket)
    line.leave(ticket)
    assert turns(line) == [other]


class QueueRules(RuleBasedStateMachine):
    """Any interleaving of those who come, look, give up and end; against a list that is searched."""

    @initialize(
        limit=st.integers(1, 4),
        order=st.sampled_from(["fifo", "adaptive_lifo"]),
        shares=st.sampled_from([None, SHARES]),
    )
    def begin(self, limit, order, shares):
        self.machine = machine_of(limit, order=order, shares=shares, share_of=shares and str)
        self.line = Queue(self.machine)
        self.newest_first = order == "adaptive_lifo"
        self.waiting = []
        self.slots = []

    def model(self):
        """Whose turn it is."""
        able = [each for each in self.waiting if self.machine.has_room(each.group[1])]
        if not able:
            return None
        rank = min(each.group[0] for each in able)
        alike = [each for each in able if each.group[0] == rank]
        return alike[-1] if self.newest_first and len(self.waiting) > 2 else alike[0]

    @rule(rank=st.integers(0, 4), key=st.sampled_from([None, *SHARES]))
    def come(self, rank, key):
        ask = Ask(key, rank)
        barred = bool(self.line) and self.line.bars(ask)
        own = self.machine.has_own_room(key)
        assert barred == (bool(self.waiting) and not (own and all(e.group[1] != key for e in self.waiting)))
        if not barred and not isinstance(slot := self.machine.admit(0.0, ask), Refusal):
            self.slots.append(slot)
            return
        ticket = Ticket(rank, key)
        if len(self.line) >= 4:
            least = max(each.group[0] for each in self.waiting)
            made = self.line.make_room(ticket)
            assert made == (least > rank)
            if not made:
                return
            gone = [each for each in self.waiting if each.group[0] == least][-1]
            assert gone not in self.line
            self.waiting.remove(gone)
        self.line.join(ticket)
        self.waiting.append(ticket)
        self.look_as(ticket)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def look(self, data):
        woken = [each for each in self.waiting if each.woken]
        if woken:
            self.look_as(data.draw(st.sampled_from(woken)))

    def look_as(self, ticket):
        """What one who waits does when it is woken."""
        ticket.woken = False
        if not self.line.is_first(ticket):
            return
        rank, key = ticket.group
        slot = self.machine.admit(0.0, Ask(key, rank))
        assert not isinstance(slot, Refusal)
        self.slots.append(slot)
        self.waiting.remove(ticket)
        self.line.leave(ticket)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data):
        ticket = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(ticket)
        self.line.leave(ticket)

    @precondition(lambda self: self.slots)
    @rule(data=st.data())
    def end(self, data):
        slot = data.draw(st.sampled_from(self.slots))
        self.slots.remove(slot)
        self.machine.release(slot, 0.0)
        self.line.wake_first()

    @rule(limit=st.integers(1, 4))
    def resize(self, limit):
        self.machine.resize(limit)
        self.line.wake_first()

    @invariant()
    def it_is_the_turn_of_the_right_one(self):
        turn = self.model()
        assert [each for each in self.waiting if self.line.is_first(each)] == ([turn] if turn else [])

    @invariant()
    def nobody_sleeps_while_there_is_a_place(self):
        turn = self.model()
        assert turn is None or turn.woken

    @invariant()
    def nothing_is_lost(self):
        assert list(self.line.waiters) == self.waiting
        assert sum(map(len, self.line._rows.values())) == len(self.waiting) == self.line.permits
        assert self.machine.inflight == len(self.slots)


TestQueue = QueueRules.TestCase
