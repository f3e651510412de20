"""What an operator has told a circuit to do, until it is taken back."""

from collections.abc import Callable
from types import TracebackType
from typing import Self


class Order:
    """
    An order in force, until `end` is called or the ``with`` block ends. Ending it twice changes nothing.

    Orders of one kind are counted: the last one to end lifts them.
    """

    __slots__ = ("_end",)

    def __init__(self, end: Callable[[], None]) -> None:
        self._end: Callable[[], None] | None = end

    def end(self) -> None:
        """Take the order back."""
        end, self._end = self._end, None
        if end is not None:
            end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
