"""
Where this package is deliberately not like the reference vectors: one table, with reasons.

A whole algorithm may be *not shipped*; its vectors are skipped, and as soon as it has an adapter its row
here fails the tests. A single step *differs* where the reference does
something that is not to be copied; it is replayed all the same, must differ, and must do what the
row says instead. A single key of all vectors of an algorithm is reported but not compared. Whatever
is not in this table must hold.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class Kind(enum.Enum):
    """Why a vector does not hold."""

    NOT_SHIPPED = "not shipped"
    DIFFERS = "differs"


@dataclass(frozen=True, slots=True)
class Exemption:
    """
    One row of the table.

    Attributes:
        where: An algorithm; one step of a vector, counted from 1: ``algorithm/name#3``; or one key
            of what an algorithm reports: ``algorithm:key``.
        kind: Why.
        reason: Why, in words.
        ours: For a step that differs, what it reports instead.

    """

    where: str
    kind: Kind
    reason: str
    ours: Mapping[str, Any] = field(default_factory=dict)


def not_shipped(reason: str, *algorithms: str) -> list[Exemption]:
    """Return the rows of algorithms that this package does without."""
    return [Exemption(algorithm, Kind.NOT_SHIPPED, reason) for algorithm in algorithms]


def differs(reason: str, vector: str, steps: Mapping[int, Mapping[str, Any]]) -> list[Exemption]:
    """Return the rows of the steps of one vector that differ for one reason."""
    return [Exemption(f"{vector}#{step}", Kind.DIFFERS, reason, ours) for step, ours in steps.items()]


EXCEPTIONS: tuple[Exemption, ...] = (
    # Retry quotas and budgets
    *differs(
        "AWS gives back the last charge only, so that a call that needed two retries and succeeded has paid for"
        " one of them for good; here a call that ends well gets all its charges back.",
        "aws_standard_quota/v21_quota_recovery",
        {3: {"available": 30}, 5: {"available": 16}, 6: {"available": 30}},
    ),
    *differs(
        "A bucket that can never pay for an attempt is refused when it is set up: no retries are attempts=1.",
        "aws_standard_quota/v20_zero_quota",
        {1: {"error": True, "ok": False}},
    ),
    *differs(
        "The reserve is a floor that fills by time, instead of a debt that lives for the ttl in slices which"
        " re-anchor at each call and then last four seconds instead of three.",
        "leaky_token_bucket/reserve_debt_persists_ttl",
        {6: {"ok": True}, 7: {"ok": True}, 8: {"ok": True}},
    ),
    *differs(
        "The share is compared before the new attempt is added, as failsafe-go does, which allows one attempt"
        " more than Envoy wherever the share decides.",
        "envoy_retry_budget/max_formula",
        {2: {"max": 4}, 3: {"max": 4}, 4: {"max": 5}, 5: {"max": 21}},
    ),
    Exemption(
        "tower_tps_budget:effective_percent",
        Kind.DIFFERS,
        "Tower truncates 1 / percent to a whole number, so that 0.75 means all of them; here a ratio is what it says.",
    ),
    # Breaker windows and trip rules
    *not_shipped(
        "A moving average weighted by time hides a tight burst of failures; the circuit counts an exact ratio.",
        "ema_success_rate",
    ),
    # Client-side throttling and load shedding
    *differs(
        "The exponent of Envoy's formula has no counterpart: k alone says how eagerly AdaptiveThrottle sheds.",
        "envoy_admission_control/formula",
        {3: {"p": 0.4995004995004995}},
    ),
    *not_shipped(
        "For servers that see their own CPU load; a client has no such signal about its dependency.",
        "bbr_limit",
    ),
    *not_shipped(
        "A full queue refuses and one that is not full admits: waiting is bounded by max_queue and max_wait.",
        "queue_rejection",
    ),
    # Concurrency limits
    *differs(
        "A window in which at least half of the calls were dropped is cut from what was in flight, here from"
        " less than one call, and not from a limit that nobody reached.",
        "aimd_limit/decrease_on_drop",
        {1: {"limit": 20}},
    ),
    *not_shipped(
        "A second Vegas with another baseline; limits.Vegas follows Netflix, whose variant is wider known.",
        "vegas_baseline_limiter",
    ),
    # Rate limiting
    *differs(
        "Failsafe moves a permit to a multiple of the interval, so that two may be next to nothing apart; here"
        " every two are an interval apart.",
        "smooth_limiter/200ms",
        {3: {"wait_ms": 200, "next_free_ms": 2610}},
    ),
    *differs(
        "A refused request takes nothing: gubernator's DRAIN_OVER_LIMIT, which punishes it with what was left,"
        " has no counterpart.",
        "fixed_reset_bucket/gub_drain_over_limit",
        {3: {"remaining": 9, "status": "OVER"}, 4: {"remaining": 9, "status": "UNDER"}},
    ),
    *not_shipped(
        "An estimate from two fixed windows, which may admit up to twice the limit and refuse what the exact rule"
        " admits; the sliding window remembers each permit.",
        "sliding_window_counter",
    ),
    *not_shipped(
        "Permits that come in bundles let up to twice the limit pass within one period; the rate limiter's GCRA"
        " keeps burst + rate * time for every length of time.",
        "bursty_limiter",
        "cycle_limiter",
    ),
    *not_shipped(
        "The server's side of a quota shared by lease; shared rate limits here live in a store.",
        "lease_share",
    ),
)
