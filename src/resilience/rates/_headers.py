"""What a server says about its rate in the headers of an answer."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from resilience.rates._dates import parse_date
from resilience.rates._structured import Bare, parse_list
from resilience.typing import Seconds

EPOCH: Final = 1e9
"""A reset above this is seconds since 1970, not seconds from now: nobody means to wait 31 years."""

EPOCH_MILLISECONDS: Final = 1e12
"""A reset above this is milliseconds since 1970."""

_NUMBER = re.compile(r"\d{1,15}(?:\.\d{1,9})?", re.ASCII)
_OLD_WINDOW = re.compile(r";[ \t]*w=(\d{1,15})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Remaining:
    """
    One item of a ``RateLimit`` field.

    Attributes:
        name: Name of the policy that it is about.
        remaining: Requests left, >= 0.
        reset_after: Seconds until there are more, >= 0, or None.

    """

    name: str
    remaining: int
    reset_after: Seconds | None


@dataclass(frozen=True, slots=True)
class Quota:
    """
    One item of a ``RateLimit-Policy`` field.

    Attributes:
        name: Name of the policy.
        quota: How much may be used within the window, >= 0.
        window: Seconds of the window, > 0, or None.
        unit: What is counted: ``requests``, ``content-bytes`` or ``concurrent-requests``.

    """

    name: str
    quota: int
    window: Seconds | None
    unit: str = "requests"


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitFields:
    """
    What a server says about its rate, as plain values. Falsy if it said nothing that could be read.

    Attributes:
        limits: Items of ``RateLimit``, else what an older field says, under the name ``""``.
        policies: Items of ``RateLimit-Policy``, else what an older field says, under the name ``""``.
        retry_after: Seconds of ``Retry-After``, or None.

    """

    limits: tuple[Remaining, ...] = ()
    policies: tuple[Quota, ...] = ()
    retry_after: Seconds | None = None

    def __bool__(self) -> bool:
        return bool(self.limits or self.policies or self.retry_after is not None)

    @property
    def pause(self) -> Seconds | None:
        """
        Seconds to stay away, or None if calls may go on.

        Those of ``Retry-After``, which takes precedence; else those until the reset, if nothing is left.
        """
        if self.retry_after is not None:
            return self.retry_after
        return max((limit.reset_after or 0.0 for limit in self.limits if not limit.remaining), default=None)

    @property
    def terms(self) -> dict[str, float | None]:
        """The strictest of them, as the arguments of `RateLimiter.follow`."""
        unit = {policy.name: policy.unit for policy in self.policies}
        paces = [
            (limit.remaining / limit.reset_after, -limit.reset_after, limit)
            for limit in self.limits
            if limit.reset_after and unit.get(limit.name, "requests") == "requests"
        ]
        rates = [
            (policy.quota / policy.window, policy)
            for policy in self.policies
            if policy.window and policy.unit == "requests"
        ]
        limit = min(paces, key=lambda pace: pace[:2])[2] if paces else None
        policy = min(rates, key=lambda rate: rate[0])[1] if rates else None
        return {
            "remaining": None if limit is None else limit.remaining,
            "reset_after": None if limit is None else limit.reset_after,
            "quota": None if policy is None else policy.quota,
            "window": None if policy is None else policy.window,
        }


def parse_ratelimit(headers: Mapping[str, str], *, wall: Seconds | None = None) -> RateLimitFields:
    """
    Read what a server says about its rate in the headers of an answer.

    Read are ``RateLimit`` and ``RateLimit-Policy`` (draft-ietf-httpapi-ratelimit-headers), ``Retry-After``,
    and, where the former are missing, the older ``RateLimit-Limit``, ``-Remaining`` and ``-Reset``, also
    with ``X-`` before them. A field that is malformed is ignored. A reset above 1e9 is an instant; a date may
    have any of the three forms of RFC 9110. Both are taken relative to the answer's ``Date``, else to *wall*,
    else they are ignored.

    Args:
        headers: Names, in upper or lower case, and texts.
        wall: The time now, in seconds since 1970, or None.

    Example:
        >>> fields = parse_ratelimit({"RateLimit": '"default";r=50;t=30'})
        >>> fields.limits
        (Remaining(name='default', remaining=50, reset_after=30.0),)

    """
    texts = {name.lower(): text for name, text in headers.items()}
    date = parse_date(texts.get("date", ""), wall)
    wall = wall if date is None else date
    limits = _limits(texts.get("ratelimit"))
    policies = _policies(texts.get("ratelimit-policy"))
    for prefix in ("ratelimit", "x-ratelimit", "x-rate-limit"):
        if not limits:
            limits = _old_limit(texts, prefix, wall)
        if not policies:
            policies = _old_policy(texts.get(f"{prefix}-limit", ""))
    retry_after = _retry_after(texts.get("retry-after", "").strip(), wall)
    return RateLimitFields(limits=limits, policies=policies, retry_after=retry_after)


def _limits(text: str | None) -> tuple[Remaining, ...]:
    try:
        return tuple(
            Remaining(name, _whole(given["r"]), float(_whole(given["t"])) if "t" in given else None)
            for name, given in parse_list(text or "")
        )
    except (ValueError, KeyError):
        return ()


def _policies(text: str | None) -> tuple[Quota, ...]:
    try:
        return tuple(
            Quota(
                name,
                _whole(given["q"]),
                float(_whole(given["w"], 1)) if "w" in given else None,
                str(given.get("qu", "requests")),
            )
            for name, given in parse_list(text or "")
        )
    except (ValueError, KeyError):
        return ()


def _whole(value: Bare, least: int = 0) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(value)
    return value


def _old_limit(texts: Mapping[str, str], prefix: str, wall: Seconds | None) -> tuple[Remaining, ...]:
    remaining = _number(texts.get(f"{prefix}-remaining", ""))
    if remaining is None:
        return ()
    reset = _number(texts.get(f"{prefix}-reset", ""))
    if reset is not None and reset > EPOCH:
        at = reset / 1000 if reset > EPOCH_MILLISECONDS else reset
        reset = None if wall is None else max(0.0, at - wall)
    return (Remaining("", int(remaining), reset),)


def _old_policy(text: str) -> tuple[Quota, ...]:
    quota = _number(text.partition(",")[0].partition(";")[0])
    window = _OLD_WINDOW.search(text)
    return () if quota is None else (Quota("", int(quota), float(window[1]) if window else None),)


def _retry_after(text: str, wall: Seconds | None) -> Seconds | None:
    seconds = _number(text)
    if seconds is None and wall is not None and (at := parse_date(text, wall)) is not None:
        return max(0.0, at - wall)
    return seconds


def _number(text: str) -> float | None:
    text = text.strip()
    return float(text) if _NUMBER.fullmatch(text) else None
