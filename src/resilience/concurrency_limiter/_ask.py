"""What a call asks of a limiter with shares, and what is wrong with what was asked for by hand."""

from collections.abc import Hashable
from typing import NamedTuple

from resilience.errors import shown


class Ask(NamedTuple):
    """
    What a call asks for: a place out of the share of *key*.

    Attributes:
        key: Whose share, or None for what is common to all.
        rank: Class of its priority, from 0 for the one that comes first.

    """

    key: Hashable
    rank: int


def check_hashable(name: str, source: str, key: object) -> None:
    """
    Require a key that a dictionary takes; *source* says where it comes from.

    Raises:
        TypeError: It is not hashable.

    """
    try:
        hash(key)
    except TypeError as error:
        msg = f"{source} of {name!r} must be hashable, got {shown(key)}"
        raise TypeError(msg) from error
