"""
How long to wait before each retry.

A *backoff* is a frozen value that any number of calls may share, such as ``full_jitter(base=0.05)``. A call
that must retry asks it to `start`, which returns the *delays* of that one call: those may remember what they
said before. Nothing here waits or rolls dice: chance comes in as a draw from [0, 1), fresh for each delay.

    constant              the same delay every time
    linear                base, base + step, base + 2 step, ...
    exponential           base, base x factor, base x factor^2, ...
    sequence              delays given one by one
    full_jitter           anywhere between nothing and the exponential delay; the default of the package
    equal_jitter          half of the exponential delay for certain, the other half by chance
    proportional_jitter   a share more or less than a delay without chance (gRPC, Polly)
    decorrelated_jitter   anywhere between the base and three times the last delay (AWS)
    smooth_jitter         exponential without steps (Polly's "decorrelated jitter v2")
    computed              whatever a function of yours returns

A delay is finite and never longer than `LONGEST`, whatever the number of the retry. It is capped first and
jittered then, so that clients at the cap do not all come back at once; where a published formula does it the
other way round, its docstring says so.
"""

from resilience.backoff._computed import DelayFunction, as_backoff, computed, is_backoff
from resilience.backoff._decorrelated import decorrelated_jitter, smooth_jitter
from resilience.backoff._hint import RETRY_AFTER_WINDOW, honour
from resilience.backoff._jittered import equal_jitter, full_jitter, proportional_jitter
from resilience.backoff._plain import constant, exponential, linear, sequence
from resilience.backoff._schedule import BASE, CAP, LONGEST, Backoff, Delays

__all__ = [
    "BASE",
    "CAP",
    "LONGEST",
    "RETRY_AFTER_WINDOW",
    "Backoff",
    "DelayFunction",
    "Delays",
    "as_backoff",
    "computed",
    "constant",
    "decorrelated_jitter",
    "equal_jitter",
    "exponential",
    "full_jitter",
    "honour",
    "is_backoff",
    "linear",
    "proportional_jitter",
    "sequence",
    "smooth_jitter",
]
