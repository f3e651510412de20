"""
What the nanoseconds of a guarded call are: one wrapper for each kind of statement in generated code.

The statements are repeated here on stand-ins with slots, so that each can be measured alone. Run it with
``python -m benchmarks.blocks``.
"""

import sys
from contextvars import ContextVar
from textwrap import indent
from threading import Lock
from types import CoroutineType
from typing import Any

from benchmarks.measuring import ROUNDS, Subject, answer, build, empty, measure
from benchmarks.report import NONE, VERSION, Table

from resilience import _clock

WRAPPER = """
def made({parameters}):
{before}
    value = fn({parameters})
{after}
    return value
"""

LEAVE = "raise RuntimeError"
"""Stands for what leaves the success path; it is never run."""

GCRA = (
    f"if state.waiters: {LEAVE}\n"
    "began = clock.monotonic()\n"
    "t = began * state.rate + state.shift\n"
    "if state.tat <= t: state.tat = x = t + 1\n"
    "elif (s := state.tat) - t <= state.room: state.tat = x = (s if s > t else t) + 1\n"
    f"else: {LEAVE}"
)
TAKE = (
    f"if state.waiters: {LEAVE}\n"
    "cell = state.cell\n"
    "if (n := cell.n) < cell.limit: cell.n = n + 1\n"
    f"else: {LEAVE}"
)
GIVE_BACK = f"cell.n -= 1\nif state.waiters: {LEAVE}"

EXACT = "the function's own signature"
GENERIC = "any signature (`*a, **k`): the reference"

BLOCKS = {
    "is a deadline in force? asked once deadlines are in use": (
        f"deadline = block()\nif deadline is not None: {LEAVE}",
        "",
    ),
    "one count in a slot": ("", "state.n += 1"),
    "one count in a dict": ("", 'counts["success"] += 1'),
    "one clock read, looked up so that tests can replace it": ("began = clock.monotonic()", ""),
    "concurrency limiter: a place taken and given back": (TAKE, GIVE_BACK),
    "rate limiter: GCRA and its clock read": (GCRA, ""),
    "breaker: its cell, and a good result in it": (
        f"if (cell := state.cell) is None: {LEAVE}",
        "cell.n += 1",
    ),
    "breaker: whose bucket is it? with its clock read": (
        "",
        f"now = clock.monotonic()\nif now >= state.end: {LEAVE}",
    ),
    "not asked: did a setting change since the code was made?": (f"if state.epoch != made_in: {LEAVE}", ""),
    "not asked: was a coroutine returned?": ("", f"if type(value) is CoroutineType: {LEAVE}"),
    "for comparison: a lock taken and given back": ("with lock: pass", ""),
}
"""For each block: its statements before the call, and those after it."""


class State:
    """What the statements work on."""

    __slots__ = ("cell", "end", "epoch", "limit", "n", "rate", "room", "shift", "tat", "waiters")

    def __init__(self) -> None:
        self.n = self.epoch = 0
        self.waiters: dict[object, int] = {}
        self.tat = self.shift = 0.0
        self.rate, self.room = 1e9, 1e9
        self.limit = 1000
        self.end = float("inf")


def made(before: str = "", after: str = "") -> Any:
    """Return a wrapper with the function's own signature that consists of these statements."""
    state = State()
    state.cell = State()
    known: dict[str, Any] = {
        "clock": _clock, "CoroutineType": CoroutineType, "counts": {"success": 0}, "fn": answer,
        "block": ContextVar("block", default=None).get, "lock": Lock(), "made_in": 0, "state": state,
    }  # fmt: skip
    parts = {"before": indent(before or "pass", " " * 4), "after": indent(after or "pass", " " * 4)}
    exec(WRAPPER.format(parameters="x", **parts), known)
    return known["made"]


def table(rounds: int = ROUNDS) -> Table:
    """Measure every block."""
    subjects = [
        Subject(name, f, answer, empty(answer))
        for name, f in {
            GENERIC: empty(answer),
            EXACT: made(),
            **{name: made(*statements) for name, statements in BLOCKS.items()},
        }.items()
    ]
    figures = measure(subjects, rounds=rounds)
    exact = figures[EXACT]
    rows = [
        (name, f"{figures[name].ratio:.2f}", f"{figures[name].ns:.0f}", NONE) for name in (GENERIC, EXACT)
    ]
    rows += [
        (name, f"{figure.ratio:.2f}", f"{figure.ns:.0f}", f"{figure.ratio - exact.ratio:+.2f}")
        for name, figure in figures.items()
        if name in BLOCKS
    ]
    note = f"{build()}. A call of the function itself and the loop are part of every figure."
    return Table(f"blocks {VERSION}", ("wrapper with this block alone", "ratio", "ns", "block"), rows, [note])


if __name__ == "__main__":
    print(table().text())
    sys.exit(0)
