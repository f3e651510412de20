"""The text of one policy's statements, with the names of one function."""

from collections.abc import Iterable, Mapping
from string import Template
from typing import Final

from resilience._runtime import locked
from resilience._runtime.hot import Hot, Unlocked

_NO_NAMES: Final[Mapping[str, str]] = {}


class Part:
    """
    One policy's statements, with the names of one function.

    Attributes:
        hot: The statements as the policy has them.
        place: Which of the policies it is, from 1.
        lock: The lock under which it counts, or None.
        holds: What says whether it holds something, where that is taken under a lock.

    """

    def __init__(
        self, hot: Hot, place: int, *, is_locked: bool = False, known: Mapping[str, str] = _NO_NAMES
    ) -> None:
        self.hot = hot
        self.place = place
        self._names = _Names(f"_{place}", known)
        self.lock = self.text(hot.lock) if is_locked and hot.lock is not None else None
        self.holds = self.text("$holds")

    def text(self, statement: str) -> str:
        return Template(statement).substitute(self._names)

    def plain(self, statements: Iterable[str]) -> list[str]:
        return [self.text(each) for each in statements]

    def texts(self, statements: Iterable[str]) -> list[str]:
        if self.lock is None:
            return self.plain(statements)
        return locked.under(self.lock, [(self.text(each), isinstance(each, Unlocked)) for each in statements])

    @property
    def release(self) -> list[str]:
        return self._ending(self.hot.release)

    @property
    def good(self) -> list[str]:
        return self.texts(self.hot.good) if self.hot.release else self._ending(self.hot.good)

    @property
    def in_the_end(self) -> list[str]:
        """What is done if a call that ended well was interrupted while something is still held."""
        if not self.hot.take:
            return []
        return self.release or (self.texts(self.hot.let_go) if self.hot.good else [])

    def _ending(self, statements: Iterable[str]) -> list[str]:
        is_held = self.lock is not None and self.hot.take and statements
        return self.texts(("$holds = False", *statements) if is_held else statements)

    @property
    def token(self) -> str:
        return self.text(self.hot.token or "None")


class _Names(dict[str, str]):
    """Every name with the policy's own ending, but for those that are *known* by another."""

    def __init__(self, ending: str, known: Mapping[str, str]) -> None:
        super().__init__(known)
        self._ending = ending

    def __missing__(self, name: str) -> str:
        return name + self._ending
