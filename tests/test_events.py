"""What policies report, and who hears it."""

import sys
import threading
from typing import Any

import pytest

from resilience import ConcurrencyLimiter, ConfigError, Keyed
from resilience.events import Event, emit, held_back, listen


@pytest.fixture
def heard():
    events: list[Event] = []
    stop = listen(events.append)
    yield events
    stop()


def test_a_listener_hears_name_policy_and_details(heard: list[Event]) -> None:
    emit("resilience.retry.exhausted", "payments", {"attempts": 3})
    assert heard == [Event("resilience.retry.exhausted", "payments", {"attempts": 3})]


def test_an_event_cannot_be_changed(heard: list[Event]) -> None:
    emit("name", "policy", {})
    with pytest.raises(AttributeError):
        heard[0].name = "other"


def test_nothing_is_built_while_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resilience.events.Event", None)
    emit("name", "policy", {})


def test_a_listener_that_fails_breaks_neither_the_call_nor_the_other_listeners() -> None:
    def broken(event: Event) -> None:
        raise ZeroDivisionError

    heard: list[Event] = []
    stops = [listen(broken), listen(heard.append), listen(broken)]
    emit("name", "policy", {})
    for stop in stops:
        stop()
    assert len(heard) == 1


async def _later(event: Event) -> None: ...


@pytest.mark.parametrize("listener", [None, "print", _later])
def test_what_cannot_listen_is_refused_since_its_failures_show_nowhere(listener: Any) -> None:
    with pytest.raises(ConfigError, match="listen: listener must be a plain function of an event"):
        listen(listener)


def test_what_is_no_error_is_not_swallowed() -> None:
    def interrupted(event: Event) -> None:
        raise KeyboardInterrupt

    stop = listen(interrupted)
    with pytest.raises(KeyboardInterrupt):
        emit("name", "policy", {})
    stop()


def test_one_function_may_listen_twice_and_stop_once() -> None:
    heard: list[Event] = []
    first, second = listen(heard.append), listen(heard.append)
    emit("both", "policy", {})
    first()
    first()
    emit("one", "policy", {})
    second()
    emit("none", "policy", {})
    assert [event.name for event in heard] == ["both", "both", "one"]


def test_a_listener_may_stop_itself_and_start_others() -> None:
    heard: list[str] = []
    stops = []

    def once(event: Event) -> None:
        heard.append("once")
        stops[0]()
        stops.append(listen(lambda event: heard.append("later")))

    stops.append(listen(once))
    emit("first", "policy", {})
    assert heard == ["once"]
    emit("second", "policy", {})
    assert heard == ["once", "later"]
    stops[1]()


def test_no_subscription_is_lost_among_threads() -> None:
    heard: list[Event] = []
    was = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        kept = []

        def churn() -> None:
            for _ in range(300):
                listen(lambda event: None)()
            kept.append(listen(heard.append))

        threads = [threading.Thread(target=churn) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        emit("name", "policy", {})
    finally:
        sys.setswitchinterval(was)
        for stop in kept:
            stop()
    assert len(heard) == 4
    emit("after", "policy", {})
    assert len(heard) == 4


def test_events_of_a_block_that_holds_a_lock_are_told_after_it() -> None:
    seen: list[str] = []
    stop = listen(lambda event: seen.append(event.name))
    try:
        with pytest.raises(LookupError), held_back():
            emit("one", "p", {})
            with held_back():
                emit("two", "p", {})
            assert seen == []
            raise LookupError
        assert seen == ["one", "two"]
        emit("three", "p", {})
    finally:
        stop()
    assert seen == ["one", "two", "three"]


def test_a_listener_may_use_what_is_being_reloaded() -> None:
    keyed = Keyed("k", factory=lambda: ConcurrencyLimiter(limit=2), key=lambda n: n)
    keyed(lambda n: n)(1)
    done: list[bool] = []

    def use(event: Event) -> None:
        worker = threading.Thread(target=lambda: keyed(lambda n: n)(2))
        worker.start()
        worker.join(5.0)
        done.append(not worker.is_alive())

    stop = listen(use)
    try:
        keyed.reconfigure(factory=lambda: ConcurrencyLimiter(limit=5))
    finally:
        stop()
    assert done
    assert all(done)
