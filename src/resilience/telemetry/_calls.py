"""Calls as a whole: how they ended and how long they took, in counters of our own."""

import threading
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from typing import Any, Final

from resilience import _clock
from resilience._runtime import census, fork
from resilience._runtime.census import Reading
from resilience._runtime.flow import PLAIN
from resilience._runtime.hot import Hot
from resilience._runtime.watch import Judge
from resilience.errors import DeadlineExceededError, RejectedError
from resilience.outcome import Outcome, Verdict
from resilience.telemetry._registry import BOUNDS
from resilience.typing import Seconds

BOUND: Final = "resilience.call.bound"
OUTCOME: Final = "resilience.outcome"
_TEXTS: Final = (*(f"{bound:g}" for bound in BOUNDS), "+Inf")


class CallCounts:
    """
    The calls to all that is guarded under one name.

    Attributes:
        name: The name.
        quick: Calls that succeeded and fell into the first latency bucket, as counted by generated code.
            Floats, here and below, are quicker to add to than ints, and exact up to 2**53.
        good: The other calls that succeeded, by the latency bucket that they fell into.
        bad: Calls that failed, likewise.
        seconds: What both took together.
        rejected: Calls whose function did not run.
        cancelled: Calls that were cut short.

    """

    __slots__ = ("__weakref__", "_lock", "bad", "cancelled", "good", "name", "quick", "rejected", "seconds")

    kind = "call"

    def __init__(self, name: str) -> None:
        self.name = name
        self.good = [0.0] * (len(BOUNDS) + 1)
        self.bad = [0.0] * (len(BOUNDS) + 1)
        self._lock = threading.RLock()
        self._zero()
        fork.register(self)
        census.enroll(self)

    def readings(self) -> Iterator[Reading]:
        """Return how many calls ended how, and within which time."""
        good, bad = [int(n) for n in self.good], [int(n) for n in self.bad]
        good[0] += int(self.quick)
        yield Reading("resilience.calls", sum(good), ((OUTCOME, "success"),))
        yield Reading("resilience.calls", sum(bad), ((OUTCOME, "failure"),))
        yield Reading("resilience.calls", self.rejected, ((OUTCOME, "rejected"),))
        yield Reading("resilience.calls", self.cancelled, ((OUTCOME, "cancelled"),))
        for text, count in zip(_TEXTS, accumulate(map(sum, zip(good, bad, strict=True))), strict=True):
            yield Reading("resilience.call.buckets", count, ((BOUND, text),))
        yield Reading("resilience.call.time", self.seconds)

    def count(self, ending: str, took: Seconds) -> None:
        """Count one call that ended so."""
        bucket = bisect_left(BOUNDS, took)
        with self._lock:
            if ending == "success":
                self.good[bucket] += 1.0
            elif ending == "failure":
                self.bad[bucket] += 1.0
            elif ending == "rejected":
                self.rejected += 1
                return
            else:
                self.cancelled += 1
                return
            self.seconds += took

    def hot(self, judge: Judge) -> Hot:
        """Return what a call runs that ends well: `count`, as statements. *judge* says how one failed."""

        def fail(tokens: list[Any], place: int, outcome: Outcome[Any], began: Seconds | None) -> None:
            ending = ending_of(outcome, judge)
            if began is None and ending != "rejected":
                return  # its flow looks at the clock
            took = 0.0 if began is None else _clock.monotonic() - began
            tokens[place] = None  # first: interrupted here, it is not counted rather than twice
            self.count(ending, took)

        return Hot(
            fail=fail,
            lock="$calls._lock",
            names={
                "calls": self,
                "cells": self.good,
                "bounds": BOUNDS,
                "bisect": bisect_left,
            },
            good=(
                "$took = now - began",
                f"if $took <= {BOUNDS[0]!r}: $calls.quick += 1.0",
                "else: $cells[$bisect($bounds, $took)] += 1.0",
                "$calls.seconds += $took",
            ),
            let_go=("$calls.cancelled += 1",),
            token="True",  # noqa: S106  # no secret
            reads_began=True,
            reads_now=True,
        )

    def _give_back_token(self, token: object) -> None:  # noqa: ARG002  # as of every policy
        """Count a call that was interrupted between generated code and its flow."""
        with self._lock:
            self.cancelled += 1

    def _zero(self) -> None:
        # In place: generated code holds the lists.
        self.good[:] = self.bad[:] = [0.0] * (len(BOUNDS) + 1)
        self.quick = 0.0
        self.seconds: Seconds = 0.0
        self.rejected = self.cancelled = 0

    def _after_fork(self) -> None:
        self._lock = threading.RLock()
        self._zero()


def ending_of(outcome: Outcome[Any], judge: Judge) -> str:
    """Return how a call ended for its caller."""
    error = outcome.error
    if isinstance(error, RejectedError) or (isinstance(error, DeadlineExceededError) and not error.started):
        return "rejected"
    try:
        verdict = judge(outcome, PLAIN)
    except Exception:  # noqa: BLE001  # a classifier that fails has failed the call already, or will not
        verdict = Verdict.GOOD if error is None else Verdict.BAD
    if error is None:
        return "success" if verdict in (Verdict.GOOD, Verdict.IGNORED) else "failure"
    return "success" if verdict is Verdict.GOOD else "failure"
