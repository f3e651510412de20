"""What may be set on a layer of idempotency."""

from dataclasses import dataclass
from typing import Final, Literal

from resilience._core.check import Check
from resilience.typing import Seconds

ON_ERROR: Final = ("release", "hold")
ON_LEASE_EXPIRY: Final = ("takeover", "hold")


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencySettings:
    """
    How long a key is kept, and what becomes of it when the work does not come to an end.

    Raises:
        ConfigError: At least one setting cannot work; every problem is listed.

    """

    ttl: Seconds = 86_400.0
    """Seconds for which a result is kept, counted from when the work ended: > 0. Default 86 400, a day.
    Source: Stripe, which keeps keys for 24 hours at least."""

    lease: Seconds = 60.0
    """Seconds for which nobody takes a key over whose owner is not heard of: > 0. Default 60.0. Source: own,
    of the order of the 90 s of Brandur's rocket-rides; renewal lets it be shorter than the work."""

    renew: bool = True
    """Whether the lease is renewed, every third of it, while the work goes on. Default True. Source: own."""

    wait_for: Seconds = 0.0
    """Seconds to wait for the result of a call with the same key that is in progress: >= 0. Default 0.0,
    which is an error at once. Source: the IETF draft, which answers 409."""

    on_error: Literal["release", "hold"] = "release"
    """What becomes of the key when the work raises or is cancelled. ``"release"``, the default, lets the next
    call do the work again: at least once. ``"hold"`` lets nobody, until an operator or *ttl* decides: at most
    once. Source: own; most implementations release."""

    on_lease_expiry: Literal["takeover", "hold"] | None = None
    """What becomes of the key when its owner is gone: ``"takeover"`` lets the next call with the same request
    do the work again, ``"hold"`` nobody. Default None: takeover with ``on_error="release"``, else hold, since
    a crash would otherwise repeat what an error must not. With ``on_error="hold"`` and takeover, an error
    holds the key for the rest of its lease. Source: own."""

    fail_open: bool = False
    """Whether the work is done without protection where the store fails. Default False: it is not done.
    Source: own; a key is sent because doing it twice is worse."""

    max_value_bytes: int = 262_144
    """Longest result that is kept, in bytes with its envelope: >= 1. Of a longer one it is only kept that the
    work is done. Default 262 144. Source: Granit's limit of 256 KiB."""

    required: bool = True
    """Whether a call without a key is an error; if not, it is made without protection. Default True. Source:
    the IETF draft, for operations that document a key."""

    def __post_init__(self) -> None:
        check = Check("Idempotency")
        check.seconds("ttl", self.ttl)
        check.seconds("lease", self.lease)
        check.flag("renew", self.renew)
        check.seconds("wait_for", self.wait_for, zero=True)
        known = self.on_error in ON_ERROR
        check.that(known, "on_error", self.on_error, f"must be one of {', '.join(ON_ERROR)}")
        known = self.on_lease_expiry is None or self.on_lease_expiry in ON_LEASE_EXPIRY
        rule = f"must be one of {', '.join(ON_LEASE_EXPIRY)} or None"
        check.that(known, "on_lease_expiry", self.on_lease_expiry, rule)
        check.flag("fail_open", self.fail_open)
        check.whole("max_value_bytes", self.max_value_bytes)
        check.flag("required", self.required)
        check.done()

    @property
    def takeover(self) -> bool:
        """Whether a lease that ran out lets the next call do the work."""
        if self.on_lease_expiry is None:
            return self.on_error == "release"
        return self.on_lease_expiry == "takeover"
