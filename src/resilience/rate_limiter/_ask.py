"""What a call asks of a rate limiter, and what is wrong with what was asked for by hand."""

from collections.abc import Hashable
from typing import NamedTuple

from resilience._core.check import is_finite
from resilience.errors import shown
from resilience.typing import Seconds


class Ask(NamedTuple):
    """What a call asks for: so many permits of so and so."""

    permits: int = 1
    key: Hashable = None


ANY = Ask()


def check_permits(name: str, permits: object, most: int) -> None:
    """
    Require a number of permits that can be had.

    Raises:
        ValueError: It is no whole number from 1 to *most*.

    """
    if not isinstance(permits, int) or isinstance(permits, bool) or not 1 <= permits <= most:
        raise impossible(name, permits, most)


def impossible(name: str, permits: object, most: int) -> ValueError:
    """Return the error of one who asks for what can never be had."""
    rule = f"must be a whole number from 1 to {most}, the burst of {name!r}"
    return ValueError(f"permits {rule}, got {shown(permits)}")


def check_key(name: str, key: object, *, keyed: bool) -> None:
    """
    Require a key where keys are kept apart, and none elsewhere.

    Raises:
        TypeError: There is one too many or too few, or it is not hashable.

    """
    if not keyed:
        if key is not None:
            msg = f"{name!r} was made without key= and keeps no keys apart, got key={shown(key)}"
            raise TypeError(msg)
        return
    if key is None:
        msg = f"{name!r} keeps keys apart: say which with key="
        raise TypeError(msg)
    check_hashable(key, f"key of {name!r} must be hashable, got {shown(key)}")


def check_hashable(key: object, message: str) -> None:
    """
    Require a key that a dictionary takes.

    Raises:
        TypeError: It is not hashable, which *message* says.

    """
    try:
        hash(key)
    except TypeError as error:
        raise TypeError(message) from error


def check_wait(max_wait: object) -> Seconds:
    """
    Return how long to wait, which must be a length of time.

    Raises:
        ValueError: It is no finite number of at least 0.

    """
    if not is_finite(max_wait) or max_wait < 0:
        msg = f"max_wait must be a finite number of seconds >= 0 or None, got {shown(max_wait)}"
        raise ValueError(msg)
    return max_wait
