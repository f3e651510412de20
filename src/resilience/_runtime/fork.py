"""
One hook for `os.fork`: a child inherits memory, but not the threads that were using it.

A lock held by another thread at the time of the fork stays locked for ever in the child, and calls
in flight belong to the parent. Everything registered here renews its locks and drops what was in
flight before the child runs any other Python code.
"""

import os
import weakref
from typing import Protocol

from resilience._runtime.epoch import epoch


class Follower(Protocol):
    """Something that must be told that it woke up in a child process."""

    def _after_fork(self) -> None: ...


# A plain dict of weak references: reading its values is one step of the interpreter, so a fork in
# the middle of a registration in another thread leaves nothing half-done.
_followers: dict[int, "weakref.ref[Follower]"] = {}


def register(follower: Follower) -> None:
    """Call ``follower._after_fork()`` in every child, for as long as *follower* lives."""
    key = id(follower)

    def forget(reference: "weakref.ref[Follower]") -> None:
        if _followers.get(key) is reference:
            _followers.pop(key, None)

    _followers[key] = weakref.ref(follower, forget)


def _renew() -> None:
    epoch.after_fork()
    errors: list[BaseException] = []
    for reference in list(_followers.values()):
        if (follower := reference()) is not None:
            try:
                follower._after_fork()
            except BaseException as error:  # noqa: BLE001  # the others must follow all the same
                errors.append(error)
    if errors:  # the interpreter reports it, as it does for every hook of a fork
        raise errors[0]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
