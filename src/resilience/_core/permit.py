"""What a machine answers when it is asked to admit a call."""

from typing import Final

from resilience.typing import Seconds


class Refusal:
    """
    No: the call may not start now.

    Attributes:
        retry_after: Seconds until a further call may be admitted, a lower bound; None when the
            machine cannot know.

    """

    __slots__ = ("retry_after",)

    def __init__(self, retry_after: Seconds | None) -> None:
        self.retry_after = retry_after

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"Refusal(retry_after={self.retry_after!r})"


NEVER: Final = Refusal(None)
"""A refusal without a time: shared, because refusals are what runs in an outage."""
