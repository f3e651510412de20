"""
Whether a statement that counts needs a lock, and how generated code holds it then.

Where an interpreter switches threads only at calls and loops, a line of int or float work without a call is
not interrupted, and takes no lock. Elsewhere the same statements stand under the locks of their policies.
That is decided when code is generated.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Final

INDENT: Final = "    "

MOST_TOOLS: Final = 6
"""Tools that ``sys.monitoring`` may have, by its documentation."""

IS_FREE_THREADED: Final = "free-threading" in sys.version
"""
What a build is, and not what it has at present: a free-threaded one may have a GIL for a while, such as
during the import of an extension.
"""

_needs_locks: bool = IS_FREE_THREADED or os.environ.get("RESILIENCE_LOCKS", "") not in ("", "0")


def needs_locks() -> bool:
    """
    Whether a statement of one line without a call needs a lock.

    It does on free-threaded builds, where the environment variable ``RESILIENCE_LOCKS=1`` says so, and while
    a tool of ``sys.monitoring`` asks for every branch or instruction: it may let other threads run within a
    line. A tracer that is told of lines does no harm.
    """
    return _needs_locks or _is_watched_within_lines()


def _is_watched_within_lines() -> bool:
    monitoring = getattr(sys, "monitoring", None)  # there from 3.12 on
    if monitoring is None:
        return False
    within = monitoring.events.BRANCH | monitoring.events.INSTRUCTION
    for tool in range(MOST_TOOLS):
        if monitoring.get_tool(tool) is not None and monitoring.get_events(tool) & within:
            return True
    return False


NEEDS_LOCKS: Final = needs_locks()
"""The same as it was found at first: for lines outside of generated code that are worth a lock only if they
need one."""


def under(lock: str, statements: Sequence[tuple[str, bool]]) -> list[str]:
    """Return *statements*, each with whether it is free: those that are stand outside of the *lock*."""
    lines: list[str] = []
    was_free = True
    for text, is_free in statements:
        if was_free and not is_free:
            lines.append(f"with {lock}:")
        lines.append(text if is_free else INDENT + text)
        was_free = is_free
    return lines


def taken(
    lock: str, holds: str, take: Sequence[str], *, undo: Sequence[str], otherwise: Sequence[str]
) -> list[str]:
    """
    Return what takes something under *lock*, and lets go of it if an interrupt strikes at the lock.

    Args:
        lock: The lock.
        holds: Name of what says whether it is held. It is True first: between that and what follows there is
            no call, at which an interrupt could strike. *take* makes it False again if there was nothing.
        take: The statements.
        undo: Those that give it back.
        otherwise: What is done in any case before the interrupt goes on.

    """
    return [
        f"{holds} = False",
        "try:",
        *indented([f"with {lock}:", *indented([f"{holds} = True", *take])]),
        "except BaseException:",
        *indented([f"if {holds}:", *indented(undo), *otherwise, "raise"]),
    ]


def surely(good: Sequence[str], held: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """
    Return *good*, which gives back what is held, and again if an interrupt strikes before that is done.

    Args:
        good: The statements.
        held: Names of what says what is held, each with the statements that give it back.

    """
    again = [line for holds, back in held for line in (f"if {holds}:", *indented(back))]
    return ["try:", *indented(good), "except BaseException:", *indented([*again, "raise"])]


def indented(lines: Iterable[str]) -> list[str]:
    """Return the lines, one step further in."""
    return [INDENT + line for line in lines]
