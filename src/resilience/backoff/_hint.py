"""What becomes of a delay when the server says when to come back."""

from typing import Final

from resilience.typing import Seconds

RETRY_AFTER_WINDOW: Final[Seconds] = 5.0
"""Default of ``retry_after_window``, see `honour`. Source: the AWS SDKs (smithy)."""


def honour(hint: Seconds | None, own: Seconds, window: Seconds | None = RETRY_AFTER_WINDOW) -> Seconds:
    """
    Combine the time that the server asked for with our own delay: clamp(hint, own, own + window).

    Never shorter than our own delay, whose jitter also keeps clients apart that were given one and the same
    hint; longer by *window* at most, so that no server can stall its callers.

    Args:
        hint: Seconds that the server asked us to stay away, or None.
        own: Delay of the backoff, in seconds.
        window: Most seconds that the hint may add, >= 0; None: any number, and only the deadline bounds it.

    Returns:
        Seconds to wait. A hint that is negative or not a number counts as none.

    Source:
        AWS SDKs (smithy): window 5 s. gRPC waits exactly the hint.

    Example:
        >>> honour(3.0, own=0.2), honour(60.0, own=0.2), honour(None, own=0.2)
        (3.0, 5.2, 0.2)

    """
    if hint is None:
        return own
    wanted = max(own, hint)  # in this order NaN loses
    return wanted if window is None else min(wanted, own + window)
