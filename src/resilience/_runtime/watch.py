"""
Who watches calls from outside: one place for telemetry to stand, empty unless something was asked for.

A watcher stands around the whole call, outermost, and around each attempt, innermost. It may be put here, or
taken away, at any time: flows look here at every call, and generated code is made anew.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from resilience._runtime.epoch import epoch
from resilience._runtime.flow import Call, Flow, Inner, leaf
from resilience._runtime.hot import Hot
from resilience.outcome import CallContext, Outcome, Verdict

Nested = Callable[[Inner], Inner]
Judge = Callable[[Outcome[Any], CallContext], Verdict]
Note = Callable[[str, Callable[[], Mapping[str, str]]], None]


class Watcher(Protocol):
    """Somebody who watches calls."""

    def around(self, name: str, judge: Judge, nested: Nested) -> Inner:
        """Return the flow of calls to the policy called *name*, which *nested* puts around an inner flow."""
        ...

    def hots(self, name: str, judge: Judge) -> list[tuple[Any, Hot]]:
        """Return what generated code runs for it around calls to the policy called *name*."""
        ...


class Watch:
    """
    The present watchers.

    Attributes:
        watcher: Who watches calls, or None.
        note: Takes the name of a policy and what returns what to say about a call that went wrong there,
            if anybody listens; or None.

    """

    __slots__ = ("note", "watcher")

    def __init__(self) -> None:
        self.watcher: Watcher | None = None
        self.note: Note | None = None

    def put(self, watcher: Watcher | None) -> None:
        """Let *watcher* watch from the next call on, or nobody."""
        self.watcher = watcher
        epoch.end()


watch: Final = Watch()


def watched(name: str, judge: Judge, nested: Nested) -> Inner:
    """Return the flow of calls that *nested* puts around the function, which follows who watches."""
    made: tuple[Watcher, Inner] | None = None
    unwatched = nested(leaf)

    def flow(call: Call) -> Flow:
        nonlocal made
        watcher = watch.watcher
        if watcher is None:
            return unwatched(call)
        if made is None or made[0] is not watcher:
            made = (watcher, watcher.around(name, judge, nested))
        return made[1](call)

    return flow
