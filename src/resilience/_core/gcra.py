"""
Arithmetic of GCRA, the generic cell rate algorithm: a token bucket whose whole state is one number.

**Time in permits.** Instants are not compared in seconds but on a *permit clock*, which advances by
one per permit::

    t = now * rate + shift

The state is `tat`, the theoretical arrival time: where on that clock the next permit would lie if
permits were asked for evenly. ``tat - t`` permits are owed; nothing is owed while ``tat <= t``. A
request for n is admitted if ``tat - t <= burst - n``, and moves ``tat`` to ``max(tat, t) + n``.

This is one line of float work without a call, and so needs no lock where an interpreter switches
threads only at calls and loops. Generated code may write it out for one permit (``room`` is
``burst - 1`` and a tie's width)::

    m.tat = x = t + 1 if (s := m.tat) <= (t := now * m.rate + m.shift) else s + 1 if s - t <= m.room else s
    if s - t > m.room: ...                      # refused: ask admit()

**Why floats, and why permits.** In seconds each admission would add ``1 / rate``, rounded to the
clock's resolution: for a tenth of a second always in the same direction, so that the error grows
with every permit and a full bucket may come out one short. Here n is added, a whole number, which is
exact: the only rounding is that of the reading ``now * rate + shift``, and it does not add up. The
bound that holds, for every rate and any number of permits, is ::

    admitted within w <= burst + rate * (w + TIE + 4 ulp)

where ``ulp`` is the step between floats at ``now``, or at ``burst / rate`` seconds if that is more: 0.1 ns
twelve days after a machine was started, 4 ns after a year. Whole nanoseconds would give no better bound,
cannot express a third of a second, and have to be converted to, which costs as much as the line itself.

**Ties.** A shortfall below `TIE` counts as none, or three steps of 0.1 s would not make 0.3 s. It is
granted once, not once a permit, because the whole permit is still added to ``tat``. It is less than
a thousandth of a permit, so that a clock that stands still admits nothing extra.

**Clocks.** Shifting the permit clock is how a permit is given back (the clock goes on by what was
given back) and how a rate changes (the clock goes on from where it is, at another speed). ``tat``
itself is only moved by those who take permits, and by the last of them giving its own back.
"""

import math
from typing import Final

from resilience.typing import Seconds

TIE: Final[Seconds] = 2.0**-24
"""Shortfall in seconds that counts as none: 60 ns. Longer than what rounding adds to some hundred
steps of a clock, shorter than any call. Source: smithy-rs, which spun on waits below 1 ns."""

TIE_PERMITS: Final = 2.0**-10
"""Most of one permit that a tie may be worth."""


def tie(rate: float) -> float:
    """Return what share of one permit counts as none, at *rate* permits per second."""
    return min(TIE * rate, TIE_PERMITS)


def wait(tat: float, room: float, now: Seconds, rate: float, shift: float) -> Seconds:
    """
    Return the seconds until no more than *room* permits are owed. Exact.

    Exact means: a request that is told ``now + seconds`` is admitted, as that sum comes out in
    floats; and one that comes some steps of the clock before it is not.

    Args:
        tat: Where the next permit would lie, on the permit clock.
        room: Permits that may be owed.
        now: Instant from which the seconds count.
        rate: Permits per second.
        shift: Permits by which the permit clock is ahead of ``now * rate``.

    """
    seconds = max(0.0, (tat - (now * rate + shift) - room) / rate)
    # Rounding, by a few steps at most. A step is one of the coarsest number on the way, which near an instant
    # of 0 is not the instant. It doubles, so that there is an end whatever the numbers.
    step = math.ulp(max(abs(now), seconds, abs(shift) / rate))
    while tat - ((now + seconds) * rate + shift) > room:
        seconds += step
        step += step
    return seconds


def unspent(end: float, t: float, n: float) -> float:
    """Return how many of *n* permits that lie just before *end* the clock has not reached at *t*."""
    left = end - t
    return 0.0 if left <= 0 else min(left, float(n))
