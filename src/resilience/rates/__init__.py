"""
Rates that learn: how many calls may start per second, found out from how calls end.

Give one as ``rate=`` to a `RateLimiter` in place of a number. Nothing here reads a clock or waits.

    Cubic     no limit until the server throttles, then CUBIC: AWS SDKs in adaptive mode
    Aimd      a little more each second, a share less when throttled
    Fixed     learns nothing, for a limiter that shall only follow what the server says
    Rate      what you implement for a rule of your own

`parse_ratelimit` reads what a server says about its rate in the headers of an answer.
"""

from resilience.rates._aimd import Aimd
from resilience.rates._cubic import Cubic
from resilience.rates._headers import Quota, RateLimitFields, Remaining, parse_ratelimit
from resilience.rates._rate import Fixed, Rate, RateSample

__all__ = [
    "Aimd",
    "Cubic",
    "Fixed",
    "Quota",
    "Rate",
    "RateLimitFields",
    "RateSample",
    "Remaining",
    "parse_ratelimit",
]
