"""
The same jobs, written by hand around one function: the least that does each, with the same counts.

What a clock or a count costs beside a call is another thing on each machine and in each version of Python,
and so is what generated code can cost at the least. This stands beside its gates, measured in the same run.
It has no settings, no events, no waiting line and no reload; what is not plain success it only points at.
"""

import asyncio
from bisect import bisect_left
from collections import defaultdict
from contextvars import ContextVar
from dataclasses import dataclass
from textwrap import indent
from time import monotonic
from typing import Any, Self

WRAPPER = """
{head} guarded(x):
{before}
    try:
        value = {wait}fn(x)
    except Exception as error:
        return failed(error)
    finally:
{in_any_case}
{after}
    return value
"""


@dataclass(frozen=True)
class Job:
    """
    What one policy does for a call that goes well.

    Attributes:
        before: Statements before the call.
        after: Statements after it.
        in_any_case: Statements for however it ends.

    """

    before: str = ""
    after: str = ""
    in_any_case: str = ""


RETRY = Job(after="retry.good += 1")
CONCURRENCY = Job(
    "if (n := places.inflight) < places.limit: places.inflight = n + 1\nelse: refuse()\nplaces.acquired += 1",
    in_any_case="places.inflight -= 1",
)
RATE = Job(
    "began = clock()\n"
    "bucket.tat = began + PACE if (tat := bucket.tat) <= began"
    " else tat + PACE if tat - began <= ROOM else tat\n"
    "if tat - began > ROOM: refuse()\n"
    "bucket.acquired += 1"
)
BREAKER = Job("if circuit.is_open: refuse()", "circuit.good += 1")
TIMED_BREAKER = Job(
    "if circuit.is_open: refuse()",
    "now = clock()\nif now >= circuit.bucket_end: rotate(now)\ncircuit.good += 1",
)
METRICS = Job(
    after="took = now - began\n"
    "if took <= 0.005: buckets[0] += 1\nelse: buckets[bisect(BOUNDS, took)] += 1\n"
    "calls.seconds += took"
)
TIMEOUT = Job(
    "if deadline.get() is not None: refuse()\n"
    "task = current_task()\n"
    "if task in under_way: refuse()\n"
    "if not timers[task.get_loop()].is_armed: arm()\n"
    "cancels = task.cancelling()\n"
    "under_way[task] = began",
    "if under_way.pop(task, None) is None: task.uncancel()",
)
TIMEOUT_ALONE = Job(f"began = clock()\n{TIMEOUT.before}", TIMEOUT.after)
METRICS_ALONE = Job("began = clock()", f"now = clock()\n{METRICS.after}")


class State:
    """What a job counts, in slots."""

    __slots__ = (
        "acquired", "bucket_end", "good", "inflight", "is_armed", "is_open", "limit", "seconds", "tat",
    )  # fmt: skip

    def __init__(self) -> None:
        self.acquired = self.good = self.inflight = 0
        self.seconds = self.tat = 0.0
        self.limit, self.bucket_end = 1000, float("inf")
        self.is_armed, self.is_open = True, False


def guarded(*jobs: Job) -> Any:
    """Return what wraps a function in all of the *jobs*, the first of which is the outermost."""

    def wrap(fn: Any, *, is_async: bool) -> Any:
        known: dict[str, Any] = {
            "bisect": bisect_left, "BOUNDS": (0.005, 0.01, 0.1, 1.0), "buckets": [0] * 5, "clock": monotonic,
            "current_task": asyncio.current_task, "deadline": ContextVar("deadline", default=None),
            "fn": fn, "PACE": 1e-9, "ROOM": 1.0,
            "timers": defaultdict(State), "under_way": {},
            **{name: State() for name in ("bucket", "calls", "circuit", "places", "retry")},
        }  # fmt: skip
        parts = {
            "before": "\n".join(job.before for job in jobs if job.before),
            "after": "\n".join(job.after for job in reversed(jobs) if job.after),
        }
        text = WRAPPER.format(
            head="async def" if is_async else "def",
            wait="await " if is_async else "",
            in_any_case=indent(
                "\n".join(job.in_any_case for job in jobs if job.in_any_case) or "pass", " " * 8
            ),
            **{name: indent(part or "pass", " " * 4) for name, part in parts.items()},
        )
        exec(text, known)
        return known["guarded"]

    return wrap


class Places(State):
    """Places for blocks."""

    __slots__ = ()

    def guard(self) -> "Block":
        return Block(self)


class Block:
    """A block that holds a place, and frees it even if an interrupt strikes on the way into its end."""

    __slots__ = ("_holds", "_places")

    def __init__(self, places: Places) -> None:
        self._places = places
        self._holds = False

    def __enter__(self) -> Self:
        places = self._places
        if (n := places.inflight) < places.limit:
            places.inflight = n + 1
        else:
            raise RuntimeError
        self._holds = True
        places.acquired += 1
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._holds = False
        self._places.inflight -= 1

    def __del__(self) -> None:
        if self._holds:
            self._places.inflight -= 1

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        self._holds = False
        self._places.inflight -= 1
