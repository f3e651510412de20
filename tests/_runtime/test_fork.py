"""A child process inherits memory, and none of the threads that were using it."""

import gc
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable

import pytest

from resilience._runtime import fork
from resilience._runtime.flow import Waiter
from resilience._runtime.pipeline import Pipeline
from resilience.outcome import Verdict
from resilience.testing import script

from .dummies import Around, Turnstile, through

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


def in_child(work: Callable[[], bool]) -> bool:
    """Run *work* in a forked child; say whether it returned True within a few seconds."""
    child = os.fork()
    if child == 0:
        try:
            done = work()
            sys.stderr.flush()
            os._exit(0 if done else 1)
        finally:
            os._exit(2)
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status == 0
        time.sleep(0.001)
    os.kill(child, 9)
    os.waitpid(child, 0)
    raise AssertionError("the child hangs")


def untraced(work: Callable[[], object]) -> Callable[[], None]:
    """Return *work* for a thread beside a fork: a tracer such as coverage's has locks of its own."""

    def run() -> None:
        sys.settrace(None)
        work()

    return run


class Holding:
    """A thread that holds a lock until the block ends."""

    def __init__(self, lock) -> None:
        self.lock = lock
        self.held, self.release = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=untraced(self.hold))

    def hold(self) -> None:
        with self.lock:
            self.held.set()
            self.release.wait(20)

    def __enter__(self) -> None:
        self.thread.start()
        assert self.held.wait(10)

    def __exit__(self, *exc_info: object) -> None:
        self.release.set()
        self.thread.join()


def test_a_lock_that_another_thread_held_is_free_in_the_child() -> None:
    gate = Turnstile()
    with Holding(gate._lock):
        assert in_child(lambda: gate.call(lambda: True))
    assert gate.call(lambda: True), "the parent is as before"


def test_the_child_of_a_busy_pipeline_can_call_and_reload_it() -> None:
    pipeline = Pipeline("p", Turnstile(), Around(through))

    def work() -> bool:
        pipeline.reload(Turnstile())
        return pipeline.call(lambda: True)

    with Holding(pipeline._lock):
        assert in_child(work)


def test_calls_in_flight_are_dropped_in_the_child_only() -> None:
    gate = Turnstile(limit=2)
    with gate.guard(), gate.guard():
        assert in_child(lambda: gate.inside == 0 and gate.call(lambda: True))
        assert gate.inside == 2
    assert gate.ended == [Verdict.GOOD] * 2


def test_those_who_waited_are_no_longer_in_line_in_the_child() -> None:
    gate = Turnstile(limit=1, max_wait=20.0)
    permit = gate.try_acquire()
    waiting = threading.Thread(target=untraced(lambda: gate.call(int)))
    waiting.start()
    while not gate.waiting:
        time.sleep(0.001)
    assert in_child(lambda: gate.waiting == 0 and gate.call(lambda: True))
    permit.release()
    waiting.join(10)
    assert not waiting.is_alive()


def test_a_policy_made_in_a_child_follows_further_forks() -> None:
    def work() -> bool:
        gate = Turnstile()
        with Holding(gate._lock):
            return in_child(lambda: gate.call(lambda: True))

    assert in_child(work)


def test_who_is_gone_is_not_told() -> None:
    class Follower:
        def _after_fork(self) -> None: ...

    follower = Follower()
    fork.register(follower)
    reference = weakref.ref(follower)
    gc.collect()
    before = len(fork._followers)
    del follower
    gc.collect()
    assert reference() is None
    assert len(fork._followers) == before - 1


def test_a_new_object_at_an_old_address_stays_registered() -> None:
    # The old one's farewell may come after the new one took its key.
    class Follower:
        def _after_fork(self) -> None: ...

    old, new = Follower(), Follower()
    fork.register(old)
    farewell = fork._followers[id(old)]
    fork._followers[id(old)] = weakref.ref(new)
    farewell.__callback__(farewell)
    assert id(old) in fork._followers
    del fork._followers[id(old)]


def test_a_follower_that_fails_does_not_keep_the_others_from_following(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)

    class Broken:
        def _after_fork(self) -> None:
            raise ZeroDivisionError

    broken = Broken()
    fork.register(broken)
    gate = Turnstile()

    def work() -> bool:
        return gate.call(lambda: True)

    try:
        with Holding(gate._lock):
            assert in_child(work)
    finally:
        fork._followers.pop(id(broken))
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_many_forks_beside_working_threads_leave_every_child_working() -> None:
    gate = Turnstile(limit=4, max_wait=5.0)
    stop = threading.Event()
    was = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)

    def work() -> None:
        call = script(1)
        while not stop.is_set():
            gate.call(call)

    threads = [threading.Thread(target=untraced(work)) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            assert in_child(lambda: gate.call(lambda: gate.inside == 1))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(was)
    assert gate.inside == 0


def test_waiters_compare_by_identity() -> None:
    assert Waiter() != Waiter()
