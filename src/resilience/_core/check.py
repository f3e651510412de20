"""Checking settings, so that one error lists every problem."""

import math
from collections.abc import Iterable
from typing import TypeGuard, cast

from resilience.errors import ConfigError, Problem


class Check:
    """
    Collect what is wrong with a set of settings; `done` raises it all at once.

    Every rule is stated as what must hold, so that NaN breaks it. A bool is not a number here.
    """

    __slots__ = ("problems", "subject")

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.problems: list[Problem] = []

    def that(self, holds: object, setting: str, value: object, rule: str) -> bool:
        """Note a problem unless *holds*; say whether it holds."""
        if not holds:
            self.problems.append(Problem(setting, value, rule))
        return bool(holds)

    def seconds(self, setting: str, value: object, *, zero: bool = False, optional: bool = False) -> bool:
        """Require a finite length of time above zero, or from zero if *zero*."""
        if value is None and optional:
            return True
        holds = is_finite(value) and (value >= 0 if zero else value > 0)
        bound = ">= 0" if zero else "> 0"
        rule = f"must be a finite number of seconds {bound}" + (" or None" if optional else "")
        return self.that(holds, setting, value, rule)

    def ratio(self, setting: str, value: object, *, zero: bool = False, optional: bool = False) -> bool:
        """Require a share in (0, 1], or in [0, 1] if *zero*."""
        if value is None and optional:
            return True
        holds = is_finite(value) and (0 <= value if zero else 0 < value) and value <= 1
        rule = f"must be a number in {'[' if zero else '('}0, 1]" + (" or None" if optional else "")
        return self.that(holds, setting, value, rule)

    def whole(
        self,
        setting: str,
        value: object,
        *,
        at_least: int = 1,
        at_most: int | None = None,
        optional: bool = False,
    ) -> bool:
        """Require a whole number of at least *at_least*, and of at most *at_most* if that is given."""
        if value is None and optional:
            return True
        holds = isinstance(value, int) and not isinstance(value, bool) and value >= at_least
        holds = holds and (at_most is None or cast("int", value) <= at_most)
        bound = "" if at_most is None else f" and <= {at_most}"
        rule = f"must be a whole number >= {at_least}{bound}" + (" or None" if optional else "")
        return self.that(holds, setting, value, rule)

    def number(
        self,
        setting: str,
        value: object,
        *,
        above: float | None = None,
        at_least: float | None = None,
        at_most: float | None = None,
    ) -> bool:
        """Require a finite number within the bounds given."""
        holds = (
            is_finite(value)
            and (above is None or value > above)
            and (at_least is None or value >= at_least)
            and (at_most is None or value <= at_most)
        )
        bounds = [(">", above), (">=", at_least), ("<=", at_most)]
        stated = " and ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)
        return self.that(holds, setting, value, f"must be a finite number {stated}".rstrip())

    def flag(self, setting: str, value: object) -> bool:
        """Require True or False."""
        return self.that(isinstance(value, bool), setting, value, "must be True or False")

    def include(self, problems: Iterable[Problem]) -> None:
        """Take over problems found elsewhere."""
        self.problems.extend(problems)

    def done(self) -> None:
        """
        End the check.

        Raises:
            ConfigError: At least one problem was noted.

        """
        if self.problems:
            raise ConfigError(self.subject, self.problems)


def is_finite(value: object) -> TypeGuard[float]:
    """Whether *value* is a real number, neither NaN, infinite nor a bool."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False
