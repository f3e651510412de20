"""
Who is asked, in generated code, whether a value that the function returned is good.

Each classifier once, however many policies go by it. Unless all say that it is good, the call goes on as
flows, which ask again: a classifier that raises, or returns what is no verdict, is theirs to deal with.
"""

from dataclasses import replace
from typing import Any, Final

from resilience._runtime.hot import Hot
from resilience.outcome import BadResults

OUTCOME: Final = "outcome"
"""What the text calls the `Outcome` that classifiers share, which is made only if one of them needs it."""


def asked_once(hots: list[tuple[Any, Hot]], *, for_deadline: bool) -> list[tuple[Any, Hot]]:
    """
    Return *hots*, those of a whole call, the first the outermost, with what they ask about a value.

    Args:
        hots: The policies and their statements.
        for_deadline: Whether ``deadline`` is that of the caller, or None: it may be in force.

    """
    nearest: Hot | None = None  # the limit of time that ends first, of those around
    within: list[Hot | None] = []
    for _, hot in hots:
        if hot.limit is not None and (nearest is None or (hot.seconds or 0.0) < (nearest.seconds or 0.0)):
            nearest = hot
        within.append(nearest)
    asked: list[tuple[object, Hot | None]] = []
    found = [
        (policy, _asking(hot, limit, asked, for_deadline=for_deadline))
        for (policy, hot), limit in zip(reversed(hots), reversed(within), strict=True)  # as flows ask
    ]
    return found[::-1]


def _asking(
    hot: Hot, limit: Hot | None, asked: list[tuple[object, Hot | None]], *, for_deadline: bool
) -> Hot:
    classify = hot.classify
    if classify is None:
        return hot
    names: dict[str, object] = dict(hot.names)
    if isinstance(classify, BadResults):
        limit = None  # it looks at no context
        names["is_bad"], finds_good = classify.is_bad, "not $is_bad(value)"
    else:
        names["classify"], context = classify, _context(limit, for_deadline=for_deadline)
        if context != PLAIN:
            hot = replace(hot, fail=None)  # which would judge an error without that context
        if limit is not None:
            names["around"] = limit.names["settings"]
        finds_good = f"$classify({OUTCOME}, {context}) is GOOD"
    if any(classify is known and limit is around for known, around in asked):
        return hot
    asked.append((classify, limit))
    return replace(hot, finds_good=finds_good, names=names)


PLAIN: Final = "PLAIN"
"""What the text calls the context of a call that has no deadline."""


def _context(limit: Hot | None, *, for_deadline: bool) -> str:
    """Return the expression for what is known of a call within *limit*."""
    if limit is None:
        return f"({PLAIN} if deadline is None else CallContext(deadline=deadline))" if for_deadline else PLAIN
    until = "began + $around.duration"
    if for_deadline:
        is_nearer = f"deadline is not None and deadline < {until}"
        until = f"deadline if {is_nearer} else {until}"
    return f"CallContext(deadline={until})"
